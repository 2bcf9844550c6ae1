"""Merged weights, against sums in float64 and against diffusers with PEFT."""

import itertools
import json

import diffusers
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from instantid_jax.components import component_shapes
from instantid_jax.pipeline.sources import Sources
from instantid_jax.weights.lora.merging import find_merge
from instantid_jax.weights.lora.sources import Lora
from instantid_jax.weights.lora.spellings import PARTS
from instantid_jax.weights.names import to_torch
from tests.convert.published import UNET, write_published
from tests.parity import reference
from tests.weights.lora.files import (
    ATTENTION,
    CONV,
    KEY,
    TEXT,
    alpha,
    factors,
    known,
    product,
    write,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype=np.dtype(np.float32))
    return folder


@pytest.fixture(scope="module")
def components(folder):
    return Sources(sdxl=str(folder), instantid=str(folder)).find().components


def merged(components, *loras, dtype=jnp.float32):
    """All parameters of SDXL's networks, under our names."""
    merge = find_merge([Lora.parse(each) for each in loras], components)
    found = {}
    for part in PARTS:
        names = list(component_shapes(part, components[part].network))
        groups = merge.load(components[part], part, dtype, names)
        found[part] = {name: value for group in groups for name, value in group.items()}
        assert found[part].keys() == set(names)
    return found


def weight(params, name):
    """A weight by one of its names in a file, float64, in torch's layout."""
    target = known()[name]
    value = np.asarray(params[target.part][target.weight]).astype(np.float64)
    return value.transpose(np.argsort(target.axes))


def assert_rounded_once(found, wanted, dtype):
    """`found`, of `dtype`, is what `wanted`, of float64, rounds to, or its neighbor."""
    rounded = wanted.astype(dtype).astype(np.float64)
    unit = np.abs(rounded) * 2.0 ** (1 - np.log2(1 / float(ml_dtypes.finfo(dtype).eps)))
    assert (np.abs(found - rounded) <= np.maximum(unit, 1e-30)).all()


DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_loras_add_up_and_are_rounded_once(components, tmp_path, dtype):
    one = factors(KEY, 4) | factors(CONV, 2, 1) | factors(TEXT, 2, 2)
    other = factors(KEY, 8, 3)
    first = write(tmp_path / "a.safetensors", one, alpha(KEY, 1))
    second = write(tmp_path / "b.safetensors", other)
    base = merged(components)
    found = merged(components, f"{first}:0.5:-2", f"{second}:0.01", dtype=dtype)
    wanted = weight(base, KEY) + 0.5 / 4 * product(one, KEY) + 0.01 * product(other, KEY)
    assert_rounded_once(weight(found, KEY), wanted, dtype)
    conv = weight(base, CONV) + 0.5 * product(one, CONV)
    assert_rounded_once(weight(found, CONV), conv, dtype)
    text = weight(base, TEXT) - 2 * product(one, TEXT)
    assert_rounded_once(weight(found, TEXT), text, dtype)
    reversed_order = merged(components, f"{second}:0.01", f"{first}:0.5:-2", dtype=dtype)
    touched = {known()[name] for name in (KEY, CONV, TEXT)}
    for part, params in found.items():
        for name, value in params.items():
            assert value.dtype == dtype
            if name not in {target.weight for target in touched if target.part == part}:
                plain = np.asarray(base[part][name]).astype(dtype)
                np.testing.assert_array_equal(np.asarray(value), plain)
            else:
                assert_rounded_once(
                    np.asarray(reversed_order[part][name]).astype(np.float64),
                    np.asarray(value).astype(np.float64),
                    dtype,
                )


def test_a_strength_of_zero_and_none_leave_the_bits(components, tmp_path):
    file = write(tmp_path / "a.safetensors", factors(KEY, 4), factors(CONV, 2))
    dora = write(
        tmp_path / "b.safetensors",
        factors(KEY, 4),
        {f"{KEY}.dora_scale": np.full((known()[KEY].shape[0], 1), 3, np.float32)},
    )
    base = merged(components)
    for loras in ([f"{file}:0"], [f"{dora}:0"], []):
        found = merged(components, *loras)
        for part in PARTS:
            for name, value in found[part].items():
                np.testing.assert_array_equal(np.asarray(value), np.asarray(base[part][name]))


def test_a_lora_of_half_precision_keeps_the_files_dtype(folder, components, tmp_path):
    file = write(tmp_path / "a.safetensors", factors(KEY, 4))
    assert merged(components, file, dtype=None)["unet"]["conv_in.kernel"].dtype == np.float32
    target = known()[KEY]
    assert merged(components, file, dtype=None)["unet"][target.weight].dtype == np.float32


def row_norms(value):
    return np.linalg.norm(value.reshape(len(value), -1), axis=1)


@pytest.mark.parametrize("per", ["output", "output, PEFT", "input"])
@pytest.mark.parametrize("name", [KEY, CONV])
def test_dora(components, tmp_path, name, per):
    tensors = factors(name, 4)
    base = weight(merged(components), name)
    adapted = base + 0.5 * product(tensors, name)
    axis = 1 if per == "input" else 0
    norms = row_norms(np.moveaxis(adapted, axis, 0))
    # Twice the norms of the adapted weight double it.
    shape = tuple(-1 if i == axis else 1 for i in range(base.ndim))
    if per == "output, PEFT":
        kernel = (1, -1, 1, 1) if base.ndim == 4 else (-1,)
        key, values = "lora_magnitude_vector.weight", (2 * norms).reshape(kernel)
    else:
        key, values = "dora_scale", (2 * norms).reshape(shape)
    scales = {f"{name}.{key}": values.astype(np.float32)}
    file = write(tmp_path / "a.safetensors", tensors, alpha(name, 2), scales)
    found = weight(merged(components, f"{file}:1"), name)
    np.testing.assert_allclose(found, 2 * adapted, rtol=1e-6)
    half = weight(merged(components, f"{file}:0.5"), name)
    np.testing.assert_allclose(half, base + 0.5 * (2 * adapted - base), rtol=1e-5, atol=1e-6)


