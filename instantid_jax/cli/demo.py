"""`instantid demo`: one person in several images on a sheet, with how alike they are."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instantid_jax import embedded
from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.outputs import check_image
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face
from instantid_jax.image_files import save_image
from instantid_jax.images import read_image
from instantid_jax.pipeline.observer import Bar
from instantid_jax.request import Request, Settings
from instantid_jax.request.fast import Fast

PROMPTS = (
    "a cartoon of a smiling person, wearing a red hoodie, in the mountains, even light",
    "an oil painting of a calm person, wearing a green scarf, in the snow, cold light",
    "a watercolor painting of a laughing person, wearing a blue shirt, at the beach, even light",
    "a pencil drawing of a surprised person, wearing a gray suit, in a library, warm light",
    "a comic book drawing of a sad person, wearing a pink turtleneck, in a city, even light",
)
# Images in a row of the sheet, its least height in pixels, and that of the line under it.
COLUMNS, ROW, LINE = 3, 512, 48


def demo(
    output: Path = Path("out/demo.png"),
    face: tuple[str, ...] = (),
    prompts: tuple[str, ...] = PROMPTS,
    fast: Fast | None = None,
    weights: Weights = Weights(),
    settings: Settings = Settings(),
    face_pack: FacePack = FacePack(),
) -> None:
    """Makes an image for each prompt; shows them next to the photo, similarity under each.

    The embedded model knows only the words of prompts like "STYLE of PERSON, wearing a COLOR
    CLOTHING, PLACE, LIGHT".

    STYLE: a cartoon, a comic book drawing, a watercolor painting, a pencil drawing, an oil
    painting, a vintage photograph.

    PERSON: a calm, smiling, laughing, sad or surprised person.

    COLOR: red, orange, yellow, green, blue, purple, pink, white, black, gray.

    CLOTHING: t-shirt, shirt, hoodie, turtleneck, scarf, suit.

    PLACE: in a forest, at the beach, in a city, in the mountains, in the snow, under a starry night
    sky, in a library, at sunset, in front of a COLOR wall.

    LIGHT: even light, light from the left, light from the right, warm light, cold light.

    Args:
      output: a .png, .jpg or .webp file.
      face: photos of one person; several are averaged, and the first is shown. Without any, the
        embedded portrait.
      prompts: what to show; each has seeds of its own.
      fast: preset of a few-step model: scheduler, steps and guidance, where no flags set them.
        Without a value, of the embedded model.
    """
    check_image(output)
    weights = weights.for_preset(fast, settings)
    if weights.controlnets:
        raise InputError("--controlnets need an image each: use `instantid generate`")
    settings.windows(1)
    if not prompts:
        raise InputError("no prompts: give at least one")
    weights.check_names()
    pack = weights.pack(face_pack)
    photos = face or (str(embedded.PORTRAIT),)
    if Path(photos[0]).suffix.lower() == ".npz":
        raise InputError(f"{photos[0]} cannot be shown: name a photo first in --face, then others")
    photo = Image.fromarray(read_image(photos[0]))
    shown = weights.person(photos, pack)
    each = settings.num_images_per_prompt
    requests = [
        Request(prompt, face=shown, **settings.values(seed=settings.seed + i * each))
        for i, prompt in enumerate(prompts)
    ]
    pipe = weights.load()
    with Bar() as bar:
        images = pipe.run(requests, observer=bar).pil_images
    alike = [similarity(shown, image, pack.analyzer()) for image in images]
    captions = ["no face" if cosine is None else f"{cosine:.2f}" for cosine in alike]
    sheet = in_rows([photo, *images], ["the photo", *captions])
    made = {"face": list(face), "weights": vars(weights), "settings": settings.to_json()}
    text = {"prompt": "\n".join(prompts), "demo": json.dumps(made, ensure_ascii=False)}
    save_image(sheet, output, text=text)
    print(
        f"{output}: the photo, then images with their faces' cosine similarity to it",
        file=sys.stdout,
    )
    for prompt, caption in zip(np.repeat(prompts, each), captions, strict=True):
        print(f"{caption}  {prompt}", file=sys.stdout)


def similarity(face: Face, image: Image.Image, analyzer: FaceAnalyzer) -> float | None:
    """Cosine between embeddings of a face and of the one in an image; None if none is found."""
    ((_, found),) = analyzer.analyze_each([image])
    return face.similarity(found) if isinstance(found, Face) else None


def in_rows(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Images of one height in rows of `COLUMNS`, a line of text under each."""
    height = max(ROW, *(image.height for image in images[1:]))
    scaled = [
        p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS)
        for p in images
    ]
    shown = list(zip(scaled, captions, strict=True))
    rows = [shown[first : first + COLUMNS] for first in range(0, len(shown), COLUMNS)]
    width = max(sum(image.width for image, _ in row) for row in rows)
    sheet = Image.new("RGB", (width, len(rows) * (height + LINE)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=LINE * 2 // 3)
    for number, row in enumerate(rows):
        left, top = 0, number * (height + LINE)
        for image, caption in row:
            sheet.paste(image, (left, top))
            middle = (left + image.width / 2, top + height + LINE / 2)
            pen.text(middle, caption, fill="black", font=font, anchor="mm")
            left += image.width
    return sheet
