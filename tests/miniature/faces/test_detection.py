"""Targets, batches and loss of a detector."""

import jax
import numpy as np
import pytest

from instantid_jax.params import Network
from miniature.faces import detection
from miniature.faces.networks import ANCHORS, STRIDES, Detector, DetectorConfig
from miniature.portraits import draw_random

SMALL = DetectorConfig(channels=(8, 8, 8), blocks=(0, 0, 1), common=8)
CELLS = sum((detection.INPUT // stride) ** 2 for stride in STRIDES)


def face(height, middle=(320.0, 300.0)):
    half = np.array([0.4, 0.5]) * height
    points = np.array([[-0.2, -0.1], [0.2, -0.1], [0, 0.05], [-0.12, 0.2], [0.12, 0.2]]) * height
    middle = np.array(middle)
    return np.concatenate([[middle - half, middle + half], middle + points]).astype(np.float32)


@pytest.mark.parametrize(("height", "stride"), [(40, 8), (95, 8), (150, 16), (300, 32), (600, 32)])
def test_targets_use_cells_of_the_faces_size_and_offsets_from_their_corners(height, stride):
    wanted = face(height)
    found = detection.targets(wanted)
    assert found["score"].shape == (CELLS,) and 1 <= found["score"].sum() < 60
    strides = np.concatenate([np.full((detection.INPUT // s) ** 2, s) for s in STRIDES])
    corners = np.concatenate([detection.cell_corners(detection.INPUT, s) for s in STRIDES])
    chosen = np.flatnonzero(found["score"])
    assert (strides[chosen] == stride).all()
    assert (found["weight"][chosen] == 1).all()
    for i in chosen:
        decoded = corners[i] + found["offsets"][i] * strides[i]
        np.testing.assert_allclose(decoded, wanted, atol=1e-3)
        assert found["scale"][i] * strides[i] == height


def test_targets_without_a_face_are_zero_for_all_cells():
    found = detection.targets(np.zeros((7, 2), np.float32))
    assert found["score"].sum() == 0 and found["weight"].min() == 1


@pytest.fixture(scope="module")
def drawn():
    portraits = [draw_random(i) for i in range(4)]
    faces = [np.concatenate([p.bbox.reshape(2, 2), p.kps]) for p in portraits]
    pictures = np.stack([np.asarray(p.image) for p in portraits])
    return detection.Drawn(pictures, pictures // 2, np.stack(faces))


def test_batches_are_a_function_of_the_step_and_contain_faces_of_all_sizes(drawn):
    batches = detection.make_batches(drawn, size=24, seed=1)
    batch = batches(3)
    assert batch["pixels"].shape == (24, 160, 160, 3) and batch["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(batches(3)["pixels"], batch["pixels"])
    assert (batches(4)["pixels"] != batch["pixels"]).any()
    faces = batch["score"].sum(1)
    assert (faces == 0).any() and (faces > 0).sum() > 16
    by_stride = np.split(batch["score"], np.cumsum([(640 // s) ** 2 for s in STRIDES])[:-1], axis=1)
    assert all(of_stride.any() for of_stride in by_stride[1:])


def test_some_pictures_have_a_black_margin_outside_the_face(drawn):
    batch = detection.make_batches(drawn, size=100, seed=2)(0)
    black = (batch["pixels"] == 0).all(-1)
    bottom, right = (black.all(axis).argmax(1) for axis in (2, 1))
    margins = [(i, size) for i, size in enumerate(np.maximum(bottom, right)) if size > 0]
    assert 10 < len(margins) < 50 and min(size for _, size in margins) >= 80
    cells = np.concatenate([detection.cell_corners(640, stride) for stride in STRIDES])
    strides = np.repeat(STRIDES, [(640 // stride) ** 2 for stride in STRIDES])
    for i, _ in margins:
        if batch["score"][i].any():
            cell = batch["score"][i].argmax()
            kps = (cells[cell] + batch["offsets"][i, cell, 2:] * strides[cell]) / 4
            starts = np.where([right[i], bottom[i]], [right[i], bottom[i]], np.inf)
            assert (kps < starts).all()


@pytest.mark.slow
def test_every_parameter_has_a_gradient(drawn):
    network = Network(Detector, SMALL)
    params = jax.jit(network.init)(jax.random.key(0))
    batch = detection.make_batches(drawn, size=24, seed=1)(3)
    loss = detection.make_loss(network)
    gradients, metrics = jax.jit(jax.grad(loss, has_aux=True))(params, batch, jax.random.key(1))
    # Boxes of the finest cells have gradients only from small faces.
    still = {name for name, g in gradients.items() if not np.abs(g).max() > 0}
    assert all(name.startswith(("heads.0.box", "heads.0.kps")) for name in still)
    assert metrics["score"] > 0
    logits, boxes, kps = network.bind(params).pooled(batch["pixels"][:2].astype(np.float32) / 128)
    assert logits.shape == (2, ANCHORS * CELLS)
    assert boxes.shape == (2, ANCHORS * CELLS, 4) and kps.shape == (2, ANCHORS * CELLS, 10)
