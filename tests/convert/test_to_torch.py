"""`to-torch` out of a training run's folder; out of a converted model, see the round trip."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from safetensors import SafetensorError
from safetensors.numpy import load_file

from convert import to_torch
from instantid_jax.components import network
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.runs.recognizers import recognizer_of
from instantid_jax.weights.layouts import find_instantid
from tests.convert.published import TINY_RESAMPLER, UNET
from tests.runs.trained_run import assert_same_bits, part_of, write_run

CONTROLNET_FILE = "ControlNetModel/diffusion_pytorch_model.safetensors"
PARTS = ("image_proj", "ip_adapter", "controlnet")


@pytest.mark.parametrize(
    ("flags", "step", "raw", "weights"),
    [
        ((), 6, False, "the moving average"),
        (("--raw",), 6, True, "the raw parameters"),
        (("--step", 3), 3, False, "the moving average"),
        (("--raw", "--step", 3), 3, True, "the raw parameters"),
    ],
)
def test_files_hold_what_was_saved(convert, run, tmp_path, caplog, flags, step, raw, weights):
    folder, saved = run
    output = tmp_path / "out"
    ran = convert("to-torch", folder, "--output", output, *flags)
    assert (ran.status, ran.out) == (0, [str(output)])
    assert caplog.messages == [f"{folder}: step {step}, {weights}"]

    files = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    assert files == {"ip-adapter.safetensors", "ControlNetModel/config.json", CONTROLNET_FILE}
    want = saved[step, raw]
    found = find_instantid(str(output), network("unet", UNET))
    for part in PARTS:
        assert_same_bits(found[part].load(None), part_of(want, part))
    # A few by hand: layouts, and the number of the middle block's layer, which is the last.
    adapter, controlnet = (
        load_file(output / "ip-adapter.safetensors"),
        load_file(output / CONTROLNET_FILE),
    )
    kernel = want["controlnet.conv_in.kernel"]
    np.testing.assert_array_equal(controlnet["conv_in.weight"], kernel.transpose(3, 2, 0, 1))
    kernel = want["image_proj.proj_in.kernel"]
    np.testing.assert_array_equal(adapter["image_proj.proj_in.weight"], kernel.T)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
    kernel = want[f"ip_adapter.{layer}.to_v_ip.kernel"]
    np.testing.assert_array_equal(adapter["ip_adapter.7.to_v_ip.weight"], kernel.T)


def test_diffusers_loads_identitynet(convert, run, tmp_path):
    """Also where the run's settings leave out what diffusers takes SD 1's values for."""
    folder, saved = run
    assert "addition_embed_type" not in (folder / "networks.json").read_text()
    assert convert("to-torch", folder, "--output", tmp_path / "out").status == 0
    loaded, info = ControlNetModel.from_pretrained(
        tmp_path / "out" / "ControlNetModel", output_loading_info=True
    )
    assert not any(info.values()), info
    assert loaded.dtype == torch.float32
    kernel = saved[6, False]["controlnet.down_blocks.1.resnets.0.conv1.kernel"]
    ours = loaded.down_blocks[1].resnets[0].conv1.weight.detach().numpy()
    np.testing.assert_array_equal(ours, kernel.transpose(3, 2, 0, 1))


def test_head_size_and_dtype(convert, tmp_path):
    write_run(tmp_path / "run", resampler=TINY_RESAMPLER | {"dim_head": 16}, average=False)
    output = tmp_path / "out"
    ran = convert("to-torch", tmp_path / "run", "--output", output, "--dtype", "bfloat16")
    assert ran.status == 0
    assert json.loads((output / "config.json").read_text()) == {"dim_head": 16}
    for name in ("ip-adapter.safetensors", CONTROLNET_FILE):
        assert {tensor.dtype.name for tensor in load_file(output / name).values()} == {"bfloat16"}


def test_run_becomes_a_model_of_ours(convert, run, sdxl, tmp_path):
    """Trained weights, converted with their base model, survive `to-torch`."""
    folder, saved = run
    model, output = tmp_path / "model", tmp_path / "out"
    sources = ("--sdxl", sdxl, "--instantid", folder)
    ran = convert("to-jax", *sources, "--output", model)
    assert (ran.status, ran.out) == (0, [str(model)])
    assert f"7/7 controlnet from {folder}, step 6" in ran.err
    assert convert("to-torch", model, "--output", output).status == 0
    found = find_instantid(str(output), network("unet", UNET))
    for part in PARTS:
        assert_same_bits(found[part].load(None), part_of(saved[6, False], part))

    for flags, named in ((("--raw",), "--raw"), (("--step", 6), "--step 6")):
        ran = convert("to-torch", model, "--output", tmp_path / "again", *flags)
        assert ran.error.startswith(f"{named} with {model}, which is not a training run's folder: ")
        assert len(ran.err) == 1 and not (tmp_path / "again").exists()


def test_the_recognizer_goes_with_the_weights(convert, run, sdxl, tmp_path):
    folder, recognizer = shutil.copytree(run[0], tmp_path / "run"), "5" * 64
    networks = json.loads((folder / "networks.json").read_text())
    (folder / "networks.json").write_text(json.dumps(networks | {"recognizer": recognizer}))
    torch_of_run, model, torch_of_model = (tmp_path / name for name in ("a", "b", "c"))
    assert convert("to-torch", folder, "--output", torch_of_run).status == 0
    sources = ("--sdxl", sdxl, "--instantid", torch_of_run)
    assert convert("to-jax", *sources, "--output", model).status == 0
    assert convert("to-torch", model, "--output", torch_of_model).status == 0
    for converted in (torch_of_run, model, torch_of_model):
        assert recognizer_of(str(converted)) == recognizer
    assert InstantIDPipeline.load(model=str(model)).recognizer == recognizer


# -- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def refused(convert, run, tmp_path):
    """Spoils a copy of the run's folder, and returns the one line with which that is refused."""

    def call(spoil):
        folder = shutil.copytree(run[0], tmp_path / "run")
        spoil(folder)
        ran = convert("to-torch", folder, "--output", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["run"] and len(ran.err) == 1
        return ran.error

    return call


def cut_data(folder):
    """Cuts the newest checkpoint's data; which file holds what differs from run to run."""
    for path in (folder / "checkpoints" / "6" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:100])


