"""Every kind of block against PyTorch's, within 1e-5; and each of its weights must matter."""

import jax
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D as TorchResnetBlock2D

from instantid_jax.models import layers
from instantid_jax.models.attention import attention
from instantid_jax.models.blocks import ResnetBlock2D
from instantid_jax.params import Network
from tests.parity.bridge import Part, to_params
from tests.parity.reference import attend, fill, nchw, nhwc, relative_error, unit_noise

TOLERANCE = 1e-5
# With a norm inside, a wrong epsilon shows only at small inputs.
SCALES = [1.0, 0.01]
# Four times the first width of the UNet.
TIME_DIM = 128
# softmax(q (k + b)ᵀ) = softmax(q kᵀ): all logits of a query grow by the same number.
WITHOUT_EFFECT = ("to_k.bias", "k_proj.bias")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def torched(*arrays):
    tensors = [torch.from_numpy(np.array(array)) for array in arrays]
    return tensors[0] if len(tensors) == 1 else tensors


def silu(array):
    return torch.nn.functional.silu(torched(array)).numpy()


def compare(ours: Part, args: tuple, *theirs: np.ndarray) -> None:
    """Compares each output, and sees one move when any one weight is switched off."""
    errors = [
        relative_error(*pair) for pair in zip(jax.tree.leaves(ours(*args)), theirs, strict=True)
    ]
    assert max(errors) <= TOLERANCE, errors
    for name in ours.params:
        if name.endswith(WITHOUT_EFFECT):
            continue
        changed = jax.tree.leaves(ours.without(name, *args))
        moved = max(relative_error(*pair) for pair in zip(changed, theirs, strict=True))
        assert moved > 10 * TOLERANCE, f"{name} does not matter: {moved}"


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dim", [32, 33])
def test_sinusoidal_embedding_equals_torch(dim, flip, shift):
    values = np.array([0, 1, 17.25, 500, 999, 4096], np.float32)
    ours = layers.sinusoidal_embedding(values, dim, flip_sin_to_cos=flip, freq_shift=shift)
    theirs = get_timestep_embedding(
        torched(values), dim, flip_sin_to_cos=flip, downscale_freq_shift=shift
    )
    # Angles reach 4096: one rounding of a frequency moves a sine by 1e-4.
    assert relative_error(ours[:-1], theirs[:-1]) <= TOLERANCE
    assert relative_error(ours[-1], theirs[-1]) <= 10 * TOLERANCE
    other = layers.sinusoidal_embedding(values, dim, flip_sin_to_cos=not flip, freq_shift=shift)
    assert relative_error(other, theirs) > 0.1


def test_activations_equal_torch():
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    gelu = torch.nn.functional.gelu(torched(x))
    assert relative_error(layers.gelu(x), gelu) <= TOLERANCE
    assert relative_error(jax.nn.gelu(x), gelu) > 10 * TOLERANCE  # the tanh form
    assert (
        relative_error(layers.quick_gelu(x), torched(x) * torch.sigmoid(1.702 * torched(x)))
        <= TOLERANCE
    )


@pytest.mark.parametrize("size", [(8, 10), (7, 9), (8, 9), (7, 10)])
def test_nearest_upsampling_equals_torch(size):
    x = unit_noise(1, 2, 4, 5, 3)
    theirs = torch.nn.functional.interpolate(nchw(x), size=size, mode="nearest")
    np.testing.assert_array_equal(layers.upsample_nearest(x, size), nhwc(theirs))


@pytest.mark.parametrize("path", ["time_embedding", "add_embedding"])
def test_timestep_embedding_equals_torch(unet, path):
    theirs = unet.torch.get_submodule(path)
    x = unit_noise(1, 3, theirs.linear_1.in_features)
    compare(Part(unet.ours, path), (x,), theirs(torched(x)))


