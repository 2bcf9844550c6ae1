"""Which files are picked, from lists as the public repositories have them."""

import pytest

from instantid_jax.errors import InputError
from instantid_jax.weights.selection import (
    adapter_files,
    identitynet_files,
    instantid_files,
    list_folder,
    model_files,
    sdxl_files,
    tokenizer_files,
    weights_in,
)

# stabilityai/stable-diffusion-xl-base-1.0, as published.
SDXL_BASE = """
.gitattributes 01.png LICENSE.md README.md comparison.png model_index.json pipeline.png
sd_xl_base_1.0.safetensors sd_xl_base_1.0_0.9vae.safetensors
sd_xl_offset_example-lora_1.0.safetensors
scheduler/scheduler_config.json
text_encoder/config.json text_encoder/flax_model.msgpack text_encoder/model.fp16.safetensors
text_encoder/model.onnx text_encoder/model.safetensors text_encoder/openvino_model.bin
text_encoder/openvino_model.xml
text_encoder_2/config.json text_encoder_2/flax_model.msgpack text_encoder_2/model.fp16.safetensors
text_encoder_2/model.onnx text_encoder_2/model.onnx_data text_encoder_2/model.safetensors
text_encoder_2/openvino_model.bin text_encoder_2/openvino_model.xml
tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json
tokenizer/vocab.json
tokenizer_2/merges.txt tokenizer_2/special_tokens_map.json tokenizer_2/tokenizer_config.json
tokenizer_2/vocab.json
unet/config.json unet/diffusion_flax_model.msgpack unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.safetensors unet/model.onnx unet/model.onnx_data
unet/openvino_model.bin unet/openvino_model.xml
vae/config.json vae/diffusion_flax_model.msgpack vae/diffusion_pytorch_model.fp16.safetensors
vae/diffusion_pytorch_model.safetensors
vae_1_0/config.json vae_1_0/diffusion_pytorch_model.fp16.safetensors
vae_1_0/diffusion_pytorch_model.safetensors
vae_decoder/config.json vae_decoder/model.onnx vae_decoder/openvino_model.bin
vae_encoder/config.json vae_encoder/model.onnx vae_encoder/openvino_model.bin
""".split()

TOKENIZER_FILES = [
    f"{folder}/{name}"
    for folder in ("tokenizer", "tokenizer_2")
    for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
]

INSTANTID = """
.gitattributes README.md ControlNetModel/config.json
ControlNetModel/diffusion_pytorch_model.safetensors examples/0.png ip-adapter.bin
""".split()

SHARDS = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


@pytest.mark.parametrize(("variant", "infix"), [(None, ""), ("fp16", ".fp16")])
def test_sdxl_takes_one_variant_and_nothing_else(variant, infix):
    assert sorted(sdxl_files(SDXL_BASE, variant)) == sorted(
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            *TOKENIZER_FILES,
            "unet/config.json",
            f"unet/diffusion_pytorch_model{infix}.safetensors",
            "vae/config.json",
            f"vae/diffusion_pytorch_model{infix}.safetensors",
            "text_encoder/config.json",
            f"text_encoder/model{infix}.safetensors",
            "text_encoder_2/config.json",
            f"text_encoder_2/model{infix}.safetensors",
        ]
    )


def test_sdxl_variant_that_is_absent_names_those_present():
    with pytest.raises(
        InputError, match=r"no weights of the variant bf16 in any part; there are"
    ) as caught:
        sdxl_files(SDXL_BASE, "bf16")
    assert "there are weights of the variant fp16 and weights without a variant: use these" in str(
        caught.value
    )
    with pytest.raises(
        InputError, match="no weights without a variant in vae/; it has weights of the variant fp16"
    ):
        sdxl_files(
            [name for name in SDXL_BASE if name != "vae/diffusion_pytorch_model.safetensors"]
        )


def test_sdxl_names_what_is_missing():
    refiner = [name for name in SDXL_BASE if not name.startswith(("text_encoder/", "tokenizer/"))]
    with pytest.raises(
        InputError, match=r"no text_encoder/config\.json; expected SDXL in diffusers"
    ):
        sdxl_files(refiner)
    with pytest.raises(InputError, match=r"no unet/config\.json, vae/config\.json, .* scheduler/"):
        sdxl_files(["sd_xl_base_1.0.safetensors"])


