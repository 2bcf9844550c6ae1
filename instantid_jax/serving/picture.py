"""Pictures: the images of jobs at their steps, and the inputs of a batch of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from instantid_jax.diffusion.guidance import Guidance
from instantid_jax.pipeline.plan import Plan
from instantid_jax.pipeline.step import StepInputs
from instantid_jax.serving.job import Job
from instantid_jax.serving.pool import EVERY_SAMPLER, Arrival, Kind, Places


@dataclasses.dataclass(eq=False)
class Picture:
    """One image of a job.

    Attributes:
      job: that it belongs to; `index`: among its images.
      plan: that of a request for this image alone.
      arrival: what enters the pool; None once it has.
      place: where its state is in the pool.
      rows: where its conditions are in the pool, the negative ones first.
      step: how many it has taken.
    """

    job: Job
    index: int
    plan: Plan
    arrival: Arrival | None
    place: int = -1
    rows: tuple[int, ...] = ()
    step: int = 0

    @property
    def kind(self) -> Kind:
        plan = self.plan
        return Kind(
            plan.latent_shape,
            plan.text.length,
            plan.program.perturbed,
            freeu=plan.guidance.freeu is not None,
        )

    @property
    def count(self) -> int:
        """How many rows of the networks' batch it has.

        Perturbed rows follow all positive ones, so that there each picture has a pair.
        """
        return 2 if self.plan.program.perturbed else self.plan.program.halves

    @property
    def steps(self) -> int:
        return len(self.plan.samplers)

    @property
    def done(self) -> bool:
        return self.step == self.steps

    @property
    def previewed(self) -> bool:
        """Whether a preview follows the step that it has taken last."""
        wanted = self.job.previews
        marks = {(k + 1) * self.steps // (wanted + 1) for k in range(wanted)}
        return self.step in marks and not self.done


def batch_places(pictures: Sequence[Picture], size: int, pool: int) -> Places[np.ndarray]:
    """Lays pictures out in a batch.

    Args:
      pictures: all have one kind.
      size: rows of the batch.
      pool: how many places it has.
    """
    perturbed = bool(pictures[0].plan.program.perturbed)
    images = size // 2 if perturbed else size
    filled = [*pictures, *[pictures[0]] * (images - len(pictures))]
    written = [picture.place for picture in pictures]
    rows, seen = [], []
    negative, positive = np.zeros((2, images), np.int32)
    if perturbed:
        rows = [each.rows[0] for each in filled] + [each.rows[-1] for each in filled]
        seen = [*range(images), *range(images)]
        negative, positive = np.arange(size, dtype=np.int32).reshape(2, images)
    else:
        for k, picture in enumerate(pictures):
            negative[k], positive[k] = len(rows), len(rows) + len(picture.rows) - 1
            rows += picture.rows
            seen += [k] * len(picture.rows)
        # A row that nothing reads fills the batch.
        rows += rows[:1] * (size - len(rows))
        seen += [0] * (size - len(seen))
    return Places(
        pictures=np.array([each.place for each in filled], np.int32),
        written=np.array([*written, *[pool] * (images - len(written))], np.int32),
        rows=np.array(rows, np.int32),
        seen=np.array(seen, np.int32),
        negative=negative,
        positive=positive,
        seeds=np.array([each.plan.seeds[0] for each in filled], np.uint32),
        steps=np.array([each.step for each in filled], np.uint32),
    )


def batch_inputs(pictures: Sequence[Picture], places: Places[np.ndarray]) -> StepInputs[np.ndarray]:
    """The numbers of each picture's step, in the layout of `places`.

    Args:
      pictures: those that `places` were laid out for.
    """
    images = len(places.pictures)
    filled = [*pictures, *[pictures[0]] * (images - len(pictures))]
    each = [_numbers(picture) for picture in filled]
    # Rows that fill the batch take any half.
    halves = np.zeros(len(places.rows), np.int64)
    for row, picture in zip(places.positive, pictures, strict=False):
        halves[row] = picture.plan.program.halves - 1
    of_rows = [(each[k], half) for k, half in zip(places.seen, halves, strict=True)]
    freeu = None
    if each[0].freeu is not None:
        freeu = np.stack([numbers.freeu[:, 0] for numbers, _ in of_rows], axis=-1)
    signal, noise, released = (
        np.concatenate([n.kept[i] for n in each if n.kept is not None]) for i in range(3)
    )
    return StepInputs(
        row={
            name: np.array([numbers.row[name][0] for numbers in each])
            for name in EVERY_SAMPLER.neutral
        },
        timesteps=np.array([numbers.timesteps[0] for numbers, _ in of_rows]),
        guidance=Guidance(*map(np.concatenate, zip(*(n.guidance for n in each), strict=True))),
        residual_scales=np.stack([n.residual_scales[..., half] for n, half in of_rows], axis=-1),
        adapter_scales=np.array([numbers.adapter_scales[half] for numbers, half in of_rows]),
        noise=None,
        kept=(signal, noise, released),
        freeu=freeu,
    )


def _numbers(picture: Picture) -> StepInputs[np.ndarray]:
    """The numbers of a picture's next step, each [1], or of its one or two rows."""
    plan, i = picture.plan, picture.step
    row = {name: np.array([value], np.float32) for name, value in EVERY_SAMPLER.neutral.items()}
    return StepInputs(
        row=row | plan.samplers.row(i),
        timesteps=plan.samplers.timesteps[i],
        guidance=plan.guidance.row(i),
        residual_scales=plan.control.scales[i],
        adapter_scales=plan.adapter.windows[i],
        noise=None,
        kept=plan.start.kept.row(i),
        freeu=plan.guidance.freeu,
    )
