"""Runs that train a part of InstantID, or a LoRA of it: what they save, and what can be used."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from convert.to_torch import write_torch
from instantid_jax.components import component_shapes
from instantid_jax.errors import InputError
from instantid_jax.params import join_parts, split_parts
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import stored_weights
from instantid_jax.runs.trained import find_published_or_trained, open_trained
from instantid_jax.weights.layouts import find_instantid
from tests.train import small, tiny_config, training_process
from train.config import ModelConfig
from train.distillation.config import DistillationConfig
from train.loop import train
from train.networks import INSTANTID, TRAINABLE
from train.start import StartConfig
from train.state import trainable_shapes
from train.validation.config import ValidationConfig

STEPS = 2


def config(steps=STEPS, validates=False, **model):
    made = tiny_config.get_config()
    validation = ValidationConfig(
        dataset=made.data.datasets[0].folder, every=STEPS, records=1, loss_records=1, size=(64, 64)
    )
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, instantid=made.model.sdxl, **model),
        optimizer=dataclasses.replace(made.optimizer, ema_decay=None),
        global_batch_size=8,
        steps=steps,
        validation=validation if validates else None,
    )


def loaded(parts):
    return join_parts({name: parts[name].load(jnp.dtype("float32")) for name in INSTANTID})


@pytest.fixture(scope="module")
def base():
    """The weights that all runs of this file start from."""
    made = config()
    return loaded(find_instantid(made.model.sdxl, small.networks().unet))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"trainable": "adapter"},
        {"trainable": "identitynet"},
        {"trainable": "adapter", "lora_rank": 4},
    ],
    ids=["adapter", "identitynet", "LoRA of the adapter"],
)
def test_a_run_saves_what_it_trains_and_gives_complete_weights(model, base, tmp_path):
    workdir, made = tmp_path / "run", config(validates=True, **model)
    assert train(made, workdir, StartConfig()) == 0
    stored, parts = stored_weights(RunFolder(workdir)).shapes, TRAINABLE[model["trainable"]]
    assert {name.partition(".")[0] for name in stored} == set(parts)
    if "lora_rank" in model:
        assert all(name.endswith((".lora_A", ".lora_B")) for name in stored)
    assert (workdir / "samples" / f"{STEPS:08d}.png").is_file()

    complete = loaded(find_published_or_trained(str(workdir), small.networks().unet))
    assert complete.keys() == base.keys()
    for name, value in complete.items():
        if name.partition(".")[0] not in parts:
            np.testing.assert_array_equal(value, base[name])
    changed = [name for name, value in complete.items() if np.any(value != base[name])]
    assert len(changed) > 10

    write_torch(workdir, tmp_path / "published")
    converted = loaded(find_instantid(str(tmp_path / "published"), small.networks().unet))
    assert complete.keys() == converted.keys()
    for name, value in complete.items():
        np.testing.assert_array_equal(value, converted[name])

    assert train(config(STEPS + 1, **model), workdir, StartConfig()) == 0
    assert training_process.events(workdir)[-1] == {"event": "finished", "step": STEPS + 1}
    with pytest.raises(InputError, match=f'model.trainable was "{model["trainable"]}", is absent'):
        train(config(STEPS + 2), workdir, StartConfig())
    with pytest.raises(InputError, match="holds a different state"):
        train(config(STEPS + 2), workdir, StartConfig(ignore_fingerprint=True))
    networks = json.loads((workdir / "networks.json").read_text())
    networks["frozen"]["instantid"] = str(tmp_path / "gone")
    (workdir / "networks.json").write_text(json.dumps(networks))
    with pytest.raises(InputError, match=r"did not train .*, whose weights are those of .*gone"):
        open_trained(workdir)


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("trainable", TRAINABLE)
def test_what_is_not_trained_is_frozen(trainable, rank):
    networks = dataclasses.replace(small.networks(), trainable=TRAINABLE[trainable], lora_rank=rank)
    shapes = trainable_shapes(networks)
    assert {name.partition(".")[0] for name in shapes} == set(TRAINABLE[trainable])
    frozen = set(INSTANTID) if rank else set(INSTANTID) - set(TRAINABLE[trainable])
    assert set(networks.frozen) & set(INSTANTID) == frozen
    whole = sum(
        shape.size
        for part in TRAINABLE[trainable]
        for shape in component_shapes(part, networks.of(part)).values()
    )
    trained = sum(shape.size for shape in shapes.values())
    assert trained < whole / 3 if rank else trained == whole


def test_a_lora_adds_to_the_weights():
    networks = dataclasses.replace(small.networks(), trainable=TRAINABLE["adapter"], lora_rank=4)
    random = np.random.default_rng(0)
    factors = {
        name: jnp.asarray(0.1 * random.standard_normal(shape.shape, np.float32))
        for name, shape in trainable_shapes(networks).items()
    }
    parts = split_parts(small.trainables())
    made = join_parts(networks.instantid(small.frozen() | parts, factors))
    wanted = dict(small.trainables())
    for name in factors:
        layer, _, role = name.rpartition(".")
        if role == "lora_A":
            wanted[f"{layer}.kernel"] += (factors[f"{layer}.lora_B"] @ factors[name]).T
    assert made.keys() == wanted.keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6)
    changed = {n for n, value in made.items() if np.any(value != small.trainables()[n])}
    assert changed == {f"{name.rpartition('.')[0]}.kernel" for name in factors}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"trainable": "adapter"}, "model.trainable=adapter without model.instantid: name"),
        ({"lora_rank": 4}, "model.lora_rank=4 without model.instantid: name"),
    ],
)
def test_frozen_parts_need_weights(model, message, tmp_path):
    made = dataclasses.replace(config(), model=ModelConfig(sdxl="x", **model))
    with pytest.raises(InputError, match=message):
        train(made, tmp_path / "run", StartConfig())
    assert not list(tmp_path.iterdir())


def test_a_distillation_chooses_itself_what_it_trains(tmp_path):
    made = dataclasses.replace(config(lora_rank=4), distillation=DistillationConfig())
    with pytest.raises(InputError, match=r"model.lora_rank=4 has no effect on a distillation"):
        train(made, tmp_path / "run", StartConfig())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"trainable": "unet"}, "trainable='unet': expected one of all, adapter, identitynet"),
        ({"lora_rank": 0}, "lora_rank=0: expected 1 or more"),
    ],
)
def test_refused_settings(model, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(sdxl="x", **model)