def test_dora_comes_after_what_is_added(components, tmp_path):
    tensors, other = factors(KEY, 4), factors(KEY, 2, 9)
    base = weight(merged(components), KEY)
    scales = np.full(known()[KEY].shape[0], 3.0)
    dora = write(
        tmp_path / "a.safetensors",
        tensors,
        {f"{KEY}.dora_scale": scales[:, None].astype(np.float32)},
    )
    plain = write(tmp_path / "b.safetensors", other)
    adapted = base + product(other, KEY) + product(tensors, KEY)
    wanted = adapted * (scales / row_norms(adapted))[:, None]
    for order in itertools.permutations([dora, plain]):
        found = weight(merged(components, *order), KEY)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_biases_and_norms_are_added(components, tmp_path):
    target = known()[CONV]
    norm = known()["lora_unet_down_blocks_1_resnets_0_norm1"]
    file = write(
        tmp_path / "a.safetensors",
        {f"{CONV}.diff_b": np.arange(target.shape[0], dtype=np.float32)},
        {"lora_unet_down_blocks_1_resnets_0_norm1.w_norm": np.ones(norm.shape[0], np.float32)},
    )
    base, found = merged(components)["unet"], merged(components, f"{file}:0.5")["unet"]
    np.testing.assert_allclose(
        found[target.bias], base[target.bias] + 0.5 * np.arange(target.shape[0]), rtol=1e-6
    )
    np.testing.assert_allclose(found[norm.weight], base[norm.weight] + 0.5, rtol=1e-6)


# -- diffusers with PEFT --------------------------------------------------------------------------


def _without_prefix(name, state):
    """The name in a model of transformers 5, some of which have no `text_model`."""
    return name if name in state else name.removeprefix("text_model.")


@pytest.fixture
def theirs(folder):
    """An SDXL pipeline of diffusers with the same weights."""

    def text(name, kind):
        settings = json.loads((folder / name / "config.json").read_text())
        model = kind(CLIPTextConfig(**settings))
        state = load_file(folder / name / "model.safetensors")
        state = {_without_prefix(key, model.state_dict()): value for key, value in state.items()}
        model.load_state_dict(state)
        return model

    unet = diffusers.UNet2DConditionModel(
        **UNET, use_linear_projection=True, addition_embed_type="text_time"
    )
    unet.load_state_dict(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    return diffusers.StableDiffusionXLPipeline(
        vae=None,
        text_encoder=text("text_encoder", CLIPTextModel),
        text_encoder_2=text("text_encoder_2", CLIPTextModelWithProjection),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(),
    )


TEXT_2 = "lora_te2_text_model_encoder_layers_1_self_attn_v_proj"
# diffusers recognizes a text encoder by its output projections.
OUTPUTS = tuple(
    name.replace("q_proj", "out_proj").replace("v_proj", "out_proj") for name in (TEXT, TEXT_2)
)
KOHYA = (
    KEY,
    CONV,
    TEXT,
    TEXT_2,
    *OUTPUTS,
    f"lora_unet_{ATTENTION}_ff_net_0_proj".replace(".", "_"),
)
PEFT = (
    f"unet.{ATTENTION}.attn2.to_k",
    f"unet.{ATTENTION}.attn1.to_out.0",
    "unet.down_blocks.1.resnets.0.conv1",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj",
)
PROCESSORS = (
    f"unet.{ATTENTION}.attn2.processor.to_k_lora",
    f"unet.{ATTENTION}.attn1.processor.to_out_lora",
)
FILES = {
    "kohya": (KOHYA, ("lora_up", "lora_down"), True),
    "PEFT": (PEFT, ("lora_B", "lora_A"), False),
    "processors": (PROCESSORS, ("up", "down"), False),
}


@pytest.mark.parametrize("case", FILES)
def test_same_as_diffusers(components, theirs, tmp_path, case):
    names, ends, with_alphas = FILES[case]
    parts = [factors(name, 2 + i, i, ends) for i, name in enumerate(names)]
    if with_alphas:
        # diffusers fills a missing alpha of the UNet with one of another layer, and PEFT does not
        # find the layers of the text encoders' alphas.
        of_unet = [name for name in names if name.startswith("lora_unet_")]
        parts += [alpha(name, 1 + i) for i, name in enumerate(of_unet)]
    parts = [{name: 0.1 * value for name, value in part.items()} for part in parts]
    file = write(tmp_path / "pytorch_lora_weights.safetensors", *parts)
    theirs.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora_weights()
    base, found = merged(components), merged(components, f"{file}:0.7")
    changed = 0
    for part in PARTS:
        state = getattr(theirs, part).state_dict()
        ours = to_torch(found[part])
        for name, value in ours.items():
            expected = state[_without_prefix(name, state)].numpy()
            assert reference.relative_error(value, expected) < 1e-6, name
        before = to_torch(base[part])
        changed += sum(not np.array_equal(before[name], value) for name, value in ours.items())
    assert changed == len(names)
