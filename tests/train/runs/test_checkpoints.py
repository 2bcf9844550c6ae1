"""Checkpoints of a run: restoring, changes of mesh, and detection of damage."""

import gc
import resource
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from instantid_jax.errors import InputError
from instantid_jax.runs.contents import Meta, checksums, named_arrays
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore, restore_weights
from instantid_jax.sharding import training_mesh
from train.runs.saving import Best, Saver

META = Meta(fingerprint={"config": "c1", "dataset": "d1"}, seed=7, position=3)
KERNEL = "controlnet.conv_in.kernel"


class Moments(NamedTuple):
    count: jax.Array
    mu: dict[str, jax.Array]


class State(NamedTuple):
    """Structured like the training state: a named tuple that nests the optimizer's."""

    step: jax.Array
    params: dict[str, jax.Array]
    opt_state: Any
    ema: dict[str, jax.Array]


def make_state(seed: int = 0, scale: float = 1.0) -> State:
    rng = np.random.default_rng(seed)
    params = {
        KERNEL: jnp.asarray(rng.standard_normal((32, 40)) * scale, jnp.float32),
        "ip_adapter.bias": jnp.asarray(rng.standard_normal(5), jnp.float32),
    }
    half = {name: value.astype(jnp.bfloat16) for name, value in params.items()}
    extra = {"flag": jnp.asarray(True), "tiny": jnp.asarray([-3, 9], jnp.int8)}
    return State(
        jnp.asarray(seed, jnp.int32),
        params,
        (Moments(jnp.asarray(4, jnp.uint32), half), (), {"scale": jnp.float16(0.1), **extra}),
        {name: value + 1 for name, value in params.items()},
    )


def template(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def assert_same_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for name, value in named_arrays(want).items():
        other = named_arrays(got)[name]
        assert other.dtype == value.dtype and other.shape == value.shape, name
        assert np.asarray(other).tobytes() == np.asarray(value).tobytes(), name


def save(run, steps, *, start=0, keep=9, **options):
    with Saver(run, start=start, every=3, keep=keep, **options) as saver:
        for step in steps:
            saver.save(step, make_state(step), META)


def data_file(run, step):
    """The file with the arrays' bytes: Orbax's largest."""
    files = (run.checkpoints / str(step) / "state").rglob("*")
    return max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)


def flip(run, step, name, state):
    """Flips a bit of a stored array that is too large for Orbax's index."""
    raw = np.asarray(named_arrays(state)[name]).tobytes()
    files = [p for p in (run.checkpoints / str(step) / "state").rglob("*") if p.is_file()]
    (path,) = [p for p in files if raw in p.read_bytes()]
    stored = path.read_bytes()
    at = stored.index(raw) + len(raw) // 2
    path.write_bytes(stored[:at] + bytes([stored[at] ^ 0x10]) + stored[at + 1 :])


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def message(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    return str(caught.value)


def test_state_is_restored_bit_for_bit(run):
    state = make_state(3)
    save(run, [3])
    step, got, meta = restore(run, template(state))
    assert step == 3
    assert_same_bits(got, state)
    assert (meta.fingerprint, meta.seed, meta.position) == (META.fingerprint, 7, 3)
    assert meta.versions["jax"] == jax.__version__


def test_array_names_are_readable():
    names = set(named_arrays(make_state()))
    assert {f"params/{KERNEL}", f"opt_state/0/mu/{KERNEL}", "step", f"ema/{KERNEL}"} <= names


def test_saves_regularly_or_when_forced_and_removes_old_checkpoints(run):
    with Saver(run, start=0, every=2, keep=2, keep_every=4) as saver:
        saved = [step for step in range(1, 11) if saver.save(step, make_state(step), META)]
        assert saved == [2, 4, 6, 8, 10]
        assert saver.save(11, make_state(11), META, force=True)
        assert not saver.save(11, make_state(11), META, force=True)
    assert run.steps() == [4, 8, 10, 11]
    assert restore(run, template(make_state())).step == 11
    assert_same_bits(restore(run, template(make_state()), step=8).state, make_state(8))


def test_arrays_may_be_donated_as_soon_as_save_returns(run):
    state = make_state(3)
    want = jax.tree.map(np.asarray, state)
    overwrite = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)
    with Saver(run, start=0, every=1) as saver:
        saver.save(1, state, META)
        jax.block_until_ready(overwrite(state))
    assert_same_bits(restore(run, template(make_state())).state, want)


