"""InstantID out of a run's folder: which weights, which of them are read, and what is refused."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from instantid_jax.components import component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder, is_run
from instantid_jax.runs.restoring import DamagedError, restore_weights, stored_weights
from instantid_jax.runs.trained import (
    find_published_or_trained,
    frozen_source,
    open_trained,
)
from instantid_jax.weights.layouts import find_instantid
from tests.convert.published import UNET, write_published
from tests.runs.trained_run import assert_same_bits, part_of, write_run

PARTS = ("image_proj", "ip_adapter", "controlnet")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run's folder with steps 3 and 6, and what was saved."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, write_run(folder, steps=(3, 6))


@pytest.fixture(scope="module")
def unet():
    return network("unet", UNET)


@pytest.fixture
def folder(written, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(written[0], tmp_path / "run")


def message(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def damage(folder, step, weights):
    """Flips one bit of the largest array, which has one copy on disk."""
    name = max(weights, key=lambda name: weights[name].nbytes)
    raw = weights[name].tobytes()
    files = [p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    (path,) = [p for p in files if raw in p.read_bytes()]
    content = bytearray(path.read_bytes())
    content[content.index(raw) + len(raw) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("raw", [False, True])
def test_parts_are_those_saved_bit_for_bit(written, unet, raw, caplog):
    folder, saved = written
    caplog.set_level(logging.INFO, "instantid_jax")
    parts = find_published_or_trained(str(folder), unet, raw=raw)
    assert set(parts) == set(PARTS)
    for name, part in parts.items():
        params = part.load(None)
        assert_same_bits(params, part_of(saved[6, raw], name))
        assert {n: p.shape for n, p in params.items()} == {
            n: s.shape for n, s in component_shapes(name, part.network).items()
        }
        assert part.source == f"{folder}, step 6"
    expected = "the raw parameters" if raw else "the moving average"
    assert [r.getMessage() for r in caplog.records] == [f"{folder}: step 6, {expected}"]


def test_components_are_configured_as_the_run_was(written, unet):
    folder, _ = written
    settings = json.loads((folder / "networks.json").read_text())
    parts = open_trained(folder).components(unet)
    assert parts["ip_adapter"].network is unet
    for name in ("image_proj", "controlnet"):
        assert parts[name].network == network(name, settings[name])
        assert parts[name].settings == settings[name]


def test_an_older_step_is_taken_where_asked(written):
    folder, saved = written
    trained = open_trained(folder, step=3)
    assert trained.step == 3
    assert_same_bits(trained.load("image_proj"), part_of(saved[3, False], "image_proj"))
    assert "has no checkpoint of step 4, only of 3, 6" in message(open_trained, folder, step=4)


def test_without_an_average_the_parameters_are_taken(tmp_path, caplog):
    saved = write_run(tmp_path / "run", average=False)
    caplog.set_level(logging.INFO, "instantid_jax")
    trained = open_trained(tmp_path / "run")
    assert_same_bits(trained.load("ip_adapter"), part_of(saved[3, True], "ip_adapter"))
    assert "step 3, the parameters, which have no moving average" in caplog.text


def test_dtype_is_changed_where_asked(written):
    folder, saved = written
    got = open_trained(folder).load("image_proj", jnp.dtype("bfloat16"))
    want = part_of(saved[6, False], "image_proj")
    assert_same_bits(got, {n: value.astype(ml_dtypes.bfloat16) for n, value in want.items()})


def test_a_part_is_read_without_the_others(folder, written):
    saved = written[1][6, False]
    damage(folder, 6, part_of(saved, "controlnet"))
    trained = open_trained(folder)
    for name in ("image_proj", "ip_adapter"):
        assert_same_bits(trained.load(name), part_of(saved, name))
    line = message(trained.load, "controlnet")
    assert "the checkpoint of step 6 is damaged" in line and "ema/controlnet." in line
    # The parameters are intact.
    sound = part_of(written[1][6, True], "controlnet")
    assert_same_bits(open_trained(folder, raw=True).load("controlnet"), sound)


@pytest.mark.parametrize("part", ["controlnet", "ip_adapter"])
def test_parts_that_were_frozen_come_from_their_source(written, tmp_path, unet, part):
    folder, saved = written
    source = frozen_source(str(folder), [part], UNET, None)
    # Whatever else the source trains later.
    assert source["step"] == 6
    trained = write_run(tmp_path / "run", frozen=source)[3, False]
    parts = find_published_or_trained(str(tmp_path / "run"), unet)
    for name in PARTS:
        stored = saved[6, False] if name == part else trained
        assert_same_bits(parts[name].load(None), part_of(stored, name))
        assert {n: p.shape for n, p in parts[name].load(jnp.dtype("bfloat16")).items()} == {
            n: s.shape for n, s in component_shapes(name, parts[name].network).items()
        }


def test_a_lost_source_is_named(written, tmp_path):
    source = frozen_source(str(written[0]), ["controlnet"], UNET, None)
    write_run(tmp_path / "run", frozen=source | {"instantid": str(tmp_path / "gone")})
    line = message(open_trained, tmp_path / "run")
    assert f"did not train controlnet, whose weights are those of {tmp_path / 'gone'}" in line


READER = """
import sys
from pathlib import Path
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from instantid_jax.runs.trained import open_trained
params = open_trained(Path(sys.argv[3])).load("image_proj")
print("read", *sorted(f"{float(value.ravel()[0]):.6f}" for value in params.values()))
"""


@pytest.mark.slow
def test_each_process_of_a_run_reads_the_whole(written):
    """As training does that starts from another run."""
    folder, saved = written
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, address, str(process), str(folder)],
            env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    want = part_of(saved[6, False], "image_proj")
    first = sorted(f"{float(value.ravel()[0]):.6f}" for value in want.values())
    try:
        for reader in readers:
            out, log = reader.communicate(timeout=100)
            assert reader.returncode == 0, log[-2000:]
            assert out.splitlines()[-1].split() == ["read", *first]
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def test_what_is_stored_is_told_without_reading_it(folder, written):
    saved = written[1][6, True]
    damage(folder, 6, saved)
    stored = stored_weights(RunFolder(folder), raw=True)
    assert (stored.step, stored.averaged) == (6, False)
    assert {name: leaf.shape for name, leaf in stored.shapes.items()} == {
        name: value.shape for name, value in saved.items()
    }
    with pytest.raises(DamagedError):
        restore_weights(RunFolder(folder), raw=True)


def test_another_unet_is_refused(written):
    other = UNET | {"transformer_layers_per_block": 2, "cross_attention_dim": 80}
    line = message(open_trained(written[0]).components, network("unet", other))
    assert "does not fit this UNet: its adapter has 8 missing: " in line
    assert "ip.kernel is (96, 32), expected (80, 32)" in line
    assert "use the base model it was trained on" in line


def test_a_folder_without_checkpoints_is_refused(folder):
    shutil.rmtree(folder / "checkpoints")
    assert is_run(folder)
    assert f"{folder} has no checkpoint: pass the folder of a run" in message(open_trained, folder)


SPOILT = {
    "missing": (None, "has no networks.json, which records the sizes"),
    "no JSON": ("{", "networks.json is not valid JSON"),
    "of one network": ('{"controlnet": {}}', "does not configure image_proj ('image_proj')"),
    "no settings": ('{"image_proj": 3}', "does not configure image_proj ("),
    "unknown settings": ('{"image_proj": {"width": 3}}', "does not configure image_proj (Res"),
    "unsound settings": (
        '{"image_proj": {"dim_head": 48}}',
        "attention width 1280 must be a multiple",
    ),
    "unsupported settings": (
        '{"image_proj": {}, "controlnet": {"act_fn": "gelu"}}',
        "does not configure controlnet (ControlNetConfig: act_fn='gelu' is not supported",
    ),
    "of other networks": (
        '{"image_proj": {}, "controlnet": {}}',
        "step 6 of {folder} does not fit its networks.json: image_proj has ",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_networks_that_are_not_known_are_refused(folder, how):
    text, expected = SPOILT[how]
    (folder / "networks.json").unlink()
    if text is not None:
        (folder / "networks.json").write_text(text)
    assert expected.replace("{folder}", str(folder)) in message(open_trained, folder)


def test_a_run_of_something_else_is_refused(tmp_path):
    write_run(tmp_path / "run", average=False, more={"unet.conv_in.bias": np.zeros(4, np.float32)})
    line = message(open_trained, tmp_path / "run")
    assert "holds unet.conv_in.bias: expected only image_proj, ip_adapter, controlnet" in line


def test_published_weights_are_taken_as_ever(tmp_path, unet):
    source = tmp_path / "published"
    write_published(source, unet=UNET, controlnet=UNET, dtype="float16")
    assert not is_run(source)
    found = find_published_or_trained(str(source), unet, variant="fp16")
    wanted = find_instantid(str(source), unet)
    assert set(found) == set(wanted)
    for name, part in wanted.items():
        assert (found[name].source, found[name].settings) == (part.source, part.settings)
        assert_same_bits(found[name].load(None), part.load(None))
    line = message(find_published_or_trained, str(source), unet, raw=True)
    assert f"raw parameters of {source}: only the folder of a training run" in line


def test_numbers_too_large_for_a_dtype_are_refused(tmp_path):
    large = {"image_proj.norm_out.bias": np.full(96, 1e6, np.float32)}
    write_run(tmp_path / "run", average=False, more=large)
    trained = open_trained(tmp_path / "run")
    line = message(trained.load, "image_proj", jnp.dtype("float16"))
    assert "norm_out.bias has values too large for float16" in line
    assert float(trained.load("image_proj", jnp.dtype("bfloat16"))["norm_out.bias"][0]) > 9e5
