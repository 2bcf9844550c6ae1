"""`python -m train.distill`: what it makes of a training's configuration, and bad input."""

import dataclasses
import importlib

import jax.numpy as jnp
import pytest

from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from tests.runs.trained_run import State, draw
from tests.train import small, tiny_config, training_process
from train.distill import distilling, main
from train.distillation.config import DistillationConfig
from train.distillation.factors import factor_shapes
from train.objective import CFG, ObjectiveConfig
from train.runs.saving import Saver

RANK, STEPS = 4, 4
RUN = "run"


def build(name):
    return importlib.import_module(f"configs.{name}").get_config()


def test_a_training_gives_its_model_data_mesh_and_batch():
    training = dataclasses.replace(build("gpu_h200_8"), objective=CFG)
    config = distilling(training)
    assert config.distillation == DistillationConfig()
    for name in ("model", "data", "mesh", "step", "checkpoints", "validation", "global_batch_size"):
        assert getattr(config, name) == getattr(training, name)
    assert config.objective == ObjectiveConfig()
    assert config.optimizer.learning_rate > training.optimizer.learning_rate


def test_a_training_with_an_identity_loss_can_be_distilled():
    made = build("miniature")
    made = dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, recognizer="glintr100.onnx"),
        objective=dataclasses.replace(made.objective, identity_weight=1.0),
    )
    config = distilling(made)
    assert config.objective.identity_weight == 0
    assert config.objective.face_weight == made.objective.face_weight > 0
    assert config.model.recognizer is None


def test_a_configuration_of_a_distillation_is_used_as_it_is():
    made = build("miniature_fast")
    assert distilling(made) is made


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The run of a distillation of the tiny model, which was not trained."""
    path = tmp_path_factory.mktemp("earlier")
    params = draw(factor_shapes(small.networks().unet, RANK), 0)
    state = State(jnp.asarray(1), params, ({},), {})
    meta = Meta(fingerprint={"distillation.steps": str(STEPS)}, seed=0, position=0)
    with Saver(RunFolder(path), start=0, every=1) as saver:
        saver.save(1, state, meta)
    return path


def refused(capsys, workdir, *options):
    """Returns the one line of the error."""
    arguments = [training_process.CONFIG, "--workdir", str(workdir), "--global-batch-size", "8"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *map(str, options)])
    assert ended.value.code == 2
    assert not workdir.exists()
    message = capsys.readouterr().err
    assert "Traceback" not in message
    (line,) = [line for line in message.splitlines() if line.startswith("distill: error: ")]
    return line


def weights():
    return ("--model.instantid", tiny_config.get_config().model.sdxl)


WRONG = {
    "steps": (("--distillation.steps", 0), "distillation steps=0: expected 1 or more"),
    "teacher's steps": (("--distillation.teacher-steps", 0), "teacher_steps=0: expected 1 or more"),
    "lora": (("--distillation.lora", "nowhere"), "nowhere is not the run of a distillation"),
    "objective": (("--objective.noise-offset", 0.1), "no effect on a distillation: leave it out"),
    "best": (("--checkpoints.best", "loss"), "but validation measures nothing"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_setting_gets_one_line(capsys, tmp_path, wrong):
    options, message = WRONG[wrong]
    assert message in refused(capsys, tmp_path / RUN, *weights(), *options)


def test_weights_to_distill_must_be_named(capsys, tmp_path):
    line = refused(capsys, tmp_path / RUN)
    assert "distillation without model.instantid: name the InstantID weights" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--distillation.rank", 2), "does not fit rank 2 of this UNet: it has "),
        (("--distillation.rank", RANK), "expected two numbers whose product is 4"),
    ],
)
def test_an_earlier_lora_must_fit(capsys, tmp_path, earlier, options, message):
    given = ("--distillation.lora", earlier, "--distillation.steps", 2)
    line = refused(capsys, tmp_path / RUN, *weights(), *given, *options)
    assert message in line
