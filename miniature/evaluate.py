"""`python -m miniature.evaluate`: one JSON line of how well a model shows whom and what is asked.

Of people and captions that nothing learned from, judged by a recogniser that is used for nothing
else. Beside each figure stand its ceiling, another drawing of the same person in the scene asked
for, and its floor, the same prompt without the person.
"""

import dataclasses
import json
from pathlib import Path

import tyro
from PIL import Image
from tqdm import tqdm

from instantid_jax import InstantIDPipeline
from instantid_jax.cli.program import program
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from miniature.evaluation.held_out import HeldOut
from miniature.portraits import SIDE

EMBEDDED = Path(__file__).parent.parent / "instantid_jax" / "embedded"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are made; as `instantid generate` has them.

    Attributes:
      batch: pictures made at a time.
    """

    ip_adapter_scale: float = 0.8
    controlnet_conditioning_scale: float = 0.8
    num_inference_steps: int = 16
    guidance_scale: float = 3.0
    scheduler: str | None = None
    batch: int = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is evaluated, on how many.

    Attributes:
      identities: people, each with one photo and one caption.
      seed: another seed is other people.
      sdxl: the base model's folder.
      instantid: the adapter's and IdentityNet's folder, or a training run's.
      face_pack: the face pack's folder.
      save: a folder for the pictures, made anew.
    """

    identities: int = 1000
    seed: int = 0
    sdxl: Path = EMBEDDED
    instantid: Path = EMBEDDED
    face_pack: Path = EMBEDDED / "faces"
    save: Path | None = None
    sampling: Sampling = Sampling()


def main() -> None:
    with program("evaluate"):
        print(json.dumps(evaluate(tyro.cli(Options, description=__doc__))))


def evaluate(options: Options) -> dict[str, float]:
    """Makes the pictures and scores them.

    Raises:
      InputError: if there are fewer than two people, or `save` is there already.
    """
    if options.identities < 2:
        raise InputError(f"--identities is {options.identities}: expected 2 up")
    if options.save is not None and options.save.exists():
        raise InputError(f"--save {options.save} is there already: name a new folder")
    pipe = InstantIDPipeline.load(sdxl=str(options.sdxl), instantid=str(options.instantid))
    held_out = HeldOut(options.identities, options.seed, options.face_pack)
    text_only = dataclasses.replace(
        options.sampling, ip_adapter_scale=0.0, controlnet_conditioning_scale=0.0
    )
    pictures = {
        "": make_pictures(pipe, held_out, options.sampling, options.seed),
        "ceiling": [case.target.image for case in held_out.cases],
        "floor": make_pictures(pipe, held_out, text_only, options.seed),
    }
    if options.save is not None:
        photos = [case.photos[0].image for case in held_out.cases]
        _save(options.save, {"photo": photos} | pictures)
    told: dict[str, float] = {"identities": options.identities, "seed": options.seed}
    for kind, made in pictures.items():
        scores = held_out.score(made)
        told |= {f"{name}_{kind}" if kind else name: value for name, value in scores.items()}
    told["caption_accuracy_id_on"] = told.pop("caption_accuracy")
    told["caption_accuracy_id_off"] = told.pop("caption_accuracy_floor")
    return told


def make_pictures(
    pipe: InstantIDPipeline, held_out: HeldOut, sampling: Sampling, seed: int
) -> list[Image.Image]:
    """A picture for each case: its person, as the photos have them, at its target's keypoints."""
    settings = dataclasses.asdict(sampling)
    size = settings.pop("batch")
    made: list[Image.Image] = []
    for start in tqdm(range(0, len(held_out.cases), size), unit="batch", disable=None):
        cases = held_out.cases[start : start + size]
        people = [Face.mean(faces) for faces in held_out.faces[start : start + size]]
        faces = [
            Face(embedding=person.embedding, kps=case.target.kps, image_size=(SIDE, SIDE))
            for person, case in zip(people, cases, strict=True)
        ]
        # One shape compiles once; the last batch is filled up.
        short = size - len(cases)
        result = pipe(
            [case.target.caption for case in cases] + [cases[0].target.caption] * short,
            face=faces + faces[:1] * short,
            seed=[(seed + start + i) % 2**32 for i in range(size)],
            height=SIDE,
            width=SIDE,
            progress=False,
            **settings,
        )
        made += result.images[: len(cases)]
    return made


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
