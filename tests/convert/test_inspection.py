"""`inspect`: what a file or folder is, what it lacks, and what takes it."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.convert.published import UNET, write_published
from tests.weights.sparse import sdxl_shapes, write_sparse
from tests.weights.test_identify import PUBLISHED

CONTROLNET_FILE = "ControlNetModel/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "weights")


@pytest.fixture
def inspect(convert):
    """Inspects something readable; returns the lines."""

    def call(*arguments):
        ran = convert("inspect", *arguments)
        assert ran.status == 0 and ran.err == [], ran
        return ran.out

    return call


def change(file, **tensors):
    save_file({n: t for n, t in (load_file(file) | tensors).items() if t is not None}, file)


def test_controlnet(inspect, sound):
    file = sound / CONTROLNET_FILE
    tensors = load_file(file).values()
    count, parameters = len(tensors), sum(tensor.size for tensor in tensors)
    assert inspect(file) == [
        f"{file}: a 96-wide ControlNet (diffusers layout)",
        f"  {count} tensors, {parameters:,} parameters, float16, {2 * parameters / 1e6:.2f} MB",
        "  complete, by its config.json",
        "  all values are finite",
        "  usable as one of --controlnets, or in ControlNetModel/ in the folder of --instantid",
    ]


def test_missing_and_left_over(inspect, folder):
    file = folder / CONTROLNET_FILE
    spoilt = {"conv_in.bias": None, "other": np.zeros(2, np.float32)}
    change(file, **spoilt)
    lines = inspect(file)
    assert "1 in float32" in lines[1] and "in float16" in lines[1]
    assert "does not fit: 1 missing: conv_in.bias; 1 unexpected: other" in lines[2]
    assert lines[-1] == "  not usable as it is"


def test_numbers_that_are_not_finite(inspect, folder):
    file = folder / CONTROLNET_FILE
    change(file, **{"conv_in.bias": np.array([1, np.nan] * 16, np.float16)})
    lines = inspect(file)
    assert lines[3:] == [
        "  1 tensors have non-finite values: conv_in.bias",
        "  not usable as it is",
    ]
    lines = inspect(file, "--headers-only")
    assert lines[3].startswith("  usable as one of --controlnets")


def test_adapter(inspect, folder):
    lines = inspect(folder / "ip-adapter.safetensors")
    assert lines[0].endswith("ip-adapter.safetensors: an InstantID adapter")
    assert "  complete, for the UNet next to it" in lines
    shutil.rmtree(folder / "unet")
    lines = inspect(folder / "ip-adapter.safetensors")
    line = "  its Resampler is complete; made for a UNet of cross_attention_dim=96"
    assert line in lines and lines[-1] == "  usable as the adapter in the folder of --instantid"


def test_network_without_settings_is_compared_with_sdxls(inspect, folder, tmp_path):
    file = shutil.copy(folder / CONTROLNET_FILE, tmp_path)
    assert "does not fit" in inspect(file, "--headers-only")[2]


def test_single_file_at_full_size(inspect, tmp_path):
    shapes = sdxl_shapes()
    parameters = 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840
    del shapes["model.diffusion_model.input_blocks.4.1.proj_in.bias"]
    shapes |= {"v_pred": (0,), "ztsnr": (0,), "model_ema.decay": ()}
    file = write_sparse(tmp_path / "sdxl.safetensors", shapes)
    lines = inspect(file, "--headers-only")
    assert lines[0] == f"{file}: an SDXL checkpoint (one file, original layout)"
    # Other tensors: CLIP's positions and scale, and the decay of the moving average.
    counted = parameters - 640 + 77 + 1 + 1
    assert (
        lines[1] == f"  2517 tensors, {counted:,} parameters, float16, {2 * counted / 1e9:.2f} GB"
    )
    assert "does not fit: 1 missing: down_blocks.1.attentions.0.proj_in.bias" in lines[2]
    assert lines[3:6] == [
        "  vae: complete",
        "  text_encoder: complete",
        "  text_encoder_2: complete",
    ]
    assert lines[6] == "  prediction type: v_prediction, zero terminal SNR"
    line, _, others = lines[7].partition(": ")
    assert line == "  besides the networks"
    assert sorted(others.split(", ")) == ["model_ema (1)", "v_pred (1)", "ztsnr (1)"]
    assert lines[8] == "  not usable as it is"


def test_parts_of_a_checkpoint_at_full_size(inspect, tmp_path):
    """A VAE, a UNet and a checkpoint that lacks them, in the original layout."""
    shapes, file = sdxl_shapes(), tmp_path / "x.safetensors"

    def lines_of(*prefixes):
        chosen = {n: shape for n, shape in shapes.items() if n.startswith(prefixes)}
        return inspect(write_sparse(file, chosen), "--headers-only")

    complete = "  complete, by SDXL base (no config.json next to it)"
    vae, unet, texts = "first_stage_model.", "model.diffusion_model.", "conditioner."
    assert lines_of(vae)[2:] == [complete, "  usable as --vae, or in vae/ in the folder of --sdxl"]
    lines = lines_of(unet)
    assert lines[0] == f"{file}: an SDXL UNet in the original layout, without the rest"
    assert lines[2:] == [complete, "  usable as --unet, or in unet/ in the folder of --sdxl"]
    lines = lines_of(unet, f"{texts}embedders.0.")
    assert "an SDXL checkpoint without text encoder 2" in lines[0]
    assert lines[2:] == [complete, "  usable as --unet, or in unet/ in the folder of --sdxl"]
    lines = lines_of(unet, texts)
    assert lines[3] == "  vae: none; give one as --vae" and lines[-1] == "  usable as --sdxl"


@pytest.mark.parametrize("name", ["SD 1.5", "Control-LoRA", "IP-Adapter", "insightface in torch"])
def test_file_of_no_use(inspect, tmp_path, name):
    shapes, phrase, _ = PUBLISHED[name]
    file = write_sparse(tmp_path / "file.safetensors", shapes)
    lines = inspect(file, "--headers-only")
    assert lines[0] == f"{file}: {phrase}"
    assert lines[-1].startswith("  not usable here: ")


def test_folder_of_everything(inspect, sound):
    lines = inspect(sound)
    named = [line.removeprefix(f"{sound}/") for line in lines if line.startswith(f"{sound}/")]
    assert named == [
        "ControlNetModel/diffusion_pytorch_model.safetensors: a 96-wide ControlNet "
        "(diffusers layout)",
        "ip-adapter.safetensors: an InstantID adapter",
        "text_encoder/model.safetensors: a CLIP text encoder",
        "text_encoder_2/model.safetensors: a CLIP text encoder with a projection",
        "unet/diffusion_pytorch_model.safetensors: a 96-wide UNet (diffusers layout)",
        "vae/diffusion_pytorch_model.safetensors: a VAE (diffusers layout)",
        "scheduler/scheduler_config.json: EulerDiscreteScheduler, prediction type: epsilon",
    ]
    assert lines[-2:] == ["usable as --sdxl: yes", "usable as --instantid: yes"]


def test_folder_that_lacks_something(inspect, folder):
    (folder / "vae" / "config.json").unlink()
    shutil.rmtree(folder / "ControlNetModel")
    lines = inspect(folder, "--headers-only")
    assert lines[-2].startswith("usable as --sdxl: no (") and "vae/config.json" in lines[-2]
    assert lines[-1].startswith("usable as --instantid: no (") and "ControlNetModel" in lines[-1]


def test_folder_of_one_network(inspect, folder):
    assert inspect(folder / "vae", "--headers-only")[-1] == "usable as --vae: yes"
    lines = inspect(folder / "ControlNetModel", "--headers-only")
    assert lines[-1] == "usable as --controlnets: yes"


def test_folder_with_a_damaged_file(convert, folder):
    file = folder / CONTROLNET_FILE
    file.write_bytes(file.read_bytes()[:-1])
    ran = convert("inspect", folder, "--headers-only")
    assert ran.status == 2 and len(ran.err) == 1
    assert f"{file}: damaged or cut short safetensors file" in ran.err[0]
    assert f"{file}: damaged, or not weights" in ran.out
    assert f"{folder}/unet/diffusion_pytorch_model.safetensors" in "\n".join(ran.out)


def test_converted_model(convert, inspect, sound, tmp_path):
    model = tmp_path / "model"
    sources = ("--sdxl", sound, "--instantid", sound)
    assert convert("to-jax", *sources, "--output", model).status == 0
    lines = inspect(model)
    assert lines[0] == f"{model}: a model converted by to-jax"
    assert [line for line in lines[1:] if not line.startswith("  ")] == [
        "unet: UNet2DConditionModel",
        "vae: AutoencoderKL",
        "text_encoder: CLIPTextModel",
        "text_encoder_2: CLIPTextModel",
        "image_proj: Resampler",
        "ip_adapter: UNet2DConditionModel",
        "controlnet: ControlNetModel",
        "prediction type: epsilon",
        "usable as --model",
    ]
    assert lines.count("  complete, by its config.json") == 7
    assert lines.count("  all values are finite") == 7
    unet = load_file(sound / "unet" / "diffusion_pytorch_model.safetensors").values()
    parameters = sum(tensor.size for tensor in unet)
    assert f"  {len(unet)} tensors, {parameters:,} parameters, float16, " in lines[2]

    largest = max(model.rglob("params/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    line = convert("inspect", model)
    assert line.status == 2 and "has changed since it was written" in line.err[-1]


@pytest.mark.parametrize("name", ["nothing", "empty", "text.safetensors", "config.json"])
def test_what_is_no_weights(convert, tmp_path, name):
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif name == "config.json":
        path.write_text(json.dumps(UNET))
    elif name != "nothing":
        path.write_text("hello")
    ran = convert("inspect", path)
    assert str(path) in ran.error and len(ran.err) == 1
