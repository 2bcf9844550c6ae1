"""LoRA files are read strictly: scales, names, and what is refused in a line."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
import torch

from instantid_jax.errors import InputError
from instantid_jax.weights.lora.files import read_lora
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

PEFT = ("lora_B", "lora_A")
NORM = "lora_unet_down_blocks_1_resnets_0_norm1"
OLD = ("up", "down")


def layer(path, *parts, metadata=None):
    (found,) = read_lora(path, known()) if not parts else layers(path, *parts, metadata=metadata)
    return found


def layers(path, *parts, metadata=None):
    write(path, *parts, metadata=metadata)
    return read_lora(path, known())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    ("given", "scale"), [(None, 1), (2.0, 0.5), (16.0, 4), (0.0, 1), (1.0, 0.25)]
)
def test_the_scale_is_alpha_over_rank(file, given, scale):
    tensors = factors(KEY, 4)
    more = {} if given is None else alpha(KEY, given)
    found = layer(file, tensors, more)
    assert found.scale == scale
    np.testing.assert_allclose(
        found.difference(np.dtype(np.float64)), scale * product(tensors, KEY), rtol=1e-12
    )


def test_each_layer_has_its_own_rank_and_alpha(file):
    found = layers(
        file, factors(KEY, 4), alpha(KEY, 8), factors(CONV, 2), factors(TEXT, 8), alpha(TEXT, 4)
    )
    scales = {each.target: each.scale for each in found}
    assert scales == {known()[KEY]: 2, known()[CONV]: 1, known()[TEXT]: 0.5}


def test_an_alpha_that_belongs_to_whole_factors_of_lokr_does_not_count(file):
    out, inside = known()[KEY].shape
    whole = {f"{KEY}.lokr_w1": np.ones((1, 1)), f"{KEY}.lokr_w2": np.ones((out, inside))}
    assert layer(file, whole, alpha(KEY, 1e10)).scale == 1


SPELLINGS = {
    "PEFT": (f"unet.{ATTENTION}.attn2.to_k", PEFT),
    "PEFT without a prefix": (f"{ATTENTION}.attn2.to_k", PEFT),
    "processors": (f"unet.{ATTENTION}.attn2.processor.to_k_lora", OLD),
    "layers": (f"unet.{ATTENTION}.attn2.to_k", ("lora.up", "lora.down")),
    "linear layers": (
        f"unet.{ATTENTION}.attn2.to_k",
        ("lora_linear_layer.up", "lora_linear_layer.down"),
    ),
    "kohya, original blocks": (
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k",
        ("lora_up", "lora_down"),
    ),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_all_spellings_reach_the_layer(file, case):
    name, ends = SPELLINGS[case]
    tensors = factors(name, 3, ends=ends)
    found = layer(file, tensors)
    assert found.target == known()[KEY]
    wanted = product(tensors, name, ends)
    np.testing.assert_allclose(found.difference(np.dtype(np.float64)), wanted, rtol=1e-12)


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("adapter", ["default.", "style_1.", ""])
def test_prefixes_and_adapter_names_of_peft(file, prefix, adapter):
    name = f"unet.{ATTENTION}.attn2.to_k"
    tensors = factors(name, 3, ends=PEFT)
    renamed = {
        prefix + key.replace(".weight", f".{adapter}weight"): value
        for key, value in tensors.items()
    }
    assert layer(file, renamed).target == known()[KEY]


def test_one_file_may_use_both_spellings_of_blocks(file):
    original = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_v"
    found = layers(file, factors(KEY, 2), factors(original, 2))
    assert len({each.target for each in found}) == 2
    twice = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k"
    with pytest.raises(InputError, match="changes one layer twice, as"):
        layers(file, factors(KEY, 2), factors(twice, 2))


def test_kernels_of_1_x_1_are_matrices(file):
    plain = factors(KEY, 2)
    kernels = {name: value[..., None, None] for name, value in plain.items()}
    wanted = product(plain, KEY)
    np.testing.assert_allclose(
        layer(file, kernels).difference(np.dtype(np.float64)), wanted, rtol=1e-12
    )


@pytest.mark.parametrize("rslora", [False, True])
def test_settings_of_peft_come_before_all(file, rslora):
    name = f"unet.{ATTENTION}.attn2.to_k"
    settings = {
        "unet.r": 4,
        "unet.lora_alpha": 8,
        "unet.use_rslora": rslora,
        "unet.alpha_pattern": {"attn2.to_v": 6},
    }
    other = name.replace("to_k", "to_v")
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    tensors = (factors(name, 4, ends=PEFT), factors(other, 4, ends=PEFT))
    found = {each.target: each.scale for each in layers(file, *tensors, metadata=metadata)}
    divisor = math.sqrt(4) if rslora else 4
    assert found == {known()[name]: 8 / divisor, known()[other]: 6 / divisor}


def test_settings_of_peft_beside_its_file(tmp_path):
    name = f"base_model.model.{ATTENTION}.attn2.to_k"
    tensors = {
        f"base_model.model.{n}": v
        for n, v in factors(f"{ATTENTION}.attn2.to_k", 4, ends=PEFT).items()
    }
    assert name in "".join(tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    assert layer(tmp_path / "adapter_model.safetensors", tensors).scale == 0.5
    assert layer(tmp_path / "other.safetensors", tensors).scale == 1


def test_pickles_may_hold_alphas_as_numbers(tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in factors(KEY, 4).items()}
    torch.save(tensors | {f"{KEY}.alpha": 2}, tmp_path / "a.pt")
    assert layer(tmp_path / "a.pt").scale == 0.5


def test_biases_and_norms(file):
    out = known()[CONV].shape[0]
    norm = NORM
    width = known()[norm].shape[0]
    found = layers(
        file,
        {f"{CONV}.diff_b": np.arange(out, dtype=np.float32)},
        {
            f"{norm}.w_norm": np.ones(width, np.float32),
            f"{norm}.b_norm": np.full(width, 2, np.float32),
        },
    )
    conv, of_norm = found
    assert conv.form is None
    np.testing.assert_array_equal(conv.bias_difference(np.dtype(np.float32)), np.arange(out))
    np.testing.assert_array_equal(of_norm.difference(np.dtype(np.float32)), np.ones(width))
    np.testing.assert_array_equal(of_norm.bias_difference(np.dtype(np.float32)), np.full(width, 2))


def test_a_bias_of_peft_has_the_scale(file):
    name = f"unet.{ATTENTION}.attn2.to_out.0"
    bias = {f"{name}.lora_B.bias": np.ones(known()[name].shape[0], np.float32)}
    found = layer(file, factors(name, 4, ends=PEFT), alpha(name, 2), bias)
    np.testing.assert_array_equal(found.bias_difference(np.dtype(np.float32)), 0.5)


def test_embeddings_that_come_along_change_no_layer(file):
    bundled = {"bundle_emb.cat.clip_l": np.ones((2, 32), np.float32)}
    assert len(layers(file, factors(KEY, 2), bundled)) == 1


def renamed(tensors, old, new):
    return {name.replace(old, new): value for name, value in tensors.items()}


REFUSED = {
    "unknown layer": (
        lambda: (factors(KEY, 2), renamed(factors(CONV, 2), "down_blocks_1", "down_blocks_7")),
        "has 2 tensors that belong to no layer of this model (lora_unet_down_blocks_7_resnets_0",
    ),
    "unknown part of a layer": (
        lambda: (factors(KEY, 2), {f"{KEY}.lora_left.weight": np.ones((2, 2), np.float32)}),
        "has 1 tensors that belong to no layer of this model",
    ),
    "first text encoder of SD 1.x": (
        lambda: (renamed(factors(TEXT, 2), "lora_te1_", "lora_te_"),),
        "tensors that belong to no layer of this model (lora_te_text_model",
    ),
    "SD 1.x": (
        lambda: (
            {
                f"{KEY}.lora_down.weight": np.ones((2, 768)),
                f"{KEY}.lora_up.weight": np.ones((32, 2)),
            },
        ),
        "is a LoRA of SD 1.x: expected a LoRA of SDXL",
    ),
    "SD 2.x, PEFT": (
        lambda: ({f"unet.{ATTENTION}.attn2.to_k.lora_A.weight": np.ones((2, 1024))},),
        "is a LoRA of SD 2.x: expected",
    ),
    "FLUX": (
        lambda: (
            {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": np.ones((2, 8))},
        ),
        "is a LoRA of a diffusion transformer",
    ),
    "FLUX, kohya": (
        lambda: ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": np.ones((2, 8))},),
        "is a LoRA of a diffusion transformer",
    ),
    "Control-LoRA": (lambda: ({"lora_controlnet": np.ones(1)},), "is a Control-LoRA"),
    "something else": (lambda: ({"weight": np.ones((2, 2))},), "is a file of 1 tensors of another"),
    "other widths": (
        lambda: (
            {
                f"{KEY}.lora_down.weight": np.ones((2, 40)),
                f"{KEY}.lora_up.weight": np.ones((32, 2)),
            },
        ),
        f"{KEY} changes a weight of [32, 40], but this model's is [32, 96]",
    ),
    "down without up": (
        lambda: ({f"{KEY}.lora_down.weight": np.ones((2, 96))},),
        f"{KEY}: it has lora_down without lora_up",
    ),
    "alpha alone": (lambda: (factors(CONV, 2), alpha(KEY, 1)), "no lokr_w1"),
    "IA3": (
        lambda: ({f"{KEY}.weight": np.ones(32), f"{KEY}.on_input": np.ones(1)},),
        "is made by IA3, which is not supported",
    ),
    "OFT": (lambda: ({f"{KEY}.oft_blocks": np.ones((2, 4, 4))},), "is made by OFT"),
    "GLoRA": (
        lambda: ({f"{KEY}.{n}.weight": np.ones((2, 2)) for n in ("a1", "a2", "b1", "b2")},),
        "is made by GLoRA",
    ),
    "integers": (
        lambda: ({n: v.astype(np.int8) for n, v in factors(KEY, 2).items()},),
        "is stored as int8, expected float32",
    ),
    "alpha of several numbers": (
        lambda: (factors(KEY, 2), {f"{KEY}.alpha": np.ones(3, np.float32)}),
        "has an alpha that is not a number",
    ),
    "factors of no rank": (lambda: (factors(KEY, 0),), "the factors do not fit each other"),
    "a difference that is a number": (
        lambda: ({f"{KEY}.diff": np.float32(1)},),
        "the factors do not fit each other",
    ),
    "magnitudes of a norm": (
        lambda: (
            {f"{NORM}.w_norm": np.ones(32, np.float32), f"{NORM}.dora_scale": np.ones((32, 1))},
        ),
        "has DoRA magnitudes of a norm",
    ),
    "bias of a layer without": (
        lambda: (factors(KEY, 2), {f"{KEY}.diff_b": np.ones(32, np.float32)}),
        "changes a bias of [32], but this model's layer has none",
    ),
    "magnitudes of another size": (
        lambda: (factors(KEY, 2), {f"{KEY}.dora_scale": np.ones((5, 1), np.float32)}),
        "has DoRA magnitudes [5, 1], expected 32 or 96",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(file, case):
    make, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        layers(file, *make())
    assert message in str(caught.value)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_metadata_that_are_not_settings_are_refused(file):
    for text in ("no JSON", "[1]", "3"):
        with pytest.raises(InputError, match="lora_adapter_metadata are not PEFT's settings"):
            layers(file, factors(KEY, 2), metadata={"lora_adapter_metadata": text})


@pytest.mark.parametrize(
    "settings", [{"unet.lora_alpha": "x"}, {"unet.lora_alpha": 2, "unet.alpha_pattern": {"(": 1}}]
)
def test_alphas_of_peft_that_are_not_numbers_are_refused(file, settings):
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    with pytest.raises(InputError, match="has an alpha that is not a number"):
        layers(file, factors(KEY, 2), metadata=metadata)


def test_numbers_that_are_not_finite_name_their_layer(file):
    tensors = factors(KEY, 2)
    tensors[f"{KEY}.lora_up.weight"][1, 1] = np.nan
    with pytest.raises(InputError, match=f"{KEY} has values that are not finite"):
        layer(file, tensors).difference(np.dtype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read(file, dtype):
    tensors = {name: value.astype(dtype) for name, value in factors(KEY, 2).items()}
    found = layer(file, tensors).difference(np.dtype(np.float64))
    np.testing.assert_allclose(found, product(tensors, KEY), rtol=1e-12)