SPOILT = {
    "cut checkpoint": (cut_data, "the checkpoint of step 6 is damaged: "),
    "cut description": (
        lambda folder: (folder / "checkpoints" / "6" / "meta" / "meta.json").write_text("{"),
        "the checkpoint of step 6 is damaged: ",
    ),
    "no checkpoint": (lambda folder: shutil.rmtree(folder / "checkpoints"), "has no checkpoint: "),
    "no networks.json": (
        lambda folder: (folder / "networks.json").unlink(),
        "has no networks.json",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_run_is_refused(refused, case):
    spoil, message = SPOILT[case]
    assert message in refused(spoil)


def test_missing_step_is_refused(convert, run, tmp_path):
    ran = convert("to-torch", run[0], "--output", tmp_path / "out", "--step", 5)
    assert "has no checkpoint of step 5, only of 3, 6: choose one" in ran.error
    assert list(tmp_path.iterdir()) == []


def test_run_of_another_base_model_is_refused(convert, sdxl, tmp_path):
    write_run(tmp_path / "run", unet=UNET | {"cross_attention_dim": 80})
    sources = ("--sdxl", sdxl, "--instantid", tmp_path / "run")
    ran = convert("to-jax", *sources, "--output", tmp_path / "model")
    assert f"{tmp_path}/run does not fit this UNet: its adapter has " in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_leaves_nothing(convert, run, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(to_torch, "save_file", full)
    ran = convert("to-torch", run[0], "--output", tmp_path / "out")
    assert ran.error.startswith("ip-adapter.safetensors cannot be written (I/O error: No space")
    assert list(tmp_path.iterdir()) == []
