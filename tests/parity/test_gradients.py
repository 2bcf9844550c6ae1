"""Gradients of the training objective against torch's autograd, for every trainable tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from instantid_jax.params import join_parts, split_parts
from instantid_jax.stacks import stack, unstack
from instantid_jax.weights.names import adapter_to_torch, to_torch
from tests.parity.reference import nchw, relative_error, unit_noise
from train.networks import Networks
from train.objective import (
    Conditions,
    ObjectiveConfig,
    losses,
    predict,
)
from train.step import remat_wrapper

TOLERANCE = 1e-4
ROWS, HEIGHT, WIDTH = 2, 9, 12


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return {
        "noisy": unit_noise(0, ROWS, HEIGHT, WIDTH, 4),
        "noise": unit_noise(1, ROWS, HEIGHT, WIDTH, 4),
        "text": unit_noise(2, ROWS, 7, 64),
        "pooled": unit_noise(3, ROWS, 36),
        "time_ids": np.array([[64, 96, 0, 3, 72, 96], [200, 100, 9, 0, 72, 96]], np.float32),
        "id_embeds": unit_noise(4, ROWS, 512),
        "image": np.random.default_rng(5).random((ROWS, 8 * HEIGHT, 8 * WIDTH, 3), np.float32),
        "timesteps": np.array([7, 801], np.int32),
    }


@pytest.fixture(scope="module")
def torch_gradients(inputs, unet_and_adapter, controlnet, resampler) -> dict[str, np.ndarray]:
    """Keyed as the files are: `image_proj.`, `ip_adapter.1.`, `controlnet.`."""
    unet, adapter = unet_and_adapter
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    modules = [controlnet.torch, resampler.torch, *adapter.branches.values()]
    for module in modules:
        module.requires_grad_(True)
    adapter.set_scale(1.0)
    added = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}
    id_tokens = resampler.torch(given["id_embeds"])
    down, mid = controlnet.torch(
        nchw(inputs["noisy"]),
        given["timesteps"],
        encoder_hidden_states=id_tokens,
        controlnet_cond=nchw(inputs["image"]),
        added_cond_kwargs=added,
        return_dict=False,
    )
    output = unet.torch(
        nchw(inputs["noisy"]),
        given["timesteps"],
        encoder_hidden_states=torch.cat([given["text"], id_tokens], dim=1),
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    torch.nn.functional.mse_loss(output, nchw(inputs["noise"])).backward()
    gradients = {
        **{f"controlnet.{n}": p.grad for n, p in controlnet.torch.named_parameters()},
        **{f"image_proj.{n}": p.grad for n, p in resampler.torch.named_parameters()},
        **{
            f"ip_adapter.{number}.{n}": p.grad
            for number, branch in adapter.branches.items()
            for n, p in branch.named_parameters()
        },
    }
    assert all(p.grad is None for p in unet.torch.parameters())
    gradients = {name: g.numpy().copy() for name, g in gradients.items()}
    for module in modules:
        module.zero_grad()
        module.requires_grad_(False)
    return gradients


@pytest.fixture(scope="module")
def ours(inputs, unet, controlnet, resampler):
    """The gradients by remat policy, and by whether stacks of blocks are loops."""
    networks = Networks(unet.network, controlnet.network, resampler.network, None, None, None)
    is_id = ("to_k_ip.kernel", "to_v_ip.kernel")
    frozen = {"unet": {k: v for k, v in unet.params.items() if not k.endswith(is_id)}}
    adapter = {k: v for k, v in unet.params.items() if k.endswith(is_id)}
    trainable = join_parts(
        {"image_proj": resampler.params, "ip_adapter": adapter, "controlnet": controlnet.params}
    )
    conditions = Conditions(*(jnp.asarray(inputs[name]) for name in Conditions._fields))

    def loss(networks, frozen, trainable, remat):
        prediction = predict(
            networks, frozen, trainable, inputs["noisy"], inputs["timesteps"], conditions, remat
        )
        alphas = jnp.linspace(0.999, 0.01, 1000)
        noise, timesteps = jnp.asarray(inputs["noise"]), jnp.asarray(inputs["timesteps"])
        each = losses(ObjectiveConfig(), alphas, prediction, noise, noise, timesteps)
        return each.mean()

    def gradients(policy, scan=False):
        remat = remat_wrapper(policy)
        if not scan:
            by_name = jax.grad(lambda params: loss(networks, frozen, params, remat))
            return jax.jit(by_name)(trainable)
        base = {"unet": stack(dict(frozen["unet"]))}
        of_stacks = jax.grad(lambda params: loss(networks.stacked(), base, params, remat))
        return unstack(jax.jit(of_stacks)(stack(dict(trainable))))

    return gradients


@pytest.fixture(scope="module")
def our_gradients(ours):
    return ours("none")


def test_every_trainable_has_torchs_gradient(our_gradients, torch_gradients):
    parts = split_parts(our_gradients)
    found = {
        **{f"controlnet.{n}": g for n, g in to_torch(parts["controlnet"]).items()},
        **{f"image_proj.{n}": g for n, g in to_torch(parts["image_proj"]).items()},
        **{f"ip_adapter.{n}": g for n, g in adapter_to_torch(parts["ip_adapter"]).items()},
    }
    assert found.keys() == torch_gradients.keys()
    zero = [name for name, g in torch_gradients.items() if not np.abs(g).max() > 0]
    assert not zero
    errors = {name: relative_error(found[name], g) for name, g in torch_gradients.items()}
    assert max(errors.values()) < TOLERANCE, max(errors.items(), key=lambda item: item[1])


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_remat_and_scan_change_no_gradient(ours, our_gradients, scan):
    again = ours("full", scan)
    # As one vector: in single small tensors, float32 rounds differently by up to 2e-6.
    whole = (np.concatenate([g[n].ravel() for n in our_gradients]) for g in (again, our_gradients))
    assert relative_error(*whole) < 1e-6
