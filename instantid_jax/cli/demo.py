"""`instantid demo`: the whole way once, with nothing but what is installed."""

import logging
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from instantid_jax.cli.generate import Sampling, Weights
from instantid_jax.cli.outputs import check_picture
from instantid_jax.face.face import Face
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pictures import save_png

logger = logging.getLogger(__name__)

PROMPT = "film noir, an astronaut in the rain"
# Eyes, nose and corners of the mouth of scikit-image's astronaut.png, measured by hand.
ASTRONAUT_KEYPOINTS = [
    [203.6, 101.2],
    [247.3, 103.3],
    [224.1, 124.6],
    [205.1, 141.0],
    [243.0, 141.8],
]
# No face recogniser may be bundled, so this is nobody's embedding; raw ones are about as long.
EMBEDDING_SEED = 0
EMBEDDING_STD = 1.0


def astronaut() -> Face:
    """Eileen Collins in scikit-image's photo: her keypoints, with an embedding drawn at random."""
    embedding = EMBEDDING_STD * np.random.default_rng(EMBEDDING_SEED).standard_normal(512)
    return Face(embedding=embedding, kps=ASTRONAUT_KEYPOINTS, image_size=(512, 512))


def demo(
    output: Path = Path("out/demo.png"),
    weights: Weights = Weights(),  # noqa: B008
    sampling: Sampling = Sampling(),  # noqa: B008
) -> None:
    """Makes one picture from a photo that is installed; shows photo, keypoints and picture.

    Args:
      output: a .png file.
    """
    import skimage.data  # slow to import, and the other commands do not need it

    check_picture(output)
    sampling.check()
    logger.warning(
        "the demo's face embedding is drawn at random (no face recogniser may be bundled); its "
        "keypoints were measured by hand on scikit-image's astronaut.png"
    )
    face = astronaut()
    result = weights.load()(PROMPT, face=face, **sampling.arguments())
    picture = result.images[0]
    width, height = picture.size
    photo = Image.fromarray(skimage.data.astronaut()).resize(picture.size, Image.Resampling.LANCZOS)
    keypoints = draw_keypoints(*face.image_size, face.kps)
    sheet = Image.new("RGB", (3 * width, height))
    sheet.paste(photo, (0, 0))
    sheet.paste(Image.fromarray(keypoints).resize(picture.size), (width, 0))
    sheet.paste(picture, (2 * width, 0))
    save_png(sheet, output, prompt=PROMPT, settings=sampling.arguments())
    print(f"{output}: photo, keypoints, picture", file=sys.stdout)
