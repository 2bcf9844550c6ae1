"""Names and layouts between torch and us: strict, and the same bytes there and back."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from instantid_jax.errors import InputError
from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.resampler import Resampler, ResamplerConfig
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network
from instantid_jax.weights.names import (
    adapter_layers,
    adapter_to_jax,
    adapter_to_torch,
    text_encoder_names,
    to_jax,
    to_torch,
    torch_name,
    vae_names,
)
from instantid_jax.weights.tensors import LazyTensor
from tests.parity import reference
from tests.parity.bridge import as_numpy, as_tensors

DTYPES = {
    "float32": (torch.float32,),
    "float16": (torch.float16,),
    "bfloat16": (torch.bfloat16,),
    "mixed": (torch.float32, torch.bfloat16, torch.float16),
}


def is_adapter(name):
    return name.endswith(("to_k_ip.kernel", "to_v_ip.kernel"))


def split_adapter(network):
    shapes = network.shapes
    own = {name: shape for name, shape in shapes.items() if not is_adapter(name)}
    return own, {name: shape for name, shape in shapes.items() if is_adapter(name)}


@pytest.fixture(scope="module")
def unet():
    model = reference.make_unet(1)
    network = Network(UNet2DConditionModel, UNetConfig.from_json(dict(model.config)))
    return model, reference.IDAdapter(model, 6, seed=2), network


@pytest.fixture(scope="module")
def models(unet):
    """Each network's torch state, under published names, and our shapes."""
    unet_model, _, unet_network = unet
    controlnet, vae = reference.make_controlnet(2), reference.make_vae(3)
    resampler = reference.fill(reference.Resampler(**reference.RESAMPLER), 4)
    resampler_config = ResamplerConfig.from_shapes(
        {name: tuple(tensor.shape) for name, tensor in resampler.state_dict().items()}, dim_head=16
    )
    controlnet_config = ControlNetConfig.from_json(dict(controlnet.config))
    models = {
        "unet": (unet_model.state_dict(), split_adapter(unet_network)[0]),
        "controlnet": (
            controlnet.state_dict(),
            Network(ControlNetModel, controlnet_config).shapes,
        ),
        "vae": (
            vae.state_dict(),
            Network(AutoencoderKL, VAEConfig.from_json(dict(vae.config))).shapes,
        ),
        "resampler": (resampler.state_dict(), Network(Resampler, resampler_config).shapes),
    }
    for name, with_projection in (("text_encoder", False), ("text_encoder_2", True)):
        model = reference.make_text_encoder(5, with_projection=with_projection)
        settings = model.config.to_dict() | {"architectures": [type(model).__name__]}
        shapes = Network(CLIPTextModel, CLIPTextConfig.from_json(settings)).shapes
        models[name] = (reference.with_text_model_prefix(model.state_dict()), shapes)
    return models


NAMES = ["unet", "controlnet", "vae", "resampler", "text_encoder", "text_encoder_2"]


def convert_dtypes(state, dtypes):
    return {name: x.to(dtypes[i % len(dtypes)]) for i, (name, x) in enumerate(state.items())}


