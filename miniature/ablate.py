"""`python -m miniature.ablate --output DIR`: what each part of InstantID contributes, as plots.

Strength of the Image Adapter against that of IdentityNet, as in the paper's appendix: where one is
0 the other works alone, where both are, the text does. And photos of the person: one to five, and
none, where ID tokens are those of nobody and only the keypoints are given. On people that nothing
learned from; the figures are those of `python -m miniature.evaluate`.
"""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import tyro

from instantid_jax.cli.entry import entry
from instantid_jax.cli.outputs import check_folder
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.request import Settings
from instantid_jax.request.checks import check_whole
from miniature.evaluation.generation import SAMPLING, Model, make_pictures
from miniature.evaluation.held_out import HeldOut

SHOWN = {
    "similarity_margin": "similarity to the person, less that to others",
    "rank1": "identified among all",
    "keypoint_error": "keypoint error, picture widths",
    "caption_accuracy": "style and background as named",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is varied, on how many.

    Attributes:
      output: a folder, for `ablation.json` and the plots.
      identities: people.
      seed: another seed is other people.
      adapter: strengths of the adapter.
      identitynet: strengths of IdentityNet.
      photos: up to so many of each person.
      sampling: of the images.
      batch: images made at a time.
    """

    output: Path
    identities: int = 200
    seed: int = 1
    adapter: tuple[float, ...] = (0.0, 0.5, 0.8, 1.5)
    identitynet: tuple[float, ...] = (0.0, 0.5, 0.8, 1.5)
    photos: int = 5
    model: Model = Model()
    sampling: Settings = SAMPLING
    batch: int = 20


def main() -> None:
    with entry("ablate"):
        ablate(tyro.cli(Options, description=__doc__))


def ablate(options: Options) -> None:
    """Makes and scores all pictures, then writes figures and plots.

    Raises:
      InputError: if there are fewer than two people, no photo or no strength, or nothing can be
        written.
    """
    if options.identities < 2 or options.photos < 1:
        raise InputError(
            f"--identities {options.identities} --photos {options.photos}: expected 2 and 1 up"
        )
    if not options.adapter or not options.identitynet:
        raise InputError("--adapter and --identitynet: expected one strength or more of each")
    check_whole("seed", options.seed, 0, 2**32 - 1)
    check_whole("batch", options.batch, 1, 1024)
    of_scales = [
        {"ip_adapter_scale": adapter, "controlnet_conditioning_scale": identitynet}
        for adapter, identitynet in itertools.product(options.adapter, options.identitynet)
    ]
    for scales in ({}, *of_scales):
        dataclasses.replace(options.sampling, **scales)  # Checks them.
    check_folder(options.output)
    pipe = options.model.load()
    held_out = HeldOut(
        options.identities, options.seed, options.model.face_pack, photos=options.photos
    )

    # The sampling's own strengths stand in both plots.
    @functools.cache
    def figures(sampling: Settings, photos: int) -> dict[str, float]:
        made = make_pictures(
            pipe, held_out, sampling, options.seed, batch=options.batch, photos=photos
        )
        return held_out.score(made)

    told = {
        "identities": options.identities,
        "seed": options.seed,
        "sampling": options.sampling.to_json(),
        "scales": [s | figures(dataclasses.replace(options.sampling, **s), 1) for s in of_scales],
        "photos": [{"photos": n} | figures(options.sampling, n) for n in range(options.photos + 1)],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "ablation.json", told)
    _plot_scales(told["scales"], options)
    _plot_photos(told["photos"], options.output / "photos.png")


def _plot_scales(rows: list[dict[str, float]], options: Options) -> None:
    plt = _pyplot()
    shape = len(options.adapter), len(options.identitynet)
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(4 * len(SHOWN), 4), layout="constrained")
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=True):
        grid = np.array([row[name] for row in rows]).reshape(shape)
        # On each of its colours black is legible.
        axis.imshow(grid, origin="lower", cmap="Wistia")
        for i, j in np.ndindex(shape):
            axis.text(j, i, f"{grid[i, j]:.3g}", ha="center", va="center")
        axis.set(title=title, xlabel="IdentityNet", ylabel="Image Adapter")
        axis.set_xticks(range(shape[1]), options.identitynet)
        axis.set_yticks(range(shape[0]), options.adapter)
    figure.savefig(options.output / "scales.png", dpi=80, bbox_inches="tight")
    plt.close(figure)


def _plot_photos(rows: list[dict[str, float]], path: Path) -> None:
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    for name in ("rank1", "similarity_margin"):
        axis.plot([row["photos"] for row in rows], [row[name] for row in rows], "o-", label=name)
    axis.set(xlabel="photos of the person", xticks=[row["photos"] for row in rows])
    axis.legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _pyplot():
    """matplotlib without a display; slow to import."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


if __name__ == "__main__":
    main()
