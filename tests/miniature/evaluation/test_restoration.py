"""Reconstructions by the shipped VAE."""

import numpy as np

from instantid_jax import embedded
from miniature.evaluation.fidelity import face_sharpness, psnr
from miniature.evaluation.restoration import BATCH, restore
from miniature.portraits import draw_random


def test_reconstructs_pictures_with_less_sharpness():
    portraits = [draw_random(seed) for seed in range(BATCH + 2)]
    drawn = np.stack([np.asarray(p.image) for p in portraits])
    restored = restore(embedded.SDXL / "vae", drawn)
    assert restored.shape == drawn.shape and restored.dtype == np.uint8
    assert 22 < psnr(restored, drawn).mean() < 40
    boxes = np.stack([p.bbox for p in portraits])
    assert np.median(face_sharpness(restored, boxes)) < np.median(face_sharpness(drawn, boxes))