def test_tokenizers_alone():
    assert tokenizer_files(SDXL_BASE) == TOKENIZER_FILES
    with pytest.raises(InputError, match=r"no tokenizer/merges\.txt; expected a CLIP tokenizer"):
        tokenizer_files([name for name in SDXL_BASE if name != "tokenizer/merges.txt"])
    fast = ["tokenizer/tokenizer.json", "tokenizer_2/tokenizer.json"]
    assert tokenizer_files(fast) == fast


def test_instantid_takes_adapter_and_identitynet():
    expected = [
        "ip-adapter.bin",
        "ControlNetModel/config.json",
        "ControlNetModel/diffusion_pytorch_model.safetensors",
    ]
    assert instantid_files(INSTANTID) == expected
    resaved = instantid_files([*INSTANTID, "ip-adapter.safetensors", "config.json"])
    assert resaved == ["ip-adapter.safetensors", "config.json", *expected[1:]]
    with pytest.raises(InputError, match=r"expected ip-adapter\.safetensors"):
        instantid_files([name for name in INSTANTID if name != "ip-adapter.bin"])
    with pytest.raises(InputError, match=r"no ControlNetModel/diffusion_pyt.*; expected Ident"):
        instantid_files(["ip-adapter.bin"])


def test_variant_is_taken_part_by_part():
    """As diffusers does: some repositories have a half-precision UNet alone."""
    partial = [name for name in SDXL_BASE if ".fp16." not in name or name.startswith("unet/")]
    taken = [name for name in sdxl_files(partial, "fp16") if name.endswith(".safetensors")]
    assert taken == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
    ]
    shards = ["unet/diffusion_pytorch_model.safetensors.index.fp16.json"]
    shards += ["unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"]
    others = [name for name in partial if not name.startswith("unet/diffusion_pytorch_model.fp16")]
    with pytest.raises(InputError, match=r"shards in unet/ are incomplete: shard 2 of 2"):
        sdxl_files([*others, *shards], "fp16")


def test_what_is_given_otherwise_is_not_needed():
    networks = ("unet", "text_encoder", "text_encoder_2")
    bare = [name for name in SDXL_BASE if not name.startswith(("vae/", "tokenizer"))]
    taken = sdxl_files(bare, networks=networks, tokenizers=False)
    assert not [name for name in taken if name.startswith(("vae", "tokenizer"))]
    # The settings say how latents are scaled.
    assert "vae/config.json" in sdxl_files(SDXL_BASE, networks=networks)
    assert "vae/diffusion_pytorch_model.safetensors" not in sdxl_files(SDXL_BASE, networks=networks)
    with pytest.raises(InputError, match=r"no vae/config.json; .*, or another VAE as vae="):
        sdxl_files([name for name in SDXL_BASE if not name.startswith("vae/")])
    with pytest.raises(InputError, match=r"no tokenizer/vocab.json, .*, or others as tokenizers="):
        sdxl_files([name for name in SDXL_BASE if not name.startswith("tokenizer")])


