"""Whole networks against PyTorch's, within 3e-5, at sizes that SDXL never has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from instantid_jax.models.clip import CLIPTextModel
from instantid_jax.params import Network
from tests.parity.conftest import pair_controlnet, pair_text_encoder, pair_unet, pair_vae
from tests.parity.reference import nchw, nhwc, relative_error, unit_noise

TOLERANCE = 3e-5
B, H, W = 2, 17, 25
TIME_IDS = np.array([[640, 480, 3, 5, 512, 384], [64, 48, 0, 0, 512, 384]], np.float32)
TIMESTEPS = np.array([801.0, 7.5], np.float32)
IP_ADAPTER_SCALE = np.float32(0.7)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def torched(array):
    return torch.from_numpy(np.array(array))


def moved(ours, theirs) -> bool:
    return relative_error(ours, theirs) > 10 * TOLERANCE


def images(seed, *shape):
    return np.random.default_rng(seed).random(shape, np.float32)


# -- UNet -----------------------------------------------------------------------------------------


def run_unet(network):
    @jax.jit
    def run(params, sample, timesteps, text, id_tokens, scale, pooled, time_ids, residuals):
        unet = network.bind(params)
        context = unet.keys_values(text, id_tokens, scale)
        return unet(sample, timesteps, context, unet.embed_added(pooled, time_ids), residuals)

    return run


def run_torch_unet(
    unet, adapter, sample, timesteps, text, id_tokens, scale, pooled, time_ids, residuals
):
    adapter.set_scale(float(scale))
    *down, mid = map(nchw, residuals)
    return nhwc(
        unet(
            nchw(sample),
            torched(timesteps),
            encoder_hidden_states=torched(np.concatenate([text, id_tokens], axis=1)),
            added_cond_kwargs={"text_embeds": torched(pooled), "time_ids": torched(time_ids)},
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
    )


@pytest.fixture(scope="module")
def unet_inputs():
    # 17 x 25 halves to 9 x 13 and 5 x 7.
    shapes = [(17, 25, 32)] * 2 + [(9, 13, 32), (9, 13, 48), (5, 7, 48)] + [(5, 7, 64)] * 2
    return {
        "sample": unit_noise(1, B, H, W, 4),
        "timesteps": TIMESTEPS,
        "text": unit_noise(2, B, 11, 64),
        "id_tokens": unit_noise(3, B, 6, 64),
        "scale": IP_ADAPTER_SCALE,
        "pooled": unit_noise(4, B, 36),
        "time_ids": TIME_IDS,
        "residuals": [unit_noise(5 + i, B, *shape) for i, shape in enumerate(shapes)],
    }


def test_unet_equals_torch_at_odd_sizes(unet_and_adapter, unet_inputs):
    pair, adapter = unet_and_adapter
    theirs = run_torch_unet(pair.torch, adapter, **unet_inputs)
    run = run_unet(pair.network)
    assert relative_error(run(pair.params, **unet_inputs), theirs) <= TOLERANCE
    residuals = unet_inputs["residuals"]
    switched_off = {
        "sample": 0 * unet_inputs["sample"],
        "timesteps": TIMESTEPS[::-1].copy(),
        "text": 0 * unet_inputs["text"],
        "id_tokens": 0 * unet_inputs["id_tokens"],
        "scale": np.float32(0),
        "pooled": 0 * unet_inputs["pooled"],
        "time_ids": 0 * TIME_IDS,
        "residuals": [0 * residual for residual in residuals],
    }
    for name, off in switched_off.items():
        assert moved(run(pair.params, **unet_inputs | {name: off}), theirs), name
    for i in range(len(residuals)):
        one_off = [0 * r if i == j else r for j, r in enumerate(residuals)]
        assert moved(run(pair.params, **unet_inputs | {"residuals": one_off}), theirs), i


def test_every_id_branch_matters_to_the_unet(unet_and_adapter, unet_inputs):
    """A branch in the wrong layer, or left out, would show: each is switched off in turn."""
    pair, adapter = unet_and_adapter
    theirs = run_torch_unet(pair.torch, adapter, **unet_inputs)
    run = run_unet(pair.network)
    values = [name for name in pair.params if name.endswith("to_v_ip.kernel")]
    assert len(values) == len(adapter.branches) == 11
    for name in values:
        without = pair.params | {name: jnp.zeros_like(pair.params[name])}
        assert moved(run(without, **unet_inputs), theirs), name


def test_unet_of_another_shape_equals_torch():
    pair, adapter = pair_unet(
        20,
        num_tokens=3,
        in_channels=5,
        out_channels=3,
        block_out_channels=(24, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=(1, 2),
        transformer_layers_per_block=2,
        attention_head_dim=(3, 2),
        cross_attention_dim=20,
        norm_num_groups=4,
        norm_eps=1e-3,
        flip_sin_to_cos=False,
        freq_shift=1,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=10 + 6 * 8,
    )
    shapes = [(6, 7, 24)] * 2 + [(3, 4, 24)] + [(3, 4, 16)] * 3
    inputs = {
        "sample": unit_noise(1, B, 6, 7, 5),
        "timesteps": TIMESTEPS,
        "text": unit_noise(2, B, 5, 20),
        "id_tokens": unit_noise(3, B, 3, 20),
        "scale": IP_ADAPTER_SCALE,
        "pooled": unit_noise(4, B, 10),
        "time_ids": TIME_IDS,
        "residuals": [unit_noise(5 + i, B, *shape) for i, shape in enumerate(shapes)],
    }
    theirs = run_torch_unet(pair.torch, adapter, **inputs)
    run = run_unet(pair.network)
    assert relative_error(run(pair.params, **inputs), theirs) <= TOLERANCE
    assert moved(run(pair.params, **inputs | {"scale": np.float32(0)}), theirs)


# -- ControlNet -----------------------------------------------------------------------------------


def run_controlnet(pair):
    @jax.jit
    def run(params, sample, timesteps, tokens, pooled, time_ids, image):
        net = pair.network.bind(params)
        added = net.embed_added(pooled, time_ids)
        return net(sample, timesteps, net.keys_values(tokens), added, net.embed_image(image))

    return run


def run_torch_controlnet(pair, sample, timesteps, tokens, pooled, time_ids, image):
    down, mid = pair.torch(
        nchw(sample),
        torched(timesteps),
        encoder_hidden_states=torched(tokens),
        added_cond_kwargs={"text_embeds": torched(pooled), "time_ids": torched(time_ids)},
        controlnet_cond=nchw(image),
        return_dict=False,
    )
    return [nhwc(tensor) for tensor in [*down, mid]]


@pytest.fixture(scope="module")
def controlnet_inputs():
    return {
        "sample": unit_noise(1, B, H, W, 4),
        "timesteps": TIMESTEPS,
        "tokens": unit_noise(3, B, 6, 64),
        "pooled": unit_noise(4, B, 36),
        "time_ids": TIME_IDS,
        "image": images(5, B, 8 * H, 8 * W, 3),
    }


def test_controlnet_residuals_equal_torch_at_odd_sizes(controlnet, controlnet_inputs):
    theirs = run_torch_controlnet(controlnet, **controlnet_inputs)
    run = run_controlnet(controlnet)
    ours = run(controlnet.params, **controlnet_inputs)
    assert len(ours) == 7
    errors = [relative_error(*pair) for pair in zip(ours, theirs, strict=True)]
    assert max(errors) <= TOLERANCE, errors
    switched_off = {
        "timesteps": TIMESTEPS[::-1].copy(),
        **{
            name: 0 * controlnet_inputs[name]
            for name in ("sample", "tokens", "pooled", "time_ids", "image")
        },
    }
    for name, off in switched_off.items():
        changed = run(controlnet.params, **controlnet_inputs | {name: off})
        assert moved(changed[-1], theirs[-1]), name


def test_controlnet_of_bgr_images_equals_torch(controlnet_inputs):
    pair = pair_controlnet(
        21,
        controlnet_conditioning_channel_order="bgr",
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        block_out_channels=(16, 24),
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 3),
        layers_per_block=2,
    )
    small = {"sample": unit_noise(1, B, 3, 4, 4), "image": images(5, B, 24, 32, 3)}
    inputs = controlnet_inputs | small
    theirs = run_torch_controlnet(pair, **inputs)
    run = run_controlnet(pair)
    for ours, torchs in zip(run(pair.params, **inputs), theirs, strict=True):
        assert relative_error(ours, torchs) <= TOLERANCE
    rgb = inputs | {"image": inputs["image"][..., ::-1].copy()}
    assert moved(run(pair.params, **rgb)[-1], theirs[-1])


# -- VAE ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae_with_statistics():
    return pair_vae(
        22,
        latents_mean=(0.1, -0.3, 0.5, 1.0),
        latents_std=(0.5, 1.5, 2.0, 1.1),
        norm_num_groups=4,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def shift_and_scale(config):
    if config.latents_mean is None:
        return 0.0, config.scaling_factor
    mean, std = (np.array(v, np.float32) for v in (config.latents_mean, config.latents_std))
    return mean, config.scaling_factor / std


@pytest.mark.parametrize("name", ["vae", "vae_with_statistics"])
def test_vae_encoding_equals_torch(request, name):
    pair = request.getfixturevalue(name)
    image = 2 * images(1, 2, 40, 56, 3) - 1
    posterior = pair.torch.encode(nchw(image)).latent_dist
    mean, std = nhwc(posterior.mean), nhwc(posterior.std)
    noise = unit_noise(2, *mean.shape)
    shift, scale = shift_and_scale(pair.torch.config)
    encode = jax.jit(lambda params, *args: pair.network.bind(params).encode(*args))
    for ours, theirs in (
        (encode(pair.params, image), (mean - shift) * scale),
        (encode(pair.params, image, noise), (mean + std * noise - shift) * scale),
    ):
        assert relative_error(ours, theirs) <= TOLERANCE
    assert moved(encode(pair.params, image), (mean + std * noise - shift) * scale)
    if name == "vae_with_statistics":
        assert moved(encode(pair.params, image), mean * pair.torch.config.scaling_factor)


@pytest.mark.parametrize("name", ["vae", "vae_with_statistics"])
def test_vae_decoding_equals_torch(request, name):
    pair = request.getfixturevalue(name)
    latents = unit_noise(1, 2, 5, 7, 4)
    shift, scale = shift_and_scale(pair.torch.config)
    theirs = nhwc(pair.torch.decode(nchw(latents / scale + shift)).sample)
    decode = jax.jit(lambda params, latents: pair.network.bind(params).decode(latents))
    assert relative_error(decode(pair.params, latents), theirs) <= TOLERANCE
    if name == "vae_with_statistics":
        without = nhwc(pair.torch.decode(nchw(latents / pair.torch.config.scaling_factor)).sample)
        assert moved(without, theirs)


# -- CLIP -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token_ids():
    """Prompts of several lengths, padded with the end mark, or after it with zeros ("!")."""
    start, end = 520, 521
    rng = np.random.default_rng(1)
    rows = np.zeros((4, 77), np.int32)
    for row, length, pad in zip(rows, (0, 5, 74, 75), (end, end, 0, 0), strict=True):
        row[:] = pad
        row[0] = start
        row[1 : 1 + length] = rng.integers(0, 520, length)
        row[1 + length] = end
    return rows


def run_text_encoder(network):
    return jax.jit(
        lambda params, ids, clip_skip: network.bind(params)(ids, clip_skip),
        static_argnames="clip_skip",
    )


@pytest.mark.parametrize("with_projection", [False, True])
@pytest.mark.parametrize("eos_token_id", [2, 521])
def test_text_encoder_equals_torch(with_projection, eos_token_id, token_ids):
    pair = pair_text_encoder(23, with_projection=with_projection, eos_token_id=eos_token_id)
    theirs = pair.torch(torched(token_ids).long(), output_hidden_states=True)
    pooled = theirs.text_embeds if with_projection else theirs.pooler_output
    run = run_text_encoder(pair.network)
    for clip_skip in (0, 1, 2):
        ours = run(pair.params, token_ids, clip_skip)
        states = theirs.hidden_states[-2 - clip_skip]
        assert relative_error(ours.hidden_states, states) <= TOLERANCE
        assert relative_error(ours.pooled, pooled) <= TOLERANCE
        assert moved(ours.hidden_states, theirs.hidden_states[-1 - clip_skip])
    # The pooled state stands at the end of the text, not of the row.
    cut = token_ids.copy()
    cut[1, 1:] = 521
    assert moved(run(pair.params, cut, 0).pooled[1], pooled[1])


def test_text_encoder_pools_at_the_first_end_mark_unless_it_is_2(token_ids):
    """With a real `eos_token_id`, tokens of a higher id after it change nothing."""
    pair = pair_text_encoder(24, with_projection=True, eos_token_id=300)
    ids = token_ids.copy()
    ids[:, 7] = 300
    ids[:, 9] = 300
    theirs = pair.torch(torched(ids).long()).text_embeds
    ours = run_text_encoder(pair.network)(pair.params, ids, 0).pooled
    assert relative_error(ours, theirs) <= TOLERANCE
    network = Network(CLIPTextModel, dataclasses.replace(pair.network.config, eos_token_id=2))
    assert moved(run_text_encoder(network)(pair.params, ids, 0).pooled, theirs)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_every_weight_of_the_text_encoder_matters(request, name, token_ids):
    pair = request.getfixturevalue(name)
    ids = token_ids[1:2]
    run = jax.jit(lambda params: pair.network.bind(params)(ids))
    want = run(pair.params)
    for weight in pair.params:
        if weight.endswith("k_proj.bias"):
            continue  # the same number on all logits of a query
        off = jnp.ones_like if weight.endswith("scale") else jnp.zeros_like
        changed = run(pair.params | {weight: off(pair.params[weight])})
        assert max(relative_error(*p) for p in zip(changed, want, strict=True)) > 10 * TOLERANCE


# -- Resampler ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0])
def test_resampler_equals_torch(resampler, size):
    """Faces of unit entries, stronger ones, and the zeros of the unconditional person."""
    faces = size * unit_noise(1, 3, 512)
    theirs = resampler.torch(torched(faces))
    run = jax.jit(lambda params, faces: resampler.network.bind(params)(faces))
    ours = run(resampler.params, faces)
    assert ours.shape == (3, 6, 64)
    assert relative_error(ours, theirs) <= TOLERANCE
    for name, value in resampler.params.items():
        if size == 0.0 and name == "proj_in.kernel":
            continue  # nothing to multiply
        off = jnp.ones_like if name.endswith("scale") else jnp.zeros_like
        assert moved(run(resampler.params | {name: off(value)}, faces), theirs), name
