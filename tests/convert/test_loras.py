"""LoRAs: `inspect` describes them, and `to-torch --merge-loras` writes merged networks."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from convert.__main__ import main
from instantid_jax.weights.lora.spellings import PARTS
from tests.convert.published import (
    TINY_TEXT_ENCODER,
    TINY_TEXT_ENCODER_2,
    UNET,
    write_published,
)
from tests.runs.trained_run import write_run
from tests.weights.lora.files import KEY, alpha, factors, known, product, write
from tests.weights.sparse import write_sparse

SDXL_KEY = "lora_unet_input_blocks_4_1_transformer_blocks_{}_attn2_to_{}"


@pytest.fixture
def inspect(convert):
    def call(*arguments):
        ran = convert("inspect", *arguments, "--headers-only")
        assert ran.status == 0, ran
        return ran.out

    return call


def test_a_lora_of_sdxl_is_described(inspect, tmp_path):
    shapes = {}
    for i, projection in ((0, "k"), (0, "v"), (1, "k")):
        key = SDXL_KEY.format(i, projection)
        shapes[f"{key}.lora_down.weight"] = (4 + 4 * i, 2048)
        shapes[f"{key}.lora_up.weight"] = (640, 4 + 4 * i)
    te = "lora_te2_text_model_encoder_layers_31_mlp_fc2"
    shapes |= {f"{te}.hada_w{i}_a": (1280, 2) for i in (1, 2)}
    shapes |= {f"{te}.hada_w{i}_b": (2, 5120) for i in (1, 2)}
    metadata = {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_module": "networks.lora"}
    file = write_sparse(tmp_path / "a.safetensors", shapes, metadata)
    assert inspect(file)[0] == f"{file}: a LoRA of SDXL"
    assert inspect(file)[2:] == [
        "  says of itself: ss_network_module networks.lora, ss_base_model_version sdxl_base_v1-0",
        "  changes 4 layers of SDXL base: 3 of the UNet, 1 of text encoder 2",
        "  kinds: LoRA of rank 4 (2), LoHa of rank 2 (1), LoRA of rank 8 (1)",
        "  alpha / rank: 1",
        "  usable as --lora",
    ]


def test_textual_inversions_in_a_lora_are_named(inspect, tmp_path):
    shapes = {
        f"{SDXL_KEY.format(0, 'k')}.lora_down.weight": (4, 2048),
        f"{SDXL_KEY.format(0, 'k')}.lora_up.weight": (640, 4),
        "bundle_emb.<me>.clip_l": (3, 768),
        "bundle_emb.<me>.clip_g": (3, 1280),
    }
    lines = inspect(write_sparse(tmp_path / "a.safetensors", shapes))
    assert lines[-2:] == [
        "  textual inversions, by their names in prompts: <me> (3 vectors)",
        "  usable as --lora",
    ]


def test_a_lora_of_something_else_is_described(inspect, tmp_path):
    other = write_sparse(
        tmp_path / "b.safetensors", {f"{SDXL_KEY.format(0, 'k')}.lora_down.weight": (4, 768)}
    )
    assert inspect(other)[0] == f"{other}: a LoRA of SD 1.x"
    assert inspect(other)[-1].startswith("  not usable here: ")
    small = write(tmp_path / "c.safetensors", factors(KEY, 2))
    *_, fault, verdict = inspect(small)
    assert "changes a weight of [32, 96], but this model's is [640, 2048]" in fault
    assert verdict == "  not usable as it is"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model, published and converted."""
    folder = tmp_path_factory.mktemp("model")
    write_published(folder / "both", unet=UNET, controlnet=UNET, dtype=np.dtype(np.float16))
    both = str(folder / "both")
    main(["to-jax", "--sdxl", both, "--instantid", both, "--output", str(folder / "jax")])
    return folder


def test_merged_networks_are_written(convert, model, tmp_path):
    tensors = factors(KEY, 4)
    file = write(tmp_path / "a.safetensors", tensors, alpha(KEY, 2))
    ran = convert(
        "to-torch", model / "jax", "--output", tmp_path / "out", "--merge-loras", f"{file}:0.1"
    )
    assert (ran.status, ran.out) == (0, [str(tmp_path / "out")])
    names = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "text_encoder_2": "model"}
    for part in PARTS:
        path = f"{part}/{names[part]}.safetensors"
        before, after = load_file(model / "both" / path), load_file(tmp_path / "out" / path)
        assert before.keys() == after.keys()
        changed = [name for name in before if not np.array_equal(before[name], after[name])]
        assert {value.dtype for value in after.values()} == {np.dtype(np.float16)}
        if part == "unet":
            (name,) = changed
            assert name == known()[KEY].weight.replace("kernel", "weight")
            wanted = before[name] + 0.1 * 0.5 * product(tensors, KEY)
            np.testing.assert_allclose(after[name], wanted, rtol=1e-3)
        else:
            assert not changed
        assert (tmp_path / "out" / part / "config.json").is_file()


def test_textual_inversions_are_not_merged(convert, model, tmp_path, caplog):
    widths = {"clip_l": TINY_TEXT_ENCODER, "clip_g": TINY_TEXT_ENCODER_2}
    bundled = {
        f"bundle_emb.<me>.{key}": np.ones((1, settings["hidden_size"]), np.float32)
        for key, settings in widths.items()
    }
    file = write(tmp_path / "a.safetensors", factors(KEY, 4), bundled)
    output = tmp_path / "out"
    assert convert("to-torch", model / "jax", "--output", output, "--merge-loras", file).status == 0
    (line,) = caplog.messages
    assert line.startswith(f"{file} also has the textual inversion <me>, which merged networks")


def test_a_run_has_no_unet_to_merge_into(convert, tmp_path):
    write_run(tmp_path / "run")
    file = write(tmp_path / "a.safetensors", factors(KEY, 4))
    ran = convert("to-torch", tmp_path / "run", "--output", tmp_path / "out", "--merge-loras", file)
    assert ran.status == 2 and "which has no UNet to merge them into" in ran.error
    assert not (tmp_path / "out").exists()
