"""A distillation by its program, from the options to a LoRA that the pipeline loads."""

import dataclasses
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from convert.to_torch import LORA_FILE, write_torch
from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.request import Request
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore_weights
from instantid_jax.runs.trained import open_trained
from instantid_jax.runs.trained_lora import merged
from instantid_jax.weights.torch_files import open_tensors
from tests.train import tiny_config, training_process
from train import report
from train.distill import main
from train.distillation.config import DistillationConfig
from train.loop import how_to_use
from train.model import find_base
from train.validation.config import ValidationConfig
from train.validation.records import ValidationRecords

# The last steps of the run on a mesh, and of those on one device.
STEPS, LAST = 4, 8
SIDE = 64


def options(*more):
    """A distillation that changes the UNet in few steps."""
    return (
        *("--model.instantid", tiny_config.tiny_model(), "--global-batch-size", 8),
        *("--distillation.rank", 4, "--distillation.teacher-steps", 1),
        *("--distillation.guidance-scale", 2, "--distillation.ip-adapter-scale", 0.5),
        *("--optimizer.learning-rate", 1e-2, "--optimizer.warmup-steps", 0),
        *more,
    )


def distill(workdir, *more):
    """Runs the program on eight devices of all axes."""
    mesh = ("--mesh.data", 2, "--mesh.fsdp", 2, "--mesh.tensor", 2)
    given = [training_process.CONFIG, "--workdir", workdir, *options(*mesh, *more)]
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in given])
    assert ended.value.code == 0


