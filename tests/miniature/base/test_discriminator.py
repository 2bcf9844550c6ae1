"""The discriminator and the adversarial losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miniature.base.discriminator import DISCRIMINATOR, adversarial_losses


@pytest.fixture(scope="module")
def params():
    return jax.jit(DISCRIMINATOR.init)(jax.random.key(0))


def pictures(seed, size=4):
    return jax.random.uniform(jax.random.key(seed), (size, 32, 32, 3), minval=-1)


def test_scores_patches(params):
    logits = DISCRIMINATOR.bind(params)(pictures(0))
    assert logits.shape == (4, 4, 4, 1)
    # Patches far from the change are affected only through the norms.
    changed = pictures(0).at[:, :4, :4].set(1)
    moved = jnp.abs(DISCRIMINATOR.bind(params)(changed) - logits).mean((0, 3))
    assert moved[0, 0] > 4 * moved[3, 3]


def test_losses_have_separate_gradients(params):
    restored, drawn = pictures(0), pictures(1)

    def losses(params, restored):
        return adversarial_losses(params, restored, drawn, lambda x: jnp.square(x - drawn).mean())

    learn = jax.jit(jax.jacrev(losses, argnums=(0, 1)))
    generating, discriminating = learn(params, restored)
    assert all(np.abs(g).max() == 0 for g in generating[0].values())
    assert np.abs(generating[1]).max() > 0
    assert all(np.abs(g).max() > 0 for g in discriminating[0].values())
    assert np.abs(discriminating[1]).max() == 0


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_adversarial_gradient_has_the_length_of_the_errors(params, scale):
    drawn = pictures(1)

    def error(restored):
        return scale * jnp.square(restored - drawn).mean()

    generating = jax.jit(jax.grad(lambda x: adversarial_losses(params, x, drawn, error)[0]))
    gradient = generating(pictures(0))
    wanted = jnp.linalg.norm(jax.grad(error)(pictures(0)))
    np.testing.assert_allclose(jnp.linalg.norm(gradient), wanted, rtol=1e-3)


@pytest.mark.slow
def test_learns_to_distinguish_smooth_from_sharp(params):
    optimizer = optax.adam(3e-3)

    def batch(seed):
        sharp = jnp.sign(pictures(seed))
        smooth = jax.image.resize(sharp[:, ::4, ::4], sharp.shape, "linear")
        return sharp, smooth

    @jax.jit
    def advance(params, state, seed):
        sharp, smooth = batch(seed)
        value, gradients = jax.value_and_grad(
            lambda p: adversarial_losses(p, smooth, sharp, lambda x: jnp.sum(x))[1]
        )(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for seed in range(30):
        params, state, value = advance(params, state, seed)
    assert value < 0.3  # 1 without any discrimination
    sharp, smooth = batch(99)
    judge = DISCRIMINATOR.bind(params)
    assert judge(sharp).mean() > 0.5 and judge(smooth).mean() < -0.5
