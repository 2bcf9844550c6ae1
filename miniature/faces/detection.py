"""Training data and loss of a detector: scores, boxes and keypoints for cells of three sizes.

As in insightface's SCRFD (Guo et al. 2021), a face's box and keypoints are relative to its cell's
corner (x, y) * stride, in strides.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageFilter

from instantid_jax.params import Network, Params
from miniature.chunks import drawn_in_chunks
from miniature.drawing.scene import ANYWHERE, CLOSE, random_scene
from miniature.drawing.traits import random_traits
from miniature.faces.networks import ANCHORS, POOL, STRIDES
from miniature.portraits import SIDE, draw, draw_deserted
from miniature.stage import Batch, Loss

# Side of the training pictures. The network pools its input, so they are drawn at a quarter of it.
INPUT = 640
CHUNK = 100
FRAMINGS = (CLOSE, ANYWHERE)
# Share of pictures with a black margin, as insightface adds to wide and tall ones.
PADDED = 0.3
# Distances in face heights up to which the loss of boxes and keypoints is quadratic.
QUADRATIC = 0.02
# Largest face height in pixels for the cells of each stride.
LARGEST = (96, 224, np.inf)
# Distances from a face's center, in face heights: cells within the first should find the face; the
# loss ignores cells up to the second.
INSIDE, AROUND = 0.16, 0.3


class Drawn(NamedTuple):
    """Portraits, and scenes without people.

    Attributes:
      pictures, deserted: uint8 [N, 128, 128, 3].
      faces: float32 [N, 7, 2], the box's corners and the five keypoints, in pixels.
    """

    pictures: np.ndarray
    deserted: np.ndarray
    faces: np.ndarray


def drawn_examples(folder: Path, count: int, seed: int, processes: int) -> Drawn:
    """Examples of a seed; draws those missing in `folder`.

    Args:
      count: number of examples, a multiple of 100.
    """
    draw_chunk = functools.partial(_draw_chunk, seed=seed)
    return Drawn(**drawn_in_chunks(folder, draw_chunk, count, CHUNK, processes))


def _draw_chunk(chunk: int, *, seed: int) -> dict[str, np.ndarray]:
    pictures, deserted, faces = [], [], []
    for number in range(CHUNK * chunk, CHUNK * (chunk + 1)):
        random = np.random.default_rng([seed, number])
        framing = FRAMINGS[number % len(FRAMINGS)]
        portrait = draw(random_traits(random), random_scene(random, framing))
        pictures.append(np.asarray(portrait.image))
        deserted.append(np.asarray(draw_deserted(random_scene(random))))
        faces.append(np.concatenate([portrait.bbox.reshape(2, 2), portrait.kps]))
    return {
        "pictures": np.stack(pictures),
        "deserted": np.stack(deserted),
        "faces": np.stack(faces),
    }


def make_batches(drawn: Drawn, size: int, seed: int) -> Callable[[int], Batch]:
    """Returns a function from the step to pictures uint8 [size, 160, 160, 3] and targets."""

    def batch_at(step: int) -> Batch:
        random = np.random.default_rng([seed, step])
        examples = [_compose(drawn, random) for _ in range(size)]
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    return batch_at


def _compose(drawn: Drawn, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a portrait that fills the picture, a small one in another scene, or none."""
    side = INPUT // POOL
    scenery = Image.fromarray(drawn.deserted[random.integers(len(drawn.deserted))])
    canvas = scenery.resize((side, side), Image.BILINEAR)
    number, kind = random.integers(len(drawn.pictures)), random.random()
    face = np.zeros((7, 2), np.float32)
    if kind > 0.1:
        shown = side if kind > 0.5 else int(random.integers(side // 5, side))
        portrait = Image.fromarray(drawn.pictures[number]).resize((shown, shown), Image.BILINEAR)
        corner = random.integers(0, side - shown + 1, 2)
        canvas.paste(portrait, tuple(corner.tolist()))
        face = POOL * (drawn.faces[number] * shown / SIDE + corner)
    if random.random() < PADDED:
        _pad(canvas, face[:2] / POOL, random)
    if random.random() < 0.4:
        canvas = canvas.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.3)))
    return {"pixels": np.asarray(canvas), **targets(face.astype(np.float32))}


