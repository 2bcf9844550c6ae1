"""A distillation from the configuration to a LoRA that the pipeline loads."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from convert.to_torch import LORA_FILE, write_torch
from instantid_jax.errors import InputError
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore_weights
from instantid_jax.runs.trained import open_trained
from instantid_jax.runs.trained_lora import merged
from instantid_jax.weights.torch_files import open_tensors
from tests.train import tiny_config, training_process
from train.config import ModelConfig, ValidationConfig
from train.distillation.config import DistillationConfig
from train.loop import how_to_use, train
from train.start import StartConfig

STEPS = 2


def config(steps=STEPS, **changes):
    made = tiny_config.get_config()
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, instantid=made.model.sdxl),
        distillation=DistillationConfig(teacher_steps=1, guidance_scale=2.0, rank=4),
        mesh=dataclasses.replace(made.mesh, fsdp=2),
        global_batch_size=8,
        steps=steps,
        **changes,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("distilled")
    made = config()
    validation = ValidationConfig(
        dataset=made.data.datasets[0].folder, every=STEPS, records=1, size=(64, 64)
    )
    assert train(dataclasses.replace(made, validation=validation), workdir, StartConfig()) == 0
    return workdir


@pytest.mark.slow
def test_the_pipeline_loads_the_lora(run, tmp_path):
    write_torch(run, tmp_path / "lora")
    tensors = open_tensors(tmp_path / "lora" / LORA_FILE).tensors
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in tensors
    folder = config().model.sdxl
    pipe = InstantIDPipeline.load(sdxl=folder, instantid=folder, loras=[str(tmp_path / "lora")])
    base = InstantIDPipeline.load(sdxl=folder, instantid=folder)
    unet = pipe.model.networks.unet
    factors = restore_weights(RunFolder(run))
    assert any(np.any(value) for name, value in factors.items() if name.endswith("lora_B"))
    own = jax.jit(merged, static_argnums=0)(unet, base.model.params["unet"], factors)
    changed = 0
    for name, value in pipe.model.params["unet"].items():
        np.testing.assert_allclose(value, own[name], rtol=1e-5, atol=1e-7)
        changed += bool(np.any(value != base.model.params["unet"][name]))
    assert changed == len(factors) / 2


@pytest.mark.slow
def test_validation_images_take_the_students_steps(run):
    assert (run / "samples" / f"{STEPS:08d}.png").is_file()


@pytest.mark.slow
def test_a_lora_is_not_instantid(run):
    with pytest.raises(InputError, match=r"trained a LoRA, not InstantID: `python -m convert"):
        open_trained(run)


def test_the_end_says_how_to_use_it():
    assert how_to_use(config(), RunFolder(Path("runs/a"))) == (
        "`python -m convert to-torch runs/a --output DIR` writes the LoRA, for `instantid generate "
        f"--sdxl {config().model.sdxl} --instantid {config().model.sdxl} --lora DIR "
        "--scheduler euler_trailing --num-inference-steps 4 --guidance-scale 1`"
    )


@pytest.mark.slow
def test_a_resumed_run_is_the_same(run, tmp_path):
    assert train(config(steps=4), run, StartConfig()) == 0
    assert train(config(steps=4), tmp_path, StartConfig()) == 0
    ours, theirs = (training_process.state(each, 4) for each in (run, tmp_path))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ModelConfig(sdxl="x")}, "distillation without model.instantid"),
        (
            {"objective": dataclasses.replace(config().objective, log_noise=(0.0, 1.0))},
            "objective.log_noise=.* has no effect on a distillation",
        ),
    ],
)
def test_refused_configurations(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(config(), **changes), tmp_path / "run", StartConfig())
    assert not list(tmp_path.iterdir())


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