# -- convolutional blocks -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", ["down_blocks.0.resnets.0", "up_blocks.1.resnets.1"])
def test_resnet_block_equals_torch(unet, path, scale):
    theirs = unet.torch.get_submodule(path)
    x = scale * unit_noise(1, 2, 5, 6, theirs.in_channels)
    time = unit_noise(2, 2, TIME_DIM)
    want = nhwc(theirs(nchw(x), torched(time)))
    compare(Part(unet.ours, path), (x, silu(time)), want)


@pytest.mark.parametrize("scale", SCALES)
def test_resnet_block_without_time_equals_torch(vae, scale):
    path = "encoder.down_blocks.1.resnets.0"
    x = scale * unit_noise(1, 2, 5, 6, 16)
    compare(Part(vae.ours, path), (x,), nhwc(vae.torch.get_submodule(path)(nchw(x), None)))


def test_resnet_block_takes_its_epsilon():
    theirs = TorchResnetBlock2D(in_channels=16, temb_channels=None, groups=4, eps=1e-5)
    fill(theirs, seed=1)
    x = 0.01 * unit_noise(1, 2, 5, 6, 16)
    errors = {}
    for eps in (1e-5, 1e-6):

        class Block(ResnetBlock2D):
            def __init__(self, eps, *, rngs):
                super().__init__(16, 16, time_dim=None, groups=4, eps=eps, rngs=rngs)

        network = Network(Block, eps)
        ours = network.bind(to_params(network, theirs.state_dict()))
        errors[eps] = relative_error(ours(x), nhwc(theirs(nchw(x), None)))
    assert errors[1e-5] <= TOLERANCE
    assert errors[1e-6] > 10 * TOLERANCE


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_downsampling_equals_torch_at_even_and_odd_sizes(unet, size):
    path = "down_blocks.0.downsamplers.0"
    x = unit_noise(1, 2, *size, 32)
    compare(Part(unet.ours, path), (x,), nhwc(unet.torch.get_submodule(path)(nchw(x))))


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_downsampling_of_the_vae_pads_as_torch(vae, size):
    path = "encoder.down_blocks.0.downsamplers.0"
    x = unit_noise(1, 2, *size, 16)
    compare(Part(vae.ours, path), (x,), nhwc(vae.torch.get_submodule(path)(nchw(x))))


@pytest.mark.parametrize("size", [(8, 10), (7, 9), (8, 9)])
def test_upsampling_equals_torch_to_even_and_odd_sizes(unet, size):
    path = "up_blocks.0.upsamplers.0"
    x = unit_noise(1, 2, 4, 5, 64)
    want = nhwc(unet.torch.get_submodule(path)(nchw(x), output_size=size))
    compare(Part(unet.ours, path, lambda upsample, x: upsample(x, size)), (x,), want)


def test_conditioning_embedding_equals_torch(controlnet):
    path = "controlnet_cond_embedding"
    image = np.random.default_rng(1).random((2, 40, 56, 3), np.float32)
    want = nhwc(controlnet.torch.get_submodule(path)(nchw(image)))
    assert want.shape == (2, 5, 7, 32)
    compare(Part(controlnet.ours, path), (image,), want)


# -- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torch(causal):
    query, key, value = (3 * unit_noise(i, 2, 9, 3, 8) for i in range(3))
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(torched(x).transpose(1, 2) for x in (query, key, value)), is_causal=causal
    ).transpose(1, 2)
    assert relative_error(attention(query, key, value, causal=causal), theirs) <= TOLERANCE
    assert relative_error(attention(query, key, value, causal=not causal), theirs) > 0.1


def test_self_attention_equals_torch(unet):
    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    x = unit_noise(1, 2, 9, 64)
    compare(Part(unet.ours, path), (x,), unet.torch.get_submodule(path)(torched(x)))


def test_cross_attention_equals_torch(controlnet):
    path = "mid_block.attentions.0.transformer_blocks.1.attn2"
    x, tokens = unit_noise(1, 2, 9, 64), unit_noise(2, 2, 7, 64)
    want = controlnet.torch.get_submodule(path)(torched(x), torched(tokens))
    ours = Part(controlnet.ours, path, lambda attn, x, tokens: attn(x, attn.keys_values(tokens)))
    compare(ours, (x, tokens), want)