def _pad(canvas: Image.Image, box: np.ndarray, random: np.random.Generator) -> None:
    """Blackens a margin at the bottom or at the right, outside the box [2, 2]."""
    end = [canvas.width, canvas.height]
    axis = random.integers(2)
    start = [0, 0]
    least = np.clip(box[1, axis], end[axis] / 2, end[axis])
    start[axis] = round(random.uniform(least, end[axis]))
    canvas.paste((0, 0, 0), (*start, *end))


def targets(face: np.ndarray) -> dict[str, np.ndarray]:
    """Targets of all N cells, stride by stride, for one face [7, 2]; zeros mean no face.

    Returns:
      score: [N], 1 for cells that should find the face.
      weight: [N], 0 for cells that the loss ignores.
      offsets: [N, 7, 2], from the cell's corner to the face's points, in strides.
      scale: [N], the face's height in strides.
    """
    found: dict[str, list[np.ndarray]] = {n: [] for n in ("score", "weight", "offsets", "scale")}
    height = face[1, 1] - face[0, 1]
    center = face[:2].mean(0)
    smallest = 0.0
    for stride, largest in zip(STRIDES, LARGEST, strict=True):
        corners = cell_corners(INPUT, stride)
        away = np.abs(corners - center).max(1) / max(height, 1.0)
        # The cell nearest to the center always counts.
        inside = away <= max(INSIDE, away.min())
        own = height > 0 and smallest < height <= largest
        near_own = height > 0 and smallest / 1.3 < height <= largest * 1.3
        score = inside & own
        undecided = (away < AROUND) & near_own & ~score
        found["score"].append(score.astype(np.float32))
        found["weight"].append(1 - undecided.astype(np.float32))
        found["offsets"].append((face[None] - corners[:, None]) / stride)
        found["scale"].append(np.full(len(corners), max(height, 1.0) / stride, np.float32))
        smallest = largest
    return {name: np.concatenate(values).astype(np.float32) for name, values in found.items()}


def cell_corners(side: int, stride: int) -> np.ndarray:
    """Corners [N, 2] of the cells, x and y in pixels, row by row."""
    y, x = np.mgrid[: side // stride, : side // stride]
    return stride * np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def make_loss(network: Network) -> Loss:
    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        pixels = (batch["pixels"].astype(jnp.float32) - 127.5) / 128
        keys = jax.random.split(key, 2)
        shape = (len(pixels), 1, 1, 1)
        gain = jax.random.uniform(keys[0], shape, minval=0.8, maxval=1.2)
        noise = 0.04 * jax.random.normal(keys[1], pixels.shape)
        logits, boxes, kps = network.bind(params).pooled(pixels * gain + noise)
        score = jnp.repeat(batch["score"], ANCHORS, axis=1)
        weight = jnp.repeat(batch["weight"], ANCHORS, axis=1)
        faces = jnp.maximum(score.sum(), 1.0)
        focal = optax.sigmoid_focal_loss(logits, score, alpha=0.5, gamma=2.0)
        found = jnp.sum(focal * weight) / faces
        offsets = jnp.repeat(batch["offsets"], ANCHORS, axis=1)
        scale = jnp.repeat(batch["scale"], ANCHORS, axis=1)[..., None]
        left_top, right_bottom = offsets[:, :, 0], offsets[:, :, 1]
        target_box = jnp.concatenate([-left_top, right_bottom], axis=-1)
        target_kps = offsets[:, :, 2:].reshape(*offsets.shape[:2], 10)

        def distance(found: jax.Array, target: jax.Array) -> jax.Array:
            """Mean Huber loss in face heights, over the cells that should find a face."""
            each = optax.huber_loss((found - target) / scale, delta=QUADRATIC) / QUADRATIC
            return jnp.sum(each.mean(-1) * score) / faces

        box, points = distance(boxes, target_box), distance(kps, target_kps)
        return found + 2 * box + 4 * points, {"score": found, "box": box, "kps": points}

    return loss
