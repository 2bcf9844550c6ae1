"""`python -m miniature.guidance --output DIR`: measures the forms of guidance, and shows them.

Generates the same held-out people from the same noise with each form. Guidance is stronger than the
model likes, as it is where a form is wanted. Writes `guidance.json` and a grid of pictures.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from instantid_jax.cli.entry import entry
from instantid_jax.cli.outputs import check_folder
from instantid_jax.json_files import write_json
from instantid_jax.request import Settings
from instantid_jax.request.checks import check_whole
from miniature.evaluation.generation import SAMPLING, Model, make_pictures
from miniature.evaluation.held_out import HeldOut
from miniature.evaluation.plots import pyplot

FORMS: dict[str, dict[str, Any]] = {
    "usual": {"guidance_scale": 2.0},
    "strong": {},
    "rescale": {"guidance_rescale": 0.7},
    "rescale v": {"guidance_rescale_v": 0.7},
    "interval": {"guidance_interval": (0.28, 5.42)},
    "APG": {"apg_eta": 0.0},
    "APG, norm": {"apg_eta": 0.0, "apg_threshold": 4.0},
    "mimic 2": {"mimic_scale": 2.0},
    "PAG": {"guidance_scale": 2.0, "pag_scale": 3.0},
    "FreeU": {"guidance_scale": 2.0, "freeu": (0.9, 0.2, 1.3, 1.4)},
}
SHOWN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the measurement.

    Attributes:
      output: folder for `guidance.json` and `guidance.jpg`.
      identities: number of people.
      seed: selects the people.
      sampling: sampling settings; forms change some of them.
      batch: images generated at a time.
    """

    output: Path
    identities: int = 100
    seed: int = 1
    model: Model = Model()
    sampling: Settings = dataclasses.replace(SAMPLING, guidance_scale=5.0)
    batch: int = 20


def main() -> None:
    with entry("guidance"):
        measure(tyro.cli(Options, description=__doc__))


def measure(options: Options) -> None:
    """Generates and scores all pictures, then writes figures and the grid.

    Raises:
      InputError: if there are fewer than `SHOWN` people, or the output cannot be written.
    """
    check_whole("identities", options.identities, SHOWN, 10**6)
    check_whole("seed", options.seed, 0, 2**32 - 1)
    check_whole("batch", options.batch, 1, 1024)
    check_folder(options.output)
    pipe = options.model.load()
    held_out = HeldOut(options.identities, options.seed, options.model.face_pack)
    drawn = [case.target.image for case in held_out.cases]
    rows: dict[str, list[Image.Image]] = {"drawn": drawn[:SHOWN]}
    report: dict[str, dict[str, Any]] = {"drawn": {"saturation": saturation(drawn)}}
    for name, form in FORMS.items():
        settings = dataclasses.replace(options.sampling, **form)
        made = make_pictures(pipe, held_out, settings, options.seed, batch=options.batch)
        rows[name] = made[:SHOWN]
        report[name] = form | {"saturation": saturation(made)} | held_out.score(made)
    options.output.mkdir(parents=True, exist_ok=True)
    described = {"identities": options.identities, "seed": options.seed}
    described["sampling"] = options.sampling.to_json()
    write_json(options.output / "guidance.json", described | {"forms": report})
    _draw(rows, options.output / "guidance.jpg")


def saturation(pictures: list[Image.Image]) -> float:
    """Mean saturation of all pixels, as in HSV: 0 to 1."""
    return float(np.mean([np.asarray(image.convert("HSV"))[..., 1] for image in pictures]) / 255)


def _draw(rows: dict[str, list[Image.Image]], path: Path) -> None:
    """A column for each form, a row for each person."""
    plt = pyplot()
    size = (1.5 * len(rows), 1.6 * SHOWN)
    figure, axes = plt.subplots(SHOWN, len(rows), figsize=size, layout="constrained")
    for column, (name, pictures) in zip(axes.T, rows.items(), strict=True):
        column[0].set_title(name)
        for axis, picture in zip(column, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    figure.savefig(path, dpi=90, pil_kwargs={"quality": 85})
    plt.close(figure)


if __name__ == "__main__":
    main()
