"""A small dataset of drawn faces, for trial runs of the training program."""

from pathlib import Path

import cv2
import numpy as np

from instantid_jax.atomic import new_folder
from instantid_jax.errors import InputError
from train.data.record import Record, image_hash
from train.data.writing import write_dataset

# Part of the folder's name; increment it when the drawings change.
VERSION = 1
PEOPLE, PICTURES_OF_EACH = 8, 8
SIDE = 128
# Eyes, nose and mouth corners relative to the face's center, in half widths of the face.
FEATURES = np.array([[-0.4, -0.2], [0.4, -0.2], [0.0, 0.2], [-0.3, 0.6], [0.3, 0.6]])
BACKGROUNDS = {"red": (150, 60, 60), "green": (60, 130, 70), "blue": (60, 80, 160)}


def drawn_dataset(cache: Path) -> Path:
    """Returns the dataset's folder under `cache`, creating it if missing.

    It has 64 pictures of 128 x 128 pixels: eight people, distinguished by the colors of skin and
    eyes, each drawn with eight positions, sizes and angles. A person's embedding is random, and
    varies slightly between pictures.

    Raises:
      InputError: if `cache` is not writable.
    """
    folder = cache / f"drawn-faces-{VERSION}"
    if not folder.is_dir():
        numbers = range(PEOPLE * PICTURES_OF_EACH)
        try:
            # If several processes write it, the first to finish wins.
            with new_folder(folder) as temporary:
                write_dataset(temporary, ((draw_record(n), (SIDE, SIDE)) for n in numbers))
        except (InputError, OSError) as error:
            if not folder.is_dir():
                raise InputError(
                    f"{cache} cannot be written ({error}): set XDG_CACHE_HOME to another folder"
                ) from error
    return folder


def draw_record(number: int) -> Record:
    """Draws record `number`; consecutive records show different people."""
    person = number % PEOPLE
    of_person, of_picture = np.random.default_rng([1, person]), np.random.default_rng([2, number])
    identity = of_person.normal(size=512)
    skin, eyes = of_person.integers(110, 250, 3), of_person.integers(0, 100, 3)
    name = list(BACKGROUNDS)[of_picture.integers(len(BACKGROUNDS))]
    half = of_picture.uniform(0.22, 0.36) * SIDE
    middle = of_picture.uniform(half * 1.3, SIDE - half * 1.3, 2)
    roll = of_picture.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    kps = middle + half * FEATURES @ turn
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:] = BACKGROUNDS[name]
    angle = float(np.degrees(roll))

    def point(xy: np.ndarray) -> tuple[int, int]:
        x, y = xy.tolist()
        return round(x), round(y)

    def ellipse(xy: np.ndarray, width: float, height: float, color: np.ndarray) -> None:
        axes = (max(round(width), 1), max(round(height), 1))
        cv2.ellipse(pixels, point(xy), axes, angle, 0, 360, color.tolist(), cv2.FILLED, cv2.LINE_AA)

    ellipse(middle, half, 1.25 * half, skin)
    for eye in kps[:2]:
        ellipse(eye, 0.18 * half, 0.12 * half, np.full(3, 255))
        ellipse(eye, 0.09 * half, 0.09 * half, eyes)
    ellipse(kps[2], 0.08 * half, 0.16 * half, skin * 0.7)
    mouth = (point(kps[3]), point(kps[4]))
    cv2.line(pixels, *mouth, (150, 40, 50), max(round(0.1 * half), 1), cv2.LINE_AA)
    image = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    size = np.array([half, 1.25 * half])
    return Record(
        image=image,
        captions={"drawn": f"a drawn face before a {name} wall"},
        embedding=(identity + 0.1 * of_picture.normal(size=512)).astype(np.float32),
        kps=kps.astype(np.float32),
        bbox=np.concatenate([middle - size, middle + size]).astype(np.float32),
        det_score=1.0,
        original_size=(SIDE, SIDE),
        sharpness=100.0,
        reference_embeddings=np.zeros((0, 512), np.float32),
        identity=f"person {person}",
        key=f"drawn-{number:03}",
        sha256=image_hash(image),
    )
