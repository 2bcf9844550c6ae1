"""`python -m miniature.ablate --output DIR`: plots the contribution of each part of InstantID.

Varies the strengths of the Image Adapter and of IdentityNet, as in the paper's appendix; 0 disables
a part. Also varies the number of photos of the person; with 0 photos, the ID tokens are those of
nobody and only the keypoints are given. Uses held-out people and the figures of
`python -m miniature.evaluate`.
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
from miniature.evaluation.plots import pyplot

SHOWN = {
    "similarity_margin": "similarity to the person minus that to others",
    "rank1": "identified among all",
    "keypoint_error": "keypoint error, picture widths",
    "caption_accuracy": "style and background as named",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Ablation settings.

    Attributes:
      output: folder for `ablation.json` and the plots.
      identities: number of people.
      seed: selects the people.
      adapter: strengths of the adapter.
      identitynet: strengths of IdentityNet.
      photos: largest number of photos per person.
      sampling: sampling settings.
      batch: images generated at a time.
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
    """Generates and scores all pictures, then writes figures and plots.

    Raises:
      InputError: if there are fewer than two people, no photos or no strengths, or the output
        cannot be written.
    """
    if options.identities < 2 or options.photos < 1:
        raise InputError(
            f"--identities {options.identities} --photos {options.photos}: expected at least 2 "
            "and 1"
        )
    if not options.adapter or not options.identitynet:
        raise InputError("--adapter and --identitynet: expected one or more strengths each")
    check_whole("seed", options.seed, 0, 2**32 - 1)
    check_whole("batch", options.batch, 1, 1024)
    strengths = [
        {"ip_adapter_scale": adapter, "controlnet_conditioning_scale": identitynet}
        for adapter, identitynet in itertools.product(options.adapter, options.identitynet)
    ]
    for scales in ({}, *strengths):
        dataclasses.replace(options.sampling, **scales)  # validates the strengths
    check_folder(options.output)
    pipe = options.model.load()
    held_out = HeldOut(
        options.identities, options.seed, options.model.face_pack, photos=options.photos
    )

    # Both plots contain the strengths of `sampling`.
    @functools.cache
    def figures(sampling: Settings, photos: int) -> dict[str, float]:
        made = make_pictures(
            pipe, held_out, sampling, options.seed, batch=options.batch, photos=photos
        )
        return held_out.score(made)

    report = {
        "identities": options.identities,
        "seed": options.seed,
        "sampling": options.sampling.to_json(),
        "scales": [s | figures(dataclasses.replace(options.sampling, **s), 1) for s in strengths],
        "photos": [{"photos": n} | figures(options.sampling, n) for n in range(options.photos + 1)],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "ablation.json", report)
    _plot_scales(report["scales"], options)
    _plot_photos(report["photos"], options.output / "photos.png")


def _plot_scales(rows: list[dict[str, float]], options: Options) -> None:
    plt = pyplot()
    shape = len(options.adapter), len(options.identitynet)
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(4 * len(SHOWN), 4), layout="constrained")
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=True):
        grid = np.array([row[name] for row in rows]).reshape(shape)
        # Black text is legible on all colors of this map.
        axis.imshow(grid, origin="lower", cmap="Wistia")
        for i, j in np.ndindex(shape):
            axis.text(j, i, f"{grid[i, j]:.3g}", ha="center", va="center")
        axis.set(title=title, xlabel="IdentityNet", ylabel="Image Adapter")
        axis.set_xticks(range(shape[1]), options.identitynet)
        axis.set_yticks(range(shape[0]), options.adapter)
    figure.savefig(options.output / "scales.png", dpi=80, bbox_inches="tight")
    plt.close(figure)


def _plot_photos(rows: list[dict[str, float]], path: Path) -> None:
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    for name in ("rank1", "similarity_margin"):
        axis.plot([row["photos"] for row in rows], [row[name] for row in rows], "o-", label=name)
    axis.set(xlabel="photos of the person", xticks=[row["photos"] for row in rows])
    axis.legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