def assert_same_bytes(ours, state):
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        theirs = as_numpy(tensor)
        assert (ours[name].shape, ours[name].dtype) == (theirs.shape, theirs.dtype), name
        assert ours[name].tobytes() == theirs.tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_to_jax_and_back_gives_the_same_bytes(models, name, dtype):
    state, shapes = models[name]
    state = convert_dtypes(state, DTYPES[dtype])
    converted = to_jax(as_tensors(state), shapes, name)
    assert list(converted) == list(shapes)
    params = {}
    for key, tensor in converted.items():
        params[key] = jnp.asarray(tensor.read())
        assert params[key].shape == tensor.shape == shapes[key].shape
        assert params[key].dtype == tensor.dtype
    assert_same_bytes(to_torch(params), state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adapter_to_jax_and_back_gives_the_same_bytes(unet, dtype):
    _, adapter, network = unet
    state = convert_dtypes(adapter.state_dict(), DTYPES[dtype])
    converted = adapter_to_jax(as_tensors(state), split_adapter(network)[1], "adapter")
    assert_same_bytes(
        adapter_to_torch({name: tensor.read() for name, tensor in converted.items()}), state
    )


def test_written_tensors_are_contiguous(models):
    state, shapes = models["vae"]
    params = {n: t.read() for n, t in to_jax(as_tensors(state), shapes, "vae").items()}
    assert all(tensor.flags.c_contiguous for tensor in to_torch(params).values())


def test_leaf_rules():
    assert torch_name("a.0.kernel", 4) == ("a.0.weight", (2, 3, 1, 0))
    assert torch_name("a.kernel", 2) == ("a.weight", (1, 0))
    assert torch_name("a.scale", 1) == ("a.weight", (0,))
    assert torch_name("a.bias", 1) == ("a.bias", (0,))
    assert torch_name("a.embedding", 2) == ("a.weight", (0, 1))
    assert torch_name("latents", 3) == ("latents", (0, 1, 2))


# -- strictness -----------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_told_at_once(models):
    state, shapes = models["vae"]
    tensors = as_tensors(state)
    del tensors["encoder.conv_in.weight"]
    tensors["decoder.extra.weight"] = tensors["encoder.conv_in.bias"]
    tensors["quant_conv.weight"] = tensors["quant_conv.weight"].reshape((64,))
    with pytest.raises(InputError) as caught:
        to_jax(tensors, shapes, "the VAE in FOLDER")
    line = str(caught.value)
    assert line.startswith("the VAE in FOLDER does not fit: ")
    assert "1 missing: encoder.conv_in.weight" in line
    assert "1 unexpected: decoder.extra.weight" in line
    assert "quant_conv.weight is (64,), expected (8, 8, 1, 1)" in line
    assert "\n" not in line


def test_a_matrix_of_another_orientation_is_refused(models):
    state, shapes = models["unet"]
    name = "add_embedding.linear_1.weight"
    tensors = as_tensors(state)
    tensors[name] = tensors[name].transpose((1, 0))
    with pytest.raises(InputError, match=rf"{name} is \(132, 128\), expected \(128, 132\)"):
        to_jax(tensors, shapes, "x")


@pytest.mark.parametrize("dtype", [np.float64, np.int8, ml_dtypes.float8_e4m3b11fnuz])
def test_dtypes_that_no_network_holds_are_refused_by_name(models, dtype):
    state, shapes = models["resampler"]
    array = as_numpy(state["latents"]).astype(dtype)
    tensors = as_tensors(state)
    tensors["latents"] = LazyTensor(array.shape, array.dtype, lambda: array)
    with pytest.raises(InputError, match=rf"x: latents is stored as {np.dtype(dtype)}, expected"):
        to_jax(tensors, shapes, "x")


def test_nothing_is_read_until_it_is_asked_for(models):
    state, shapes = models["resampler"]
    asked = []

    def lazy(name, array):
        return LazyTensor(array.shape, array.dtype, lambda: asked.append(name) or array)

    tensors = {name: lazy(name, as_numpy(tensor)) for name, tensor in state.items()}
    converted = to_jax(tensors, shapes, "x")
    assert asked == []
    converted["proj_in.kernel"].read()
    assert asked == ["proj_in.weight"]


# -- the adapter's order --------------------------------------------------------------------------


def golden_layers() -> dict[int, str]:
    """The published file's numbers: down, up, and the middle block last."""
    golden = {}
    for attention in range(2):
        for block in range(2):
            number = 1 + 2 * (2 * attention + block)
            golden[number] = f"down_blocks.1.attentions.{attention}.transformer_blocks.{block}"
        for block in range(10):
            number = 9 + 2 * (10 * attention + block)
            golden[number] = f"down_blocks.2.attentions.{attention}.transformer_blocks.{block}"
    for attention in range(3):
        for block in range(10):
            number = 49 + 2 * (10 * attention + block)
            golden[number] = f"up_blocks.0.attentions.{attention}.transformer_blocks.{block}"
        for block in range(2):
            number = 109 + 2 * (2 * attention + block)
            golden[number] = f"up_blocks.1.attentions.{attention}.transformer_blocks.{block}"
    for block in range(10):
        golden[121 + 2 * block] = f"mid_block.attentions.0.transformer_blocks.{block}"
    return golden


@pytest.fixture(scope="module")
def sdxl_adapter():
    return split_adapter(Network(UNet2DConditionModel, UNetConfig()))[1]


def test_adapter_numbers_of_sdxl(sdxl_adapter):
    layers = adapter_layers(list(sdxl_adapter))
    numbered = {2 * i + 1: layer.removesuffix(".attn2") for i, layer in enumerate(layers)}
    assert numbered == golden_layers()
    assert list(numbered) == list(range(1, 140, 2))


def test_adapter_order_does_not_depend_on_the_order_of_names(sdxl_adapter):
    names = list(sdxl_adapter)
    assert adapter_layers(sorted(names)) == adapter_layers(names)
    assert adapter_layers(names[::-1]) == adapter_layers(names)


def test_adapter_tensors_reach_their_layers(sdxl_adapter):
    """Identifies each full-size tensor by its number, without allocating it."""
    tensors = {}
    for number, layer in golden_layers().items():
        for leaf in ("to_k_ip", "to_v_ip"):
            width, token_dim = sdxl_adapter[f"{layer}.attn2.{leaf}.kernel"].shape[::-1]
            key = f"{number}.{leaf}.weight"
            tensors[key] = LazyTensor((width, token_dim), np.dtype(np.float32), _named(key))
    converted = adapter_to_jax(tensors, sdxl_adapter, "adapter")
    for number, layer in golden_layers().items():
        for leaf in ("to_k_ip", "to_v_ip"):
            read = converted[f"{layer}.attn2.{leaf}.kernel"].read()
            assert read.item() == f"{number}.{leaf}.weight"


def _named(name):
    return lambda: np.array([[name]])


def test_small_unets_are_numbered_as_torch_registers_them(unet):
    _, adapter, network = unet
    numbers = {2 * i + 1: layer for i, layer in enumerate(adapter_layers(list(network.shapes)))}
    assert numbers == adapter.layers


def test_an_adapter_of_another_model_is_refused(unet):
    _, adapter, network = unet
    tensors = as_tensors(adapter.state_dict())
    tensors["140.to_k_ip.weight"] = tensors.pop("1.to_k_ip.weight")
    with pytest.raises(InputError, match=r"missing: 1\.to_k_ip.*unexpected: 140\.to_k_ip"):
        adapter_to_jax(tensors, split_adapter(network)[1], "the adapter")


# -- older spellings ------------------------------------------------------------------------------


@pytest.mark.parametrize("as_convolutions", [False, True])
def test_old_names_of_the_vaes_attentions(models, as_convolutions):
    state, shapes = models["vae"]
    old = {}
    for name, tensor in state.items():
        if ".attentions." in name:
            for new, before in (
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ):
                name = name.replace(f".{new}.", f".{before}.")
            if as_convolutions and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        old[name] = tensor
    assert old.keys() != state.keys()
    renamed = to_jax(vae_names(as_tensors(old)), shapes, "vae")
    assert_same_bytes(to_torch({name: tensor.read() for name, tensor in renamed.items()}), state)


def test_todays_names_of_the_vae_stay(models):
    state, _ = models["vae"]
    tensors = as_tensors(state)
    assert vae_names(tensors) == tensors


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_text_encoders_with_and_without_the_outer_level(models, name):
    state, shapes = models[name]
    without = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    positions = {"embeddings.position_ids": torch.arange(77)[None]}
    for variant in (state, without, without | positions, state | positions):
        tensors = text_encoder_names(as_tensors(variant))
        converted = to_jax(tensors, shapes, name)
        assert_same_bytes(to_torch({k: t.read() for k, t in converted.items()}), state)
