"""Configurations reject bad settings, and their identity covers what affects results."""

import dataclasses

import pytest

from instantid_jax.errors import InputError
from train.config import CheckpointConfig, MeshConfig, ModelConfig, TrainConfig
from train.data.batch_sizes import BatchSizes
from train.data.config import DataConfig, DatasetShare
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig
from train.step import StepConfig
from train.validation.config import ValidationConfig

CONFIG = TrainConfig(
    model=ModelConfig(sdxl="a"),
    data=DataConfig(datasets=(DatasetShare(folder="b"),)),
    global_batch_size=16,
    steps=10,
)


def changed(**values):
    return dataclasses.replace(CONFIG, **values).identity()


def test_identity_excludes_paths_sharding_and_logging():
    data = DataConfig(datasets=(DatasetShare(folder="elsewhere"),))
    same = changed(
        steps=20,
        model=ModelConfig(sdxl="elsewhere"),
        data=data,
        mesh=MeshConfig(fsdp=4),
        step=StepConfig(micro_batches=2, remat="none"),
        checkpoints=CheckpointConfig(every=7),
        optimizer=OptimizerConfig(skip_nonfinite=3),
        validation=ValidationConfig(dataset="c"),
        log_example_ids=True,
        loader_threads=3,
    )
    assert same == CONFIG.identity()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"global_batch_size": 8}, "global_batch_size"),
        ({"objective": ObjectiveConfig(drop_id=0.05)}, "objective.drop_id"),
        ({"optimizer": OptimizerConfig(learning_rate=1e-4)}, "optimizer.learning_rate"),
        ({"step": StepConfig(dtype="float32")}, "step.dtype"),
        (
            {"data": DataConfig(datasets=(DatasetShare(folder="b"),), crop="center")},
            "data.crop",
        ),
    ],
)
def test_identity_names_settings_that_affect_results(values, name):
    before, after = CONFIG.identity(), changed(**values)
    assert [key for key in before if before[key] != after[key]] == [name]


def test_identity_excludes_options_that_are_off():
    later = {"optimizer.algorithm", "optimizer.moment_dtype", "optimizer.restarts"}
    later |= {"model.trainable", "model.lora_rank"}
    later |= {"objective.identity_weight", "objective.identity_window"}
    assert not later & CONFIG.identity().keys()
    muon = changed(optimizer=OptimizerConfig(algorithm="muon"))
    assert muon["optimizer.algorithm"] == '"muon"'
    small = changed(optimizer=OptimizerConfig(moment_dtype="bfloat16"))
    assert small["optimizer.moment_dtype"] == '"bfloat16"'
    model = ModelConfig(sdxl="x", instantid="y", trainable="adapter", lora_rank=4)
    trained = changed(model=model)
    assert (trained["model.trainable"], trained["model.lora_rank"]) == ('"adapter"', "4")
    restarted = OptimizerConfig(schedule="cosine", restarts=(600,), decay_steps=700)
    assert changed(optimizer=restarted)["optimizer.restarts"] == "[600]"


@pytest.mark.parametrize(
    "values", [{"b1": 1.0}, {"b2": 1 - 1e-9}, {"b2": -1}, {"eps": 0}, {"weight_decay": -1}]
)
def test_optimizer_rejects_divisions_by_zero(values):
    with pytest.raises(InputError, match=next(iter(values))):
        OptimizerConfig(**values)


@pytest.mark.parametrize("values", [{"data": 0}, {"fsdp": 0}, {"tensor": -1}])
def test_mesh_rejects_invalid_sizes(values):
    with pytest.raises(InputError, match="expected 1 or more"):
        MeshConfig(**values)


@pytest.mark.parametrize("name", ["every", "keep", "keep_every"])
def test_checkpoints_reject_zero(name):
    with pytest.raises(InputError, match=name):
        CheckpointConfig(**{name: 0})


@pytest.mark.parametrize(
    "values",
    [
        {"every": 0},
        {"records": 0},
        {"size": (100, 100)},
        {"seed": -1},
        {"loss_records": -1},
        {"recognizer": "a.onnx"},
    ],
)
def test_validation_rejects_invalid_settings(values):
    with pytest.raises(InputError, match="validation"):
        ValidationConfig(dataset="c", **values)


@pytest.mark.parametrize(
    ("best", "changes", "message"),
    [
        ("loss", {}, None),
        ("loss", {"every": 3}, "make one a multiple"),
        ("loss", {"loss_records": 0}, "measures nothing"),
        ("face_cosine", {}, "validation.recognizer"),
        ("face_cosine", {"face_pack": "p", "recognizer": "r.onnx"}, None),
        ("keypoint_error", {"face_pack": "p"}, None),
        ("clip_t", {"face_pack": "p"}, "validation.clip"),
        ("clip_t", {"clip": "c"}, None),
    ],
)
def test_the_best_checkpoint_needs_its_number(best, changes, message):
    validation = ValidationConfig(**{"dataset": "c", "every": 20} | changes)
    checkpoints = CheckpointConfig(every=10, best=best)
    config = dataclasses.replace(CONFIG, validation=validation, checkpoints=checkpoints)
    if message is None:
        config.check_best()
        assert config.identity() == CONFIG.identity()
        return
    with pytest.raises(InputError, match=message):
        config.check_best()


def test_batch_must_divide_among_devices_and_micro_batches():
    config = dataclasses.replace(CONFIG, step=StepConfig(micro_batches=2))
    config.check_devices(4, 2)
    with pytest.raises(InputError, match="use a multiple of 32"):
        config.check_devices(8, 2)


@pytest.mark.parametrize(
    "values",
    [
        {"objective": ObjectiveConfig(identity_weight=0.5)},
        {"model": ModelConfig(sdxl="a", recognizer="r.onnx")},
    ],
    ids=["no recognizer", "no weight"],
)
def test_identity_loss_needs_a_weight_and_a_recognizer(values):
    with pytest.raises(InputError, match="the identity loss needs both"):
        dataclasses.replace(CONFIG, **values)


def test_identity_excludes_an_identity_loss_that_is_off():
    assert not any("identity" in name for name in CONFIG.identity())
    objective = ObjectiveConfig(identity_weight=0.5)
    model = ModelConfig(sdxl="a", recognizer="r.onnx")
    assert changed(objective=objective, model=model)["objective.identity_weight"] == "0.5"


@pytest.mark.parametrize("values", [{"steps": None}, {"epochs": 2}])
def test_one_length_is_expected(values):
    with pytest.raises(InputError, match=r"steps=.*, epochs=.*: expected one of them"):
        dataclasses.replace(CONFIG, **values)


def test_epochs_are_counted_in_full_batches():
    config = dataclasses.replace(CONFIG, steps=None, epochs=3)
    sizes = BatchSizes.constant(config.global_batch_size)
    assert [config.in_steps(records, sizes).steps for records in (16, 17, 5)] == [3, 4, 1]