ADAPTERS = {
    "published": (["ip-adapter.bin", "other.safetensors"], "ip-adapter.bin"),
    "underscore": (["ip_adapter.bin", "ip_adapter.safetensors"], "ip_adapter.safetensors"),
    "a training state": (
        ["pytorch_model.bin", "optimizer.bin", "scheduler.bin", "scaler.pt", "random_states_0.pkl"],
        "pytorch_model.bin",
    ),
    "any name": (["epoch-3.ckpt", "README.md", "scaler.pt"], "epoch-3.ckpt"),
    "none": (["README.md", "diffusion_pytorch_model.safetensors"], None),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapter_may_have_another_name_if_it_is_clear_which_it_is(case):
    files, expected = ADAPTERS[case]
    if expected is None:
        with pytest.raises(InputError, match=r"expected ip-adapter\.safetensors"):
            adapter_files(files)
    else:
        assert adapter_files(files) == [expected]
        assert instantid_files([*INSTANTID[2:4], *files])[0] == expected
    with pytest.raises(InputError, match=r"which of b\.safetensors, a\.bin is the adapter"):
        adapter_files(["a.bin", "b.safetensors"])


def test_identitynet_without_settings_or_folder():
    weights = "diffusion_pytorch_model.safetensors"
    assert identitynet_files([f"ControlNetModel/{weights}"]) == [f"ControlNetModel/{weights}"]
    assert identitynet_files([weights, "ip-adapter.bin"]) == [weights]
    assert instantid_files(["ip-adapter.bin", weights]) == ["ip-adapter.bin", weights]


def test_model_at_the_root():
    files = [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model_twins.safetensors",
        "sdxl.vae.safetensors",
    ]
    assert model_files(files) == ["config.json", "diffusion_pytorch_model.safetensors"]
    with pytest.raises(InputError, match=r"no config\.json; expected a diffusers model"):
        model_files(files[2:])


PICKS = {
    "safetensors before bin": (["model.safetensors", "pytorch_model.bin"], None, 1),
    "bin if there is nothing else": (["pytorch_model.bin", "x.bin"], None, 1),
    "bin of the variant": (["pytorch_model.fp16.bin", "model.safetensors"], "fp16", 1),
    "shards": (["diffusion_pytorch_model.safetensors.index.json", *SHARDS, "x.json"], None, 4),
    "one file before shards": (
        ["model.safetensors", "model.safetensors.index.json", "model-00001-of-00001.safetensors"],
        None,
        1,
    ),
    "shards of diffusers' variant": (
        [
            "model.safetensors.index.fp16.json",
            "model.fp16-00001-of-00002.safetensors",
            "model.fp16-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "model-00001-of-00001.safetensors",
        ],
        "fp16",
        3,
    ),
    "shards of an older variant": (
        [
            "model.safetensors.index.fp16.json",
            "model-00001-of-00002.fp16.safetensors",
            "model-00002-of-00002.fp16.safetensors",
            "model-00001-of-00001.safetensors",
        ],
        "fp16",
        3,
    ),
    "index of a variant, otherwise": (
        ["model.fp16.safetensors.index.json", "model-00001-of-00001.fp16.safetensors"],
        "fp16",
        2,
    ),
    "shards of pickles": (
        ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        None,
        2,
    ),
    "whole shards before a cut sharding": (
        [
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model-00001-of-00003.safetensors",
        ],
        None,
        3,
    ),
}


@pytest.mark.parametrize("case", PICKS)
def test_weights_in_picks_the_first(case):
    files, variant, count = PICKS[case]
    elsewhere = ["model.safetensors", "other/model.safetensors", "a/unet/model.fp16.safetensors"]
    listed = [f"unet/{name}" for name in files]
    assert weights_in([*elsewhere, *listed[::-1]], "unet", variant) == listed[:count]
    assert weights_in(files, "", variant) == files[:count]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["diffusion_pytorch_model.safetensors.index.json", *SHARDS[:2]],
            "shard 3 of 3 is missing",
        ),
        (
            ["diffusion_pytorch_model.safetensors.index.json", *SHARDS[1:]],
            "shard 1 of 3 is missing",
        ),
        (["diffusion_pytorch_model.safetensors.index.json"], "every shard is missing"),
        (SHARDS, "the index is missing"),
        (["flax_model.msgpack", "model.onnx"], r"found flax_model\.msgpack, model\.onnx"),
        (["model.ema.fp16.safetensors"], "no weights in its top folder"),
        ([], "found nothing"),
    ],
)
def test_weights_in_names_what_is_missing(files, message):
    with pytest.raises(InputError, match=message):
        weights_in(files, "")


def test_list_folder_agrees_with_a_repository(tmp_path):
    for name in SDXL_BASE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "unet" / "deeper").mkdir()
    (tmp_path / "unet" / "deeper" / "model.safetensors").touch()
    (tmp_path / "unet" / "model.fp32.safetensors").symlink_to("nowhere")
    assert list_folder(tmp_path) == sorted(SDXL_BASE)