@pytest.fixture
def decoupled(unet_and_adapter):
    """Inputs of our decoupled attentions, and the joint rows for torch's."""
    _, adapter = unet_and_adapter
    adapter.set_scale(0.7)
    text, id_tokens = unit_noise(2, 2, 7, 64), unit_noise(3, 2, 6, 64)
    return (text, id_tokens, np.float32(0.7)), torched(np.concatenate([text, id_tokens], axis=1))


def test_decoupled_cross_attention_equals_torch(unet, decoupled):
    path = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    given, joint = decoupled
    x = unit_noise(1, 2, 9, 48)
    want = unet.torch.get_submodule(path)(torched(x), joint)
    ours = Part(unet.ours, path, lambda attn, x, *given: attn(x, attn.keys_values(*given)))
    compare(ours, (x, *given), want)
    text, id_tokens, _ = given
    assert relative_error(ours(x, text, id_tokens, np.float32(0)), want) > 0.1
    # One softmax over both sets of tokens would be another function.
    layer = unet.torch.get_submodule(path)
    branch = layer.processor.branch
    keys = torch.cat([layer.to_k(torched(text)), branch.to_k_ip(torched(id_tokens))], dim=1)
    values = torch.cat([layer.to_v(torched(text)), branch.to_v_ip(torched(id_tokens))], dim=1)
    joint_softmax = attend(layer.to_q(torched(x)), keys, values, layer.heads)
    assert relative_error(ours(x, *given), layer.to_out[0](joint_softmax)) > 0.1


@pytest.mark.parametrize("scale", SCALES)
def test_vae_attention_equals_torch(vae, scale):
    path = "decoder.mid_block.attentions.0"
    x = scale * unit_noise(1, 2, 3, 4, 40)
    compare(Part(vae.ours, path), (x,), nhwc(vae.torch.get_submodule(path)(nchw(x))))


@pytest.mark.parametrize("scale", SCALES)
def test_perceiver_attention_equals_torch(resampler, scale):
    path = "layers.0.0"
    x, latents = scale * unit_noise(1, 2, 1, 48), scale * unit_noise(2, 2, 6, 48)
    want = resampler.torch.get_submodule(path)(torched(x), torched(latents))
    compare(Part(resampler.ours, path), (x, latents), want)


# -- transformers ---------------------------------------------------------------------------------


def test_feed_forward_equals_torch(unet):
    path = "mid_block.attentions.0.transformer_blocks.0.ff"
    x = unit_noise(1, 2, 9, 64)
    compare(Part(unet.ours, path), (x,), unet.torch.get_submodule(path)(torched(x)))


@pytest.mark.parametrize("scale", SCALES)
def test_transformer_block_equals_torch(unet, decoupled, scale):
    path = "up_blocks.1.attentions.0.transformer_blocks.0"
    given, joint = decoupled
    x = scale * unit_noise(1, 2, 9, 48)
    want = unet.torch.get_submodule(path)(torched(x), encoder_hidden_states=joint)
    ours = Part(unet.ours, path, lambda block, x, *given: block(x, block.attn2.keys_values(*given)))
    compare(ours, (x, *given), want)


@pytest.mark.parametrize("scale", SCALES)
def test_transformer_equals_torch(unet, decoupled, scale):
    path = "down_blocks.2.attentions.0"
    given, joint = decoupled
    x = scale * unit_noise(1, 2, 3, 4, 64)
    theirs = unet.torch.get_submodule(path)
    want = nhwc(theirs(nchw(x), encoder_hidden_states=joint, return_dict=False)[0])
    ours = Part(unet.ours, path, lambda stack, x, *given: stack(x, stack.keys_values(*given)))
    compare(ours, (x, *given), want)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_text_encoder_layer_equals_torch(request, name, scale):
    pair = request.getfixturevalue(name)
    path = "text_model.encoder.layers.1"
    x = scale * unit_noise(1, 2, 9, pair.network.config.hidden_size)
    # CLIPTextModel has no outer level in this transformers.
    theirs = dict(pair.torch.named_modules()).get(path) or pair.torch.get_submodule(path[11:])
    mask = torch.full((9, 9), -torch.inf).triu(1)[None, None]
    compare(Part(pair.ours, path), (x,), theirs(torched(x), attention_mask=mask))


