"""A run starts from its own newest checkpoint, another run's, given weights or new ones."""

import dataclasses

import jax
import numpy as np
import pytest

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.sharding import training_mesh
from tests.train import tiny_config
from train.data.batches import Batches
from train.model import find_base
from train.runs.saving import Saver
from train.start import StartConfig, begin

CONFIG = dataclasses.replace(tiny_config.get_config(), global_batch_size=8)
NAME = "controlnet.conv_in.kernel"


def started(run, config=CONFIG, **options):
    base = find_base(config.model)
    batches = Batches(config.data, base.tokenizers, config.global_batch_size, config.seed)
    mesh = training_mesh((1, 2, 1), jax.devices()[:2])
    return begin(config, StartConfig(**options), run, base, batches, mesh)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return started(RunFolder(tmp_path_factory.mktemp("fresh")))


def moved(value, by):
    """The sum, without compiling a program for every shape."""
    return jax.device_put(np.asarray(value) + np.float32(by), value.sharding)


@pytest.fixture(scope="module")
def run(fresh, tmp_path_factory):
    """A run with checkpoints 3 and 6."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    with Saver(run, start=0, every=3) as saver:
        for step in (3, 6):
            state = fresh.state._replace(
                step=np.int32(step),
                params={k: moved(v, step) for k, v in fresh.state.params.items()},
                ema={k: moved(v, 2 * step) for k, v in fresh.state.ema.items()},
            )
            state = jax.tree.map(jax.device_put, state)
            saver.save(step, state, Meta(fingerprint=fresh.fingerprint, seed=0, position=step))
    with replacing_file(run.networks) as path:
        write_json(path, find_base(CONFIG.model).settings)
    return run


def test_new_state(fresh):
    assert (fresh.step, fresh.event) == (0, "started")
    for name, value in fresh.state.params.items():
        np.testing.assert_array_equal(value, fresh.state.ema[name])
    assert {value.sharding.mesh.size for value in fresh.state.params.values()} == {2}


@pytest.mark.slow
def test_own_newest_checkpoint_has_priority(run, fresh, tmp_path):
    begun = started(run, state=tmp_path / "another")
    assert (begun.step, begun.event) == (6, "resumed")
    np.testing.assert_array_equal(begun.state.params[NAME], fresh.state.params[NAME] + 6)


def test_starts_from_another_runs_checkpoint(run, fresh, tmp_path):
    begun = started(RunFolder(tmp_path), state=run.path)
    assert (begun.step, begun.event) == (6, "started")
    np.testing.assert_array_equal(begun.state.ema[NAME], fresh.state.ema[NAME] + 12)


def test_starts_from_another_runs_weights(run, fresh, tmp_path):
    """Uses another run's average, as sampling does."""
    model = dataclasses.replace(CONFIG.model, instantid=str(run.path))
    begun = started(RunFolder(tmp_path), dataclasses.replace(CONFIG, model=model))
    assert begun.step == 0
    for start in (begun.state.params, begun.state.ema):
        np.testing.assert_array_equal(start[NAME], fresh.state.params[NAME] + 12)


def test_starts_from_published_weights(tmp_path):
    folder = tiny_config.tiny_model()
    model = dataclasses.replace(CONFIG.model, instantid=folder)
    config = dataclasses.replace(CONFIG, model=model)
    begun = started(RunFolder(tmp_path), config)
    wanted = find_base(model).start["controlnet"].load(np.dtype("float32"))
    np.testing.assert_array_equal(
        begun.state.params["controlnet.conv_in.kernel"], wanted["conv_in.kernel"]
    )


def test_rejects_another_configuration_unless_ignored(run, caplog):
    config = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(InputError, match="seed was 0, is 1"):
        started(run, config)
    assert started(run, config, ignore_fingerprint=True).step == 6
    assert "seed was 0, is 1" in caplog.text


def test_base_weights_are_recognized_by_their_contents(fresh, tmp_path):
    """Rounding to float16 changes the fingerprint; moving the files does not."""
    again = started(RunFolder(tmp_path))
    assert again.fingerprint == fresh.fingerprint
    step = dataclasses.replace(CONFIG.step, dtype="bfloat16")
    rounded = started(RunFolder(tmp_path), dataclasses.replace(CONFIG, step=step))
    assert rounded.fingerprint["base model"] != fresh.fingerprint["base model"]
