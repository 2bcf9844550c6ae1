"""Drawn records: images of noise with a colored dot at each keypoint."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from train.data.record import Record, image_hash
from train.data.writing import write_dataset

# RGB of the dots: distinct colors, none near the gray background.
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def keypoints(height: int, width: int) -> np.ndarray:
    """Five keypoints of a face right of and above the center."""
    middle = np.array([0.6 * width, 0.4 * height])
    side = 0.15 * min(height, width)
    offsets = np.array([[-1, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]])
    return np.round(middle + side * offsets).astype(np.float32)


def picture(height: int, width: int, *, radius: int = 3, seed: int = 0) -> np.ndarray:
    gray = np.random.default_rng(seed).integers(90, 110, (height, width, 1), np.uint8)
    pixels = np.repeat(gray, 3, axis=-1)
    for (x, y), color in zip(keypoints(height, width), COLORS, strict=True):
        cv2.circle(pixels, (int(x), int(y)), radius, color, cv2.FILLED)
    return pixels


def record(number: int, height: int = 64, width: int = 64, **changes) -> Record:
    """Record `number`; its key, caption and embedding identify it."""
    kps = keypoints(height, width)
    margin = 0.1 * min(height, width)
    image = jpeg(picture(height, width, seed=number))
    fields = {
        "image": image,
        "captions": {"alt": f"picture {number}"},
        "embedding": np.random.default_rng(number).normal(size=512).astype(np.float32),
        "kps": kps,
        "bbox": np.concatenate([kps.min(0) - margin, kps.max(0) + margin]).astype(np.float32),
        "det_score": 0.75,
        "original_size": (2 * height, 2 * width),
        "sharpness": 100.0,
        "reference_embeddings": np.zeros((0, 512), np.float32),
        "key": f"{number:05}",
        "sha256": image_hash(image),
    }
    return Record(**(fields | changes))


def dataset(
    folder: Path,
    sizes: Sequence[tuple[int, int]],
    *,
    shards: int = 2,
    first: int = 0,
    change: Callable[[int], dict] = lambda number: {},
    recognizer: str | None = None,
) -> Path:
    """Writes records with images of these sizes, numbered from `first`."""
    numbers = range(first, first + len(sizes))
    write_dataset(
        folder,
        ((record(n, *size, **change(n)), size) for n, size in zip(numbers, sizes, strict=True)),
        shards=shards,
        recognizers=[] if recognizer is None else [recognizer],
    )
    return folder


def tokenizer(prompts: Sequence[str]) -> np.ndarray:
    """Encodes the prompts' characters: [B, 77] int32."""
    ids = np.zeros((len(prompts), 77), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = [ord(letter) for letter in prompt[:77]]
    return ids


def caption(ids: np.ndarray) -> str:
    """Inverts `tokenizer`."""
    return "".join(chr(i) for i in ids if i)