# -- blocks of the networks -----------------------------------------------------------------------


def test_down_block_equals_torch(unet):
    path = "down_blocks.0"
    x, time = unit_noise(1, 2, 5, 6, 32), unit_noise(2, 2, TIME_DIM)
    out, skips = unet.torch.get_submodule(path)(nchw(x), torched(time))
    compare(Part(unet.ours, path), (x, silu(time), ()), nhwc(out), *map(nhwc, skips))


def test_down_block_with_cross_attention_equals_torch(unet, decoupled):
    path = "down_blocks.1"
    given, joint = decoupled
    x, time = unit_noise(1, 2, 5, 6, 32), unit_noise(2, 2, TIME_DIM)
    out, skips = unet.torch.get_submodule(path)(nchw(x), torched(time), encoder_hidden_states=joint)
    ours = Part(unet.ours, path, lambda block, x, t, *given: block(x, t, block.keys_values(*given)))
    compare(ours, (x, silu(time), *given), nhwc(out), *map(nhwc, skips))


def test_mid_block_equals_torch(unet, decoupled):
    path = "mid_block"
    given, joint = decoupled
    x, time = unit_noise(1, 2, 3, 4, 64), unit_noise(2, 2, TIME_DIM)
    want = unet.torch.get_submodule(path)(nchw(x), torched(time), encoder_hidden_states=joint)
    ours = Part(unet.ours, path, lambda block, x, t, *given: block(x, t, block.keys_values(*given)))
    compare(ours, (x, silu(time), *given), nhwc(want))


def test_up_block_with_cross_attention_equals_torch_to_an_odd_size(unet, decoupled):
    path = "up_blocks.1"
    given, joint = decoupled
    x, time = unit_noise(1, 2, 3, 4, 64), unit_noise(2, 2, TIME_DIM)
    # The block takes the last two; the one before tells the size to grow to.
    skips = [unit_noise(3, 2, 5, 8, 32), unit_noise(4, 2, 3, 4, 32), unit_noise(5, 2, 3, 4, 48)]
    want = unet.torch.get_submodule(path)(
        nchw(x),
        tuple(map(nchw, skips[1:])),
        torched(time),
        encoder_hidden_states=joint,
        upsample_size=(5, 8),
    )
    ours = Part(
        unet.ours,
        path,
        lambda block, x, skips, t, *given: block(x, skips, t, block.keys_values(*given)),
    )
    compare(ours, (x, skips, silu(time), *given), nhwc(want))


def test_up_block_equals_torch(unet):
    path = "up_blocks.2"
    x, time = unit_noise(1, 2, 5, 4, 48), unit_noise(2, 2, TIME_DIM)
    skips = [unit_noise(3, 2, 5, 4, 32), unit_noise(4, 2, 5, 4, 32)]
    want = unet.torch.get_submodule(path)(nchw(x), tuple(map(nchw, skips)), torched(time))
    compare(Part(unet.ours, path), (x, skips, silu(time), ()), nhwc(want))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("path", "channels"),
    [
        ("encoder.down_blocks.0", 16),
        ("encoder.mid_block", 40),
        ("decoder.up_blocks.1", 40),
        ("decoder.up_blocks.3", 24),
    ],
)
def test_vae_block_equals_torch(vae, path, channels, scale):
    x = scale * unit_noise(1, 2, 6, 4, channels)
    compare(Part(vae.ours, path), (x,), nhwc(vae.torch.get_submodule(path)(nchw(x))))
