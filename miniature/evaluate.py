"""`python -m miniature.evaluate`: prints how well a model renders person and prompt, as JSON.

Uses people and captions on which the model was not trained, and a recognizer that is used for
nothing else. Each figure comes with a ceiling, another drawing of the person in the requested
scene, and a floor, the same prompt without the person.
"""

import dataclasses
import json
from pathlib import Path

import tyro
from PIL import Image

from instantid_jax.cli.entry import entry
from instantid_jax.cli.outputs import check_folder
from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from instantid_jax.request.checks import check_whole
from miniature.evaluation.fidelity import psnr
from miniature.evaluation.generation import SAMPLING, Model, make_pictures
from miniature.evaluation.held_out import JUDGE, HeldOut
from miniature.evaluation.restoration import restore
from miniature.portraits import SIDE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluation settings.

    Attributes:
      identities: number of people, each with one photo and one caption.
      seed: selects the people.
      save: new folder for the pictures.
      judge: the recognizer that scores. To choose settings, use the face pack's recognizer instead.
      sampling: sampling settings.
      batch: images generated at a time.
    """

    identities: int = 1000
    seed: int = 0
    save: Path | None = None
    judge: Path = JUDGE
    model: Model = Model()
    sampling: Settings = SAMPLING
    batch: int = 20


def main() -> None:
    with entry("evaluate"):
        print(json.dumps(evaluate(tyro.cli(Options, description=__doc__))))


def evaluate(options: Options) -> dict[str, float]:
    """Generates and scores the pictures.

    Raises:
      InputError: if there are fewer than two people, `save` already exists or cannot be written,
        or the pipeline rejects a setting.
    """
    if options.identities < 2:
        raise InputError(f"--identities is {options.identities}: expected 2 or more")
    check_whole("seed", options.seed, 0, 2**32 - 1)
    check_whole("batch", options.batch, 1, 1024)
    if options.save is not None:
        if options.save.exists():
            raise InputError(f"--save {options.save} already exists: name a new folder")
        check_folder(options.save)
    pipe = options.model.load()
    held_out = HeldOut(
        options.identities, options.seed, options.model.face_pack, judge=options.judge
    )
    text_only = dataclasses.replace(
        options.sampling, ip_adapter_scale=0.0, controlnet_conditioning_scale=0.0
    )
    pictures = {
        "": make_pictures(pipe, held_out, options.sampling, options.seed, batch=options.batch),
        "ceiling": [case.target.image for case in held_out.cases],
        "floor": make_pictures(pipe, held_out, text_only, options.seed, batch=options.batch),
    }
    if options.save is not None:
        photos = [case.photos[0].image for case in held_out.cases]
        _save(options.save, {"photo": photos} | pictures)
    report: dict[str, float] = {"identities": options.identities, "seed": options.seed}
    for kind, made in pictures.items():
        scores = held_out.score(made)
        report |= {f"{name}_{kind}" if kind else name: value for name, value in scores.items()}
    restored = restore(options.model.sdxl / "vae", held_out.targets)
    report["face_sharpness_restored"] = held_out.relative_sharpness(restored)
    report["psnr_restored"] = float(psnr(restored, held_out.targets).mean())
    report["caption_accuracy_id_on"] = report.pop("caption_accuracy")
    report["caption_accuracy_id_off"] = report.pop("caption_accuracy_floor")
    return report


def _save(folder: Path, pictures: dict[str, list[Image.Image]]) -> None:
    """Writes one sheet per person: photo, generated picture, ceiling and floor."""
    folder.mkdir(parents=True)
    for i, row in enumerate(zip(*pictures.values(), strict=True)):
        sheet = Image.new("RGB", (len(row) * SIDE, SIDE))
        for j, picture in enumerate(row):
            sheet.paste(picture, (j * SIDE, 0))
        sheet.save(folder / f"{i:05}.png")


if __name__ == "__main__":
    main()
