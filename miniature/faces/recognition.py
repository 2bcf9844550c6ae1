"""Batches and loss of a recognizer: a contrastive loss, and prediction of the traits."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from instantid_jax.params import Network, Params, join_parts, split_parts
from miniature.faces.crops import KINDS, Crops
from miniature.faces.networks import TraitHeads, normalized
from miniature.stage import Batch, Loss

TEMPERATURE = 0.12
TRAITS_WEIGHT = 0.5
NETWORK, HEADS = "network", "heads"


def heads(embedding: int, crops: Crops) -> Network:
    choices = sum(len(names) for names in KINDS.values())
    return Network(TraitHeads, (embedding, crops.numbers.shape[1], choices))


def make_init(network: Network, traits: Network) -> Callable[[jax.Array], Params]:
    def init(key: jax.Array) -> Params:
        first, second = jax.random.split(key)
        return join_parts({NETWORK: network.init(first), HEADS: traits.init(second)})

    return init


def make_batches(crops: Crops, people: int, seed: int) -> Callable[[int], Batch]:
    """Returns a function from the step to two pictures each of `people` people."""

    def batch_at(step: int) -> Batch:
        random = np.random.default_rng([seed, step])
        chosen = random.choice(len(crops.pixels), people, replace=False)
        shots = random.permuted(np.tile(np.arange(crops.pixels.shape[1]), (people, 1)), axis=1)
        return {
            "pixels": crops.pixels[chosen[:, None], shots[:, :2]],
            "numbers": crops.numbers[chosen],
            "kinds": crops.kinds[chosen],
        }

    return batch_at


def make_loss(network: Network, traits: Network) -> Loss:
    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        people, pictures = batch["pixels"].shape[:2]
        pixels = jnp.reshape(batch["pixels"], (people * pictures, *batch["pixels"].shape[2:]))
        pixels = _varied(pixels.astype(jnp.float32) / 127.5 - 1, key)
        parts = split_parts(params)
        embedding = network.bind(parts[NETWORK])(pixels)
        apart, margin = contrast(embedding, people, pictures)
        numbers, choices = traits.bind(parts[HEADS])(embedding)
        repeated = [jnp.repeat(batch[name], pictures, axis=0) for name in ("numbers", "kinds")]
        numbers_error = jnp.mean(jnp.square(numbers - repeated[0]))
        kinds_error = _cross_entropy(choices, repeated[1])
        total = apart + TRAITS_WEIGHT * (10 * numbers_error + kinds_error)
        metrics = {"contrast": apart, "numbers": numbers_error, "kinds": kinds_error}
        return total, metrics | {"margin": margin}

    return loss


def contrast(embedding: jax.Array, people: int, pictures: int) -> tuple[jax.Array, jax.Array]:
    """Supervised contrastive loss (Khosla et al. 2020), and the margin in mean cosine.

    Args:
      embedding: [people * pictures, D], the pictures of a person in consecutive rows.
    """
    unit = normalized(embedding)
    cosine = unit @ unit.T
    person = jnp.repeat(jnp.arange(people), pictures)
    itself = jnp.eye(people * pictures, dtype=bool)
    same = (person[:, None] == person[None]) & ~itself
    scores = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, cosine / TEMPERATURE), axis=-1)
    loss = -jnp.sum(jnp.where(same, scores, 0)) / same.sum()
    others = ~same & ~itself
    margin = jnp.sum(cosine * same) / same.sum() - jnp.sum(cosine * others) / others.sum()
    return loss, margin


def _varied(pixels: jax.Array, key: jax.Array) -> jax.Array:
    """Varies exposure, color balance and noise of each picture."""
    keys = jax.random.split(key, 3)
    shape = (len(pixels), 1, 1, 1)
    gain = jax.random.uniform(keys[0], shape, minval=0.85, maxval=1.15)
    shift = jax.random.uniform(keys[1], (len(pixels), 1, 1, 3), minval=-0.08, maxval=0.08)
    return pixels * gain + shift + 0.03 * jax.random.normal(keys[2], pixels.shape)


def _cross_entropy(choices: jax.Array, kinds: jax.Array) -> jax.Array:
    sizes = [len(names) for names in KINDS.values()]
    each = jnp.split(choices, np.cumsum(sizes)[:-1], axis=1)
    return sum(
        optax.softmax_cross_entropy_with_integer_labels(logits, kinds[:, i]).mean()
        / math.log(sizes[i])
        for i, logits in enumerate(each)
    )