@pytest.fixture
def no_room():
    """Limits this process's files to 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_gives_one_line_and_keeps_the_previous_checkpoint(run, no_room, capfd):
    large = make_state(2)._replace(ema={"large": jnp.ones((400, 400))})

    def save_both():
        with Saver(run, start=0, every=1) as saver:
            saver.save(1, make_state(1), META)
            saver.save(2, large, META)

    line = message(save_both)
    assert "cannot be written (File too large); existing checkpoints are intact" in line
    gc.collect()
    assert "Traceback" not in "".join(capfd.readouterr())
    assert [path.name for path in run.checkpoints.iterdir()] == ["1"]
    assert_same_bits(restore(run, template(make_state())).state, make_state(1))


def test_warm_up_changes_nothing(run):
    state = make_state(1)
    with Saver(run, start=0, every=1) as saver:
        saver.warm_up(state)
    assert run.steps() == []
    assert_same_bits(state, make_state(1))


def test_state_moves_to_another_mesh(run):
    state = make_state(3)
    first, second = training_mesh((2, 4, 1)), training_mesh((1, 2, 2), jax.devices()[:4])
    split = {
        n: jax.device_put(v, NamedSharding(first, PartitionSpec())) for n, v in state[1].items()
    }
    split[KERNEL] = jax.device_put(
        state.params[KERNEL], NamedSharding(first, PartitionSpec("fsdp"))
    )
    with Saver(run, start=0, every=1) as saver:
        saver.save(1, state._replace(params=split), META)
    want = template(state, NamedSharding(second, PartitionSpec()))
    across = NamedSharding(second, PartitionSpec("tensor", "fsdp"))
    want.params[KERNEL] = jax.ShapeDtypeStruct((32, 40), jnp.float32, sharding=across)
    got = restore(run, want).state
    assert_same_bits(got, state)
    assert got.params[KERNEL].sharding == across


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint32", "bool"])
def test_checksum_depends_on_every_bit_but_not_on_the_mesh(dtype):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2 if dtype == "bool" else 256, 8 * 4 * jnp.dtype(dtype).itemsize)
    raw = raw.astype(np.uint8)
    value = raw.view(jnp.dtype(dtype)).reshape(8, 4)
    want = checksums({"x": jnp.asarray(value)})
    for shape in ((8, 1, 1), (2, 2, 2)):
        where = NamedSharding(training_mesh(shape), PartitionSpec("data", "tensor"))
        assert checksums({"x": jax.device_put(value, where)}) == want
    flipped = {}
    for at in range(len(raw)):
        for bit in range(1 if dtype == "bool" else 8):
            other = raw.copy()
            other[at] ^= 1 << bit
            flipped[f"{at}.{bit}"] = jnp.asarray(other.view(value.dtype).reshape(8, 4))
    # XLA may change a NaN's bits even when copying.
    assert all(found != want["x"] for found in checksums(flipped).values())


@pytest.mark.parametrize("name", [f"params/{KERNEL}", f"opt_state/0/mu/{KERNEL}"])
def test_one_flipped_bit_is_found_and_named(run, name):
    state = make_state(3)
    save(run, [3])
    flip(run, 3, name, state)
    line = message(restore, run, template(state))
    assert "step 3 is damaged" in line and name in line and "1 array" in line


def test_weights_are_read_without_the_optimizer(run):
    state = make_state(3)
    save(run, [3])
    flip(run, 3, f"opt_state/0/mu/{KERNEL}", state)
    for raw, want in ((False, state.ema), (True, state.params)):
        assert_same_bits(restore_weights(run, raw=raw), want)
    flip(run, 3, f"params/{KERNEL}", state)
    assert_same_bits(restore_weights(run), state.ema)
    bias = {"ip_adapter.bias": state.params["ip_adapter.bias"]}
    assert_same_bits(restore_weights(run, raw=True, prefix="ip_adapter."), bias)
    assert f"params/{KERNEL}" in message(restore_weights, run, raw=True)


def test_weights_are_the_raw_ones_without_an_average(run):
    with Saver(run, start=0, every=1) as saver:
        saver.save(1, make_state(1)._replace(ema={}), META)
    assert_same_bits(restore_weights(run), make_state(1).params)


DAMAGES = ["data cut", "data gone", "index cut", "index flipped", "item gone", "meta gone",
           "meta flipped", "tree cut"]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_gives_one_line_and_allow_older_uses_an_older_checkpoint(run, damage, capfd):
    save(run, [3, 6])
    place = run.checkpoints / "6"
    target = {
        "data": lambda: data_file(run, 6),
        "index": lambda: place / "state" / "manifest.ocdbt",
        "item": lambda: place / "state",
        "meta": lambda: place / "meta" / "meta.json",
        "tree": lambda: place / "state" / "_METADATA",
    }[damage.split()[0]]()
    if damage.endswith("cut"):
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    elif damage.endswith("gone"):
        target.rename(run.path / "elsewhere")
    elif damage == "meta flipped":
        text = target.read_text()
        target.write_text(text.replace('"seed": 7', '"seed": 6'))
    else:
        raw = bytearray(target.read_bytes())
        raw[len(raw) // 2] ^= 1
        target.write_bytes(raw)
    want = template(make_state())
    line = message(restore, run, want)
    assert "step 6 is damaged" in line and "to-torch --step, of 3" in line
    if damage.startswith("data"):
        assert any(f"{name} cannot be read" in line for name in named_arrays(want))
    older = restore(run, want, allow_older=True)
    assert older.step == 3
    assert_same_bits(older.state, make_state(3))
    assert restore(run, want, step=3).step == 3
    assert_same_bits(restore_weights(run, step=3), make_state(3).ema)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_error_if_all_checkpoints_are_damaged(run):
    save(run, [3, 6])
    for step in (3, 6):
        data_file(run, step).write_bytes(b"")
    assert "all of 3, 6" in message(restore, run, template(make_state()), allow_older=True)


def test_resuming_from_an_older_checkpoint_sets_newer_ones_aside(run):
    save(run, [3, 6, 9])
    save(run, [6], start=3)
    assert run.steps() == [3, 6]
    assert sorted(p.name for p in run.superseded.iterdir()) == ["6", "9"]
    save(run, [6], start=3)
    assert sorted(p.name for p in run.superseded.iterdir()) == ["6", "6.2", "9"]


def test_mismatched_arrays_are_listed(run):
    save(run, [3])
    want = template(make_state())
    want.params["new.kernel"] = want.params.pop(KERNEL)
    want.params["ip_adapter.bias"] = jax.ShapeDtypeStruct((6,), jnp.float32)
    want.ema[KERNEL] = jax.ShapeDtypeStruct((32, 40), jnp.bfloat16)
    line = message(restore, run, want, allow_older=True)
    assert "1 missing: params/new.kernel" in line
    assert f"1 unexpected: params/{KERNEL}" in line
    assert "params/ip_adapter.bias is (5,), expected (6,)" in line
    assert f"ema/{KERNEL} is float32, expected bfloat16" in line
    # A stored average that the run does not have is an error.
    assert "2 unexpected: ema/" in message(restore, run, template(make_state()._replace(ema={})))


def test_rejects_another_fingerprint_unless_ignored(run, caplog):
    save(run, [3])
    want = template(make_state())
    assert restore(run, want, fingerprint=META.fingerprint).step == 3
    other = {"config": "c1", "dataset": "d2", "weights": "w"}
    line = message(restore, run, want, fingerprint=other, allow_older=True)
    assert "dataset was d1, is d2; weights was absent, is w" in line and "config" not in line
    assert line.endswith("; revert this, use another folder or --ignore-fingerprint")
    assert restore(run, want, fingerprint=other, ignore_fingerprint=True).step == 3
    assert "dataset was d1, is d2" in caplog.text


def test_errors_without_a_checkpoint_or_for_a_missing_step(run):
    assert "has no checkpoint" in message(restore, run, template(make_state()))
    assert "has no checkpoint" in message(restore_weights, run)
    save(run, [3, 6])
    assert "of step 4, only of 3, 6" in message(restore, run, template(make_state()), step=4)


def test_rejects_arrays_of_the_same_name():
    with pytest.raises(ValueError, match="two arrays"):
        named_arrays({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})


LOSSES = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 6: 5.0}


@pytest.mark.parametrize(
    ("best", "kept"), [(Best("loss", highest=False), [2, 6]), (Best("loss", highest=True), [6])]
)
def test_the_best_checkpoint_is_kept_with_the_newest(run, best, kept):
    """Those without the number, or with NaN, are not ranked."""
    with Saver(run, start=0, every=1, keep=1, best=best) as saver:
        for step in range(1, 7):
            numbers = {"loss": LOSSES[step]} if step in LOSSES else {"other": 9.0}
            saver.save(step, make_state(step), META, numbers=numbers)
        assert saver.best_step() == kept[0]
    assert run.steps() == kept
    assert_same_bits(restore(run, template(make_state()), step=kept[0]).state, make_state(kept[0]))


def test_a_new_process_knows_the_best_checkpoint(run):
    """A checkpoint holds its number, so that a killed process loses neither."""
    best = Best("face_cosine", highest=True)
    for start, values in ((0, {1: 0.1, 2: 0.4}), (2, {3: 0.2, 4: 0.3})):
        with Saver(run, start=start, every=1, keep=1, best=best) as saver:
            for step, value in values.items():
                saver.save(step, make_state(step), META, numbers={"face_cosine": value})
            assert saver.best_step() == 2
    assert run.steps() == [2, 4]
    with Saver(run, start=4, every=1, keep=1, best=Best("loss", highest=False)) as saver:
        saver.save(5, make_state(5), META, numbers={"loss": 1.0})
        assert saver.best_step() == 5