def validation():
    return ValidationConfig(
        dataset=tiny_config.get_config().data.datasets[0].folder,
        every=STEPS,
        records=1,
        loss_records=8,
        size=(SIDE, SIDE),
        face_pack=str(embedded.FACE_PACK),
        recognizer=f"{embedded.FACE_PACK}/recogniser.onnx",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("distilled")
    given = validation()
    distill(
        workdir,
        *("--steps", STEPS, "--checkpoints.every", STEPS, "--checkpoints.best", "loss"),
        *("--validation.dataset", given.dataset, "--validation.every", STEPS),
        *("--validation.records", 1, "--validation.loss-records", 8),
        *("--validation.size", SIDE, SIDE, "--validation.face-pack", given.face_pack),
        *("--validation.recognizer", given.recognizer),
    )
    return workdir


@pytest.fixture(scope="module")
def lora(run, tmp_path_factory):
    """The folder that the run's LoRA is converted to."""
    folder = tmp_path_factory.mktemp("converted") / "lora"
    write_torch(run, folder, step=STEPS)
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The same run on one device, without validation."""
    workdir = tmp_path_factory.mktemp("straight")
    assert training_process.end(start(workdir, "--steps", LAST)) == 0
    return workdir


def start(workdir, *more):
    return training_process.start(workdir, *options(*more), program=("train.distill",))


@pytest.mark.slow
def test_the_pipeline_loads_the_lora(run, lora):
    tensors = open_tensors(lora / LORA_FILE).tensors
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in tensors
    folder = tiny_config.tiny_model()
    pipe = InstantIDPipeline.load(sdxl=folder, instantid=folder, loras=[str(lora)])
    base = InstantIDPipeline.load(sdxl=folder, instantid=folder)
    unet = pipe.model.networks.unet
    factors = restore_weights(RunFolder(run))
    assert any(np.any(value) for name, value in factors.items() if name.endswith("lora_B"))
    own = jax.jit(merged, static_argnums=0)(unet, base.model.params["unet"], factors)
    changed = 0
    for name, value in pipe.model.params["unet"].items():
        np.testing.assert_allclose(value, own[name], rtol=1e-5, atol=1e-6)
        changed += bool(np.any(value != base.model.params["unet"][name]))
    assert changed == len(factors) / 2


@pytest.mark.slow
def test_the_lora_makes_the_images_that_validation_saw(run, lora):
    with Image.open(run / "samples" / f"{STEPS:08d}.png") as image:
        seen = np.asarray(image)[:, 2 * SIDE :].astype(int)
        assert '"scheduler": "euler_trailing", ' in image.text["instantid"]
        assert '"num_inference_steps": 4, ' in image.text["instantid"]
    config = tiny_config.get_config()
    base = find_base(config.model)
    made = dataclasses.replace(config, validation=validation())
    (example,) = ValidationRecords(made, base.tokenizers, base.networks.image_proj).shown
    folder = tiny_config.tiny_model()
    images = []
    for loras in ([str(lora)], []):
        pipe = InstantIDPipeline.load(sdxl=folder, instantid=folder, loras=loras)
        request = Request(
            example["caption"],
            image_embeds=example["id_embeds"],
            kps_image=example["keypoint_images"],
            height=SIDE,
            width=SIDE,
            scheduler="euler_trailing",
            num_inference_steps=4,
            guidance_scale=1.0,
            ip_adapter_scale=0.5,
        )
        images.append(np.asarray(pipe.run([request]).images[0]).astype(int))
    with_lora, without = (np.abs(image - seen) for image in images)
    assert with_lora.max() <= 1
    assert with_lora.mean() < 0.1 * without.mean()


@pytest.mark.slow
def test_a_run_is_validated_and_reported_like_a_training(run):
    (numbers,) = (line for line in training_process.metrics(run) if "validation/loss" in line)
    faces = {"detection_rate", "keypoint_error", "face_cosine"}
    ranges = {f"loss_t_to_{t}" for t in (250, 500, 750, 1000)}
    measured = {name.removeprefix("validation/") for name in numbers if "/" in name}
    assert measured == {"loss"} | ranges | faces
    report.main([str(run)])
    assert (run / "report.png").is_file()


@pytest.mark.slow
def test_a_lora_is_not_instantid(run):
    with pytest.raises(InputError, match=r"trained a LoRA, not InstantID: `python -m convert"):
        open_trained(run)


@pytest.mark.slow
def test_a_mesh_trains_what_one_device_does(run, straight):
    ours, theirs = (
        [line for line in training_process.metrics(each) if "loss" in line][:STEPS]
        for each in (run, straight)
    )
    assert [x["example_ids"] for x in ours] == [x["example_ids"] for x in theirs]
    for name in ("loss", "grad_norm"):
        found, expected = ([line[name] for line in lines] for lines in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        assert len(set(expected)) == STEPS


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(straight, tmp_path):
    killed = start(tmp_path, "--steps", 1000, "--checkpoints.every", 1)
    training_process.signal_at(killed, tmp_path, 2, signal.SIGKILL)
    killed.communicate()
    assert RunFolder(tmp_path).steps()[-1] < LAST
    assert training_process.end(start(tmp_path, "--steps", LAST)) == 0
    ours, theirs = (training_process.state(each, LAST) for each in (tmp_path, straight))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.slow
def test_a_later_stage_starts_from_the_earlier_lora(run, tmp_path):
    earlier = restore_weights(RunFolder(run))
    distill(
        tmp_path,
        *("--distillation.lora", run, "--distillation.steps", 2),
        *("--distillation.teacher-steps", 2, "--optimizer.learning-rate", 1e-6, "--steps", 1),
    )
    later = restore_weights(RunFolder(tmp_path), raw=True)
    changed = 0
    for name, value in later.items():
        np.testing.assert_allclose(value, earlier[name], rtol=1e-5, atol=2e-6)
        changed += bool(np.any(value != earlier[name]))
    assert changed > len(later) / 2


def test_the_end_says_how_to_use_it():
    made = dataclasses.replace(
        tiny_config.get_config(), distillation=DistillationConfig(ip_adapter_scale=0.5)
    )
    folder = made.model.sdxl
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, instantid=folder))
    assert how_to_use(made, RunFolder(Path("runs/a"))) == (
        "`python -m convert to-torch runs/a --output DIR` writes the LoRA, for `instantid generate "
        f"--sdxl {folder} --instantid {folder} --lora DIR --scheduler euler_trailing "
        "--num-inference-steps 4 --guidance-scale 1 --ip-adapter-scale 0.5`"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0: expected 1 or more"),
        ({"steps": 100, "teacher_steps": 6}, "expected at most 500 of the teacher's"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan: expected 0 or more"),
    ],
)
def test_refused_settings(changes, message):
    with pytest.raises(InputError, match=message):
        DistillationConfig(**changes)
