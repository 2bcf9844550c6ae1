"""Training the classifier of style and background."""

import json

import jax
import numpy as np
import pytest

from miniature.base.pictures import Pictures
from miniature.drawing.scene import random_scene
from miniature.evaluation import classifier
from miniature.evaluation.named import STYLES
from miniature.stage import Stage


def test_every_parameter_has_a_gradient():
    random = np.random.default_rng(0)
    batch = {
        "pixels": random.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
        "answers": np.array([[0, 1], [1, 2], [2, 3], [5, 8]], np.int32),
    }
    params = jax.jit(classifier.NETWORK.init)(jax.random.key(0))
    gradients, metrics = jax.jit(jax.grad(classifier.loss, has_aux=True))(
        params, batch, jax.random.key(1)
    )
    assert all(np.abs(g).max() > 0 for g in gradients.values())
    assert set(metrics) == {"style", "background"}


def test_leaves_a_quarter_of_a_batch_unchanged():
    random = np.random.default_rng(0)
    captions = np.array([random_scene(np.random.default_rng(i)).caption for i in range(8)])
    pixels = random.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    pictures = Pictures(pixels, captions, np.zeros((8, 4)))
    batch = classifier.make_batches(pictures, 400, seed=0)(3)
    sharp = {
        picture.tobytes(): classifier.named(c) for picture, c in zip(pixels, captions, strict=True)
    }
    unchanged = [sharp.get(picture.tobytes()) for picture in batch["pixels"]]
    assert 70 < sum(answer is not None for answer in unchanged) < 130
    assert all(
        answer is None or answer == tuple(label)
        for answer, label in zip(unchanged, batch["answers"].tolist(), strict=True)
    )


@pytest.mark.slow
def test_written_classifier_has_the_printed_accuracy(tmp_path, capsys):
    stage = Stage(steps=30, learning_rate=2e-3, warmup_steps=3, ema_decay=0.5)
    classifier.train_classifier(
        classifier.Options(workdir=tmp_path, pictures=150, held_out=50, batch=32, stage=stage)
    )
    printed = json.loads(capsys.readouterr().out)
    params = classifier.load_classifier(tmp_path / "classifier.safetensors")
    with np.load(tmp_path / "held-out" / "00000.npz") as stored:
        drawn = Pictures(**stored)
    right = classifier.classify(params, drawn.pixels) == classifier.labels(drawn)
    assert printed["style"] == right[:, 0].mean() and printed["both"] == right.all(1).mean()
    assert printed["style"] > 2 / len(STYLES)
