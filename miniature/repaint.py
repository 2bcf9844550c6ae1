"""`python -m miniature.repaint --output DIR`: paints other people's faces into drawn portraits.

Each held-out person is painted into the portrait of another, inside the mask of that one's face.
The judge says how many are identified, next to pictures of the same people from text alone. Writes
`repaint.json` and a sheet of pictures.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from instantid_jax.cli.entry import entry
from instantid_jax.cli.outputs import check_folder
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.json_files import write_json
from instantid_jax.request import Request, Settings
from instantid_jax.request.checks import check_number, check_whole
from instantid_jax.request.settings import SEEDS
from miniature.evaluation.generation import SAMPLING, Model, make_pictures, run_all
from miniature.evaluation.held_out import HeldOut
from miniature.evaluation.plots import pyplot

SHOWN = 6
BATCH = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the measurement.

    Attributes:
      output: folder for `repaint.json` and `repaint.jpg`.
      identities: number of people.
      seed: selects the people.
      grow: what the sides of the faces' boxes are multiplied by.
      sampling: sampling settings.
    """

    output: Path
    identities: int = 200
    seed: int = 0
    grow: float = 1.3
    model: Model = Model()
    sampling: Settings = SAMPLING


def main() -> None:
    with entry("repaint"):
        measure(tyro.cli(Options, description=__doc__))


def measure(options: Options) -> None:
    """Paints, scores and writes figures and the sheet.

    Raises:
      InputError: if there are fewer than `SHOWN` people, or the output cannot be written.
    """
    check_whole("identities", options.identities, SHOWN, 10**6)
    check_whole("seed", options.seed, 0, 2**32 - 1)
    check_number("grow", options.grow, 0.5, 10)
    check_folder(options.output)
    pipe = options.model.load()
    held_out = HeldOut(options.identities, options.seed, options.model.face_pack)
    from_text = make_pictures(pipe, held_out, options.sampling, options.seed, batch=BATCH)
    # Everybody in the portrait of the next, as its caption describes it.
    others = [case.photos[0] for case in [*held_out.cases[1:], held_out.cases[0]]]
    portraits = [other.image for other in others]
    analyzer = FaceAnalyzer(options.model.face_pack)
    shown = [analyzer.analyze(portrait) for portrait in portraits]
    masks = [face.mask(options.grow) for face in shown]
    requests = [
        Request(
            other.caption,
            face=faces[0],
            pose=pose,
            image=other.image,
            mask_image=Image.fromarray(mask),
            **options.sampling.values(seed=(options.seed + i) % SEEDS),
        )
        for i, (other, faces, pose, mask) in enumerate(
            zip(others, held_out.faces, shown, masks, strict=True)
        )
    ]
    painted = run_all(pipe, requests, BATCH)
    kept = [
        np.array_equal(np.asarray(image)[mask == 0], np.asarray(portrait.convert("RGB"))[mask == 0])
        for image, portrait, mask in zip(painted, portraits, masks, strict=True)
    ]
    names = ("rank1", "similarity_margin", "detection_rate")
    scores = {"from_text": held_out.score(from_text), "repainted": held_out.score(painted)}
    options.output.mkdir(parents=True, exist_ok=True)
    report = {
        "identities": options.identities,
        "seed": options.seed,
        "grow": options.grow,
        "sampling": options.sampling.to_json(),
        "masked": float(np.mean([(mask > 0).mean() for mask in masks])),
        "unchanged_outside": float(np.mean(kept)),
    }
    report |= {kind: {name: score[name] for name in names} for kind, score in scores.items()}
    write_json(options.output / "repaint.json", report)
    people = [case.photos[0].image for case in held_out.cases]
    _draw([people, portraits, [Image.fromarray(mask) for mask in masks], painted], options.output)


def _draw(rows: list[list[Image.Image]], output: Path) -> None:
    """A column for each person: photo, portrait of another, mask and result."""
    plt = pyplot()
    figure, axes = plt.subplots(
        len(rows), SHOWN, figsize=(2 * SHOWN, 2 * len(rows)), layout="constrained"
    )
    names = ("person", "portrait of another", "mask", "repainted")
    for row, pictures, name in zip(axes, rows, names, strict=True):
        row[0].set_ylabel(name)
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture, cmap="gray")
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(output / "repaint.jpg", dpi=80, pil_kwargs={"quality": 85})
    plt.close(figure)


if __name__ == "__main__":
    main()
