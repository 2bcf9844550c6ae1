"""Batches and loss of a recognizer."""

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.params import Network
from miniature.faces import recognition
from miniature.faces.crops import KINDS, Crops
from miniature.faces.networks import Recognizer, RecognizerConfig

SMALL = RecognizerConfig(stem=8, channels=(8, 8, 8), blocks=(0, 0, 0), last=4, embedding=16)


def random_crops(people=6, pictures=3):
    random = np.random.default_rng(0)
    kinds = [random.integers(0, len(names), people) for names in KINDS.values()]
    return Crops(
        random.integers(0, 256, (people, pictures, 112, 112, 3)).astype(np.uint8),
        random.random((people, 30), np.float32),
        np.stack(kinds, 1).astype(np.int32),
    )


def test_contrast_is_the_cross_entropy_of_matching_the_same_person():
    embedding = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    loss, margin = recognition.contrast(jnp.asarray(embedding), people=4, pictures=2)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosine, expected = unit @ unit.T, []
    for i in range(8):
        others = np.exp(cosine[i] / recognition.TEMPERATURE)
        others[i] = 0
        expected.append(-np.log(others[i ^ 1] / others.sum()))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    same = np.mean([cosine[i, i ^ 1] for i in range(8)])
    different = np.mean([cosine[i, j] for i in range(8) for j in range(8) if i // 2 != j // 2])
    np.testing.assert_allclose(margin, same - different, rtol=1e-5)


def test_contrast_is_low_for_separated_people():
    axes = np.eye(4, dtype=np.float32)
    apart, together = np.repeat(axes, 2, axis=0), np.tile(axes, (2, 1))
    good, _ = recognition.contrast(jnp.asarray(apart), 4, 2)
    bad, _ = recognition.contrast(jnp.asarray(together), 4, 2)
    assert good < 0.01 < 5 < bad


def test_batches_are_a_function_of_the_step_with_two_pictures_per_person():
    crops = random_crops()
    batches = recognition.make_batches(crops, people=4, seed=3)
    batch = batches(5)
    assert batch["pixels"].shape == (4, 2, 112, 112, 3)
    for pixels, numbers in zip(batch["pixels"], batch["numbers"], strict=True):
        (person,) = np.flatnonzero((crops.numbers == numbers).all(1))
        found = [np.flatnonzero((crops.pixels[person] == p).all((1, 2, 3))) for p in pixels]
        assert all(len(f) == 1 for f in found) and found[0] != found[1]
    np.testing.assert_array_equal(batches(5)["pixels"], batch["pixels"])
    assert (batches(6)["pixels"] != batch["pixels"]).any()


def test_every_parameter_has_a_gradient():
    crops = random_crops()
    network = Network(Recognizer, SMALL)
    traits = recognition.heads(SMALL.embedding, crops)
    params = jax.jit(recognition.make_init(network, traits))(jax.random.key(0))
    loss = recognition.make_loss(network, traits)
    batch = recognition.make_batches(crops, people=4, seed=0)(0)
    gradients, metrics = jax.jit(jax.grad(loss, has_aux=True))(params, batch, jax.random.key(1))
    assert all(np.abs(g).max() > 0 for g in gradients.values())
    assert metrics.keys() == {"contrast", "numbers", "kinds", "margin"}
