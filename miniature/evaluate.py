"""`python -m miniature.evaluate`: one JSON line of how well a model shows whom and what is asked.

Of people whom nothing learned from and captions that the model did not, judged by a recogniser that
is used for nothing else. Beside each figure stand its ceiling, another drawing of the same person
in the scene asked for, and its floor, the same prompt without the person.
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
    """What is evaluated, on how many.

    Attributes:
      identities: people, each with one photo and one caption.
      seed: another seed is other people.
      save: a folder for the pictures, made anew.
      judge: the recogniser that scores; for what is still chosen, take the face pack's own.
      sampling: of the images.
      batch: images made at a time.
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
    """Makes the pictures and scores them.

    Raises:
      InputError: if there are fewer than two people, `save` is there already or cannot be written,
        or a setting is none that the pipeline takes.
    """
    if options.identities < 2:
        raise InputError(f"--identities is {options.identities}: expected 2 up")
    check_whole("seed", options.seed, 0, 2**32 - 1)
    check_whole("batch", options.batch, 1, 1024)
    if options.save is not None:
        if options.save.exists():
            raise InputError(f"--save {options.save} is there already: name a new folder")
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
    told: dict[str, float] = {"identities": options.identities, "seed": options.seed}
    for kind, made in pictures.items():
        scores = held_out.score(made)
        told |= {f"{name}_{kind}" if kind else name: value for name, value in scores.items()}
    restored = restore(options.model.sdxl / "vae", held_out.targets)
    told["face_sharpness_restored"] = held_out.relative_sharpness(restored)
    told["psnr_restored"] = float(psnr(restored, held_out.targets).mean())
    told["caption_accuracy_id_on"] = told.pop("caption_accuracy")
    told["caption_accuracy_id_off"] = told.pop("caption_accuracy_floor")
    return told


def _save(folder: Path, pictures: dict[str, list[Image.Image]]) -> None:
    """One picture a person: photo, generated, and beside them ceiling and floor."""
    folder.mkdir(parents=True)
    for i, row in enumerate(zip(*pictures.values(), strict=True)):
        sheet = Image.new("RGB", (len(row) * SIDE, SIDE))
        for j, picture in enumerate(row):
            sheet.paste(picture, (j * SIDE, 0))
        sheet.save(folder / f"{i:05}.png")


if __name__ == "__main__":
    main()
