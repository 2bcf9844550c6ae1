import logging
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from instantid_jax.errors import InputError
from tests.train.data import drawn
from train.data.batch_sizes import BatchSizes
from train.data.batches import Batches
from train.data.config import DataConfig, DatasetShare
from train.data.loader import Loader

SIZES = {"square": (64, 64), "tall": (96, 64), "wide": (64, 96)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """96 square, 48 tall and 16 wide images, not in the buckets' exact sizes."""
    sizes = [(70, 70)] * 96 + [(120, 80)] * 48 + [(60, 90)] * 16
    order = np.random.default_rng(0).permutation(len(sizes))
    return drawn.dataset(
        tmp_path_factory.mktemp("data") / "d",
        [sizes[i] for i in order],
        shards=3,
        change=lambda n: {
            "captions": {"alt": f"alt {n}", "blip2": f"blip2 {n}"},
            "reference_embeddings": np.full((2, 512), n + 1, np.float32),
        },
    )


def batches(*folders, size=8, seed=1, weights=None, **settings) -> Batches:
    weights = weights or [1.0] * len(folders)
    shares = tuple(
        DatasetShare(folder=str(f), weight=w) for f, w in zip(folders, weights, strict=True)
    )
    settings = {"buckets": tuple(SIZES.values()), "reference_probability": 0.3} | settings
    return Batches(DataConfig(datasets=shares, **settings), [drawn.tokenizer] * 2, size, seed)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, list):
            assert value == b[name]
        else:
            assert value.dtype == b[name].dtype
            np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_batch_has_the_documented_arrays(folder):
    batch = batches(folder).batch(5)
    height, width = batch["images"].shape[1:3]
    described = {k: (v.shape, str(v.dtype)) for k, v in batch.items() if k != "example_ids"}
    assert described == {
        "images": ((8, height, width, 3), "uint8"),
        "keypoint_images": ((8, height, width, 3), "uint8"),
        "input_ids": ((8, 77), "int32"),
        "input_ids_2": ((8, 77), "int32"),
        "id_embeds": ((8, 512), "float32"),
        "time_ids": ((8, 6), "float32"),
        "kps": ((8, 5, 2), "float32"),
        "face_box": ((8, 4), "float32"),
        "face_share": ((8,), "float32"),
        "example_index": ((8,), "uint32"),
        "example_crc32": ((8,), "uint32"),
    }
    assert (height, width) in SIZES.values()
    np.testing.assert_array_equal(batch["example_index"], np.arange(40, 48))
    for i, key in enumerate(batch["example_ids"]):
        assert drawn.caption(batch["input_ids"][i]).split()[1] == str(int(key))
        reference = batch["id_embeds"][i][0] == int(key) + 1
        own = drawn.record(int(key)).embedding
        assert reference or (batch["id_embeds"][i] == own).all()


def test_batch_is_a_function_of_seed_and_step(folder):
    one, two = batches(folder), batches(folder)
    for step in (9, 3, 200, 3):
        assert_equal(one.batch(step), two.batch(step))
    other = batches(folder, seed=2)
    assert [one.batch(s)["example_ids"] for s in range(3)] != [
        other.batch(s)["example_ids"] for s in range(3)
    ]


@pytest.mark.parametrize("start", [0, 7, 41])
def test_loader_yields_the_same_batches_from_any_step(folder, start):
    made = batches(folder)
    loader = Loader(made, start_step=start, threads=3)
    for expected, (step, batch) in zip(range(start, start + 5), islice(loader, 5), strict=True):
        assert step == expected
        assert_equal(batch, made.batch(step))
    assert loader.step == start + 5
    loader.close()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_rows_of_all_processes_make_up_the_batch(folder, processes):
    whole = batches(folder)
    loaders = [
        Loader(
            batches(folder), start_step=3, rows=slice(8 * p // processes, 8 * (p + 1) // processes)
        )
        for p in range(processes)
    ]
    for step in (3, 4):
        parts = [next(loader)[1] for loader in loaders]
        union = {
            name: [key for part in parts for key in part[name]]
            if name == "example_ids"
            else np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }
        assert_equal(union, whole.batch(step))
    for loader in loaders:
        loader.close()


def test_accepts_any_rows_of_the_batch(folder):
    made = batches(folder)
    whole = made.batch(2)
    np.testing.assert_array_equal(made.batch(2, range(6, 8))["images"], whole["images"][6:])
    np.testing.assert_array_equal(made.batch(2, slice(1, 8, 3))["images"], whole["images"][1::3])
    for rows in (range(7, 9), range(-1, 2), slice(8, 9)):
        with pytest.raises(InputError, match="rows of a batch of 8"):
            made.batch(2, rows)


def test_epoch_visits_every_record_once_and_each_bucket_by_its_share(folder):
    made = batches(folder)
    assert made.records == 160
    keys = []
    for epoch in (0, 1):
        steps = range(20 * epoch, 20 * (epoch + 1))
        assert {made.epoch(step) for step in steps} == {epoch}
        keys.append([key for step in steps for key in made.batch(step)["example_ids"]])
        sizes = Counter(made.bucket(step) for step in steps)
        assert sizes == {SIZES["square"]: 12, SIZES["tall"]: 6, SIZES["wide"]: 2}
        assert sorted(keys[-1]) == [f"{n:05}" for n in range(160)]
    assert keys[0] != keys[1]


def test_bucket_smaller_than_a_batch_loses_no_record(tmp_path):
    made = batches(drawn.dataset(tmp_path / "d", [(64, 64)] * 5 + [(96, 64)] * 2), size=4)
    found: dict[tuple, list] = {}
    for step in range(20):
        found.setdefault(made.bucket(step), []).extend(made.batch(step)["example_ids"])
    for size, records in ((SIZES["square"], 5), (SIZES["tall"], 2)):
        keys = found[size]
        for start in range(0, len(keys) - records, records):
            assert len(set(keys[start : start + records])) == records
    assert len(found[SIZES["tall"]]) / 80 == pytest.approx(2 / 7, abs=0.05)


def test_mixture_follows_the_weights(folder, tmp_path):
    few = drawn.dataset(tmp_path / "few", [(64, 64)] * 8 + [(96, 64)] * 8, first=1000)
    made = batches(folder, few, weights=(3, 1))
    steps = 2 * 176 // 8
    keys = [int(key) for step in range(steps) for key in made.batch(step)["example_ids"]]
    counts = Counter(keys)
    assert sum(key >= 1000 for key in keys) / (8 * steps) == pytest.approx(0.25, abs=0.03)
    # Within a dataset, the records' counts differ by at most one.
    for low, high in ((0, 1000), (1000, 2000)):
        in_bucket = [n for key, n in counts.items() if low <= key < high]
        assert max(in_bucket) - min(in_bucket) <= 3
    assert len(counts) == 176


def test_min_side_skips_small_images(folder):
    made = batches(folder, min_side=70)
    assert made.records == 96 + 48
    with pytest.raises(InputError, match="min_side=500"):
        batches(folder, min_side=500)


def test_choices_do_not_depend_on_the_batch_size(folder):
    # With one bucket, examples are the same records for any batch size.
    one, two = (batches(folder, size=n, buckets=((64, 64),)) for n in (4, 8))
    halves = [one.batch(step) for step in (6, 7)]
    whole = two.batch(3)
    for name in ("images", "id_embeds", "input_ids", "example_index"):
        np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), whole[name])


def test_data_continue_where_the_batch_size_changes(folder):
    """With one bucket, all sizes are cut from the same sequence of examples."""
    one = batches(folder, size=4, buckets=((64, 64),))
    changed = one.with_sizes(BatchSizes(((0, 4), (3, 8), (5, 2))))
    wanted = [one.batch(step) for step in range(8)]
    found = [changed.batch(step) for step in range(7)]
    assert [len(each["example_ids"]) for each in found] == [4, 4, 4, 8, 8, 2, 2]
    for name in ("example_index", "example_crc32", "images", "id_embeds"):
        np.testing.assert_array_equal(
            *(np.concatenate([each[name] for each in all_]) for all_ in (found, wanted))
        )
    loader = Loader(changed, start_step=6, threads=2)
    assert_equal(next(loader)[1], found[6])
    loader.close()
    with pytest.raises(InputError, match="rows of a batch of 2"):
        changed.batch(6, slice(2, 4))


def test_every_record_is_seen_once_an_epoch_where_the_batch_size_changes(folder):
    """Of 160 records: 56 in batches of 8, and 104 in batches of 4, in three buckets."""
    changed = batches(folder).with_sizes(BatchSizes(((0, 8), (7, 4))))
    for steps in (range(7 + 26), range(7 + 26, 7 + 26 + 40)):
        keys = [key for step in steps for key in changed.batch(step)["example_ids"]]
        assert sorted(keys) == [f"{n:05}" for n in range(160)]
        assert len({changed.epoch(step) for step in steps}) == 1
    indices = [changed.batch(step)["example_index"] for step in range(6, 9)]
    np.testing.assert_array_equal(np.concatenate(indices), np.arange(48, 64))


def broken(numbers):
    """A dataset with three kinds of damage: image bytes, a keypoint, a hash."""
    ways = (
        {"image": b"nothing"},
        {"kps": np.full((5, 2), np.nan, np.float32)},
        {"sha256": "0" * 64},
    )
    return lambda number: ways[number % 3] if number in numbers else {}


def test_corrupt_records_are_replaced_and_counted(tmp_path, caplog):
    sizes = [(64, 64)] * 12 + [(96, 64)] * 12
    bad = {2, 3, 13}
    folder = drawn.dataset(tmp_path / "d", sizes, change=broken(bad))
    good = drawn.dataset(tmp_path / "good", sizes)
    made, again, whole = batches(folder, size=4), batches(folder, size=4), batches(good, size=4)
    with caplog.at_level(logging.WARNING, "train.data.corruption"):
        seen = [made.batch(step) for step in range(6)]
    assert made.corruption.examples == 24
    assert made.corruption.corrupt >= 3
    assert "replaced corrupt record" in caplog.text
    for step in reversed(range(6)):
        assert_equal(again.batch(step), seen[step])
    for step in range(6):
        expected = whole.batch(step)
        # Other examples and the image sizes do not change.
        for i, key in enumerate(expected["example_ids"]):
            if int(key) in bad:
                assert int(seen[step]["example_ids"][i]) not in bad
            else:
                assert seen[step]["example_ids"][i] == key
                np.testing.assert_array_equal(seen[step]["images"][i], expected["images"][i])
        assert seen[step]["images"].shape == expected["images"].shape
    # Other processes read the same rows.
    parts = [batches(folder, size=4).batch(0, rows) for rows in (slice(0, 2), slice(2, 4))]
    assert parts[0]["example_ids"] + parts[1]["example_ids"] == seen[0]["example_ids"]


def test_too_many_corrupt_records_end_the_run(tmp_path):
    folder = drawn.dataset(tmp_path / "d", [(64, 64)] * 8, change=broken({1, 5}))
    made = batches(folder, max_corrupt_share=0)
    with pytest.raises(
        InputError, match=r"1 corrupt records .* exceed max_corrupt_share=0"
    ) as error:
        made.batch(0)
    assert "\n" not in str(error.value)
    loader = Loader(batches(folder, max_corrupt_share=0.002))
    with pytest.raises(InputError, match="corrupt records in") as error:
        for _ in range(10):
            next(loader)
    assert "\n" not in str(error.value)
    loader.close()
    nothing = drawn.dataset(tmp_path / "bad", [(64, 64)] * 3, change=broken({0, 1, 2}))
    with pytest.raises(InputError, match="100 consecutive records are corrupt"):
        batches(nothing, max_corrupt_share=1).batch(0)


def test_unreadable_data_gives_one_line_errors(folder, tmp_path):
    with pytest.raises(InputError, match=r"has no dataset: .*train\.data\.build"):
        batches(tmp_path)
    with pytest.raises(InputError, match="global_batch_size=0"):
        batches(folder, size=0)
    with pytest.raises(InputError, match="seed=-1"):
        batches(folder, seed=-1)
    damaged = drawn.dataset(tmp_path / "a", [(64, 64)] * 4)
    next(damaged.glob("**/index.npz")).write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="is not a valid index"):
        batches(damaged)
    lacking = drawn.dataset(tmp_path / "b", [(64, 64)] * 4)
    next(lacking.glob("**/*00001-of-00002")).unlink()
    with pytest.raises(InputError, match="00001-of-00002 is missing"):
        batches(lacking)


def test_flipped_bytes_in_a_shard_are_corrupt_records(tmp_path):
    folder = drawn.dataset(tmp_path / "d", [(64, 64)] * 8, shards=1)
    shard = next(folder.glob("**/*array_record*"))
    data = bytearray(shard.read_bytes())
    data[10_000] ^= 1  # each record takes a few thousand bytes
    shard.write_bytes(data)
    made = batches(folder)
    keys = made.batch(0)["example_ids"]
    assert made.corruption.corrupt == 1
    assert len(set(keys)) == 7


def test_fingerprint_depends_on_the_records(folder, tmp_path):
    other = drawn.dataset(tmp_path / "d", [(64, 64)] * 8)
    prints = {batches(*f).fingerprint for f in ((folder,), (other,), (folder, other))}
    assert len(prints) == 3
    assert batches(folder, seed=5, size=4).fingerprint == batches(folder).fingerprint


def test_faces_of_two_recognizers_are_not_mixed(folder, tmp_path):
    for name, recognizer in (("a/a", "1" * 64), ("a/b", None), ("b", "2" * 64)):
        drawn.dataset(tmp_path / name, [(64, 64)] * 2, recognizer=recognizer)
    assert batches(folder, size=2).recognizer is None
    assert batches(tmp_path / "a", folder, size=2).recognizer == "1" * 64
    message = r"were measured by 2 recognizers \(SHA-256 11111111..., 22222222...\)"
    for folders in ([tmp_path / "a", tmp_path / "b"], [tmp_path]):
        with pytest.raises(InputError, match=message):
            batches(*folders, size=2)


def test_works_with_clip_tokenizers(folder, tmp_path):
    from instantid_jax.prompt import PromptTokenizer
    from train.random_model import write_tokenizer

    write_tokenizer(tmp_path / "tokenizer")
    clip = PromptTokenizer(tmp_path / "tokenizer", positions=77, vocabulary=514)
    setting = batches(folder).config
    made = Batches(setting, [clip, drawn.tokenizer], 8, 1)
    loader = Loader(made, threads=8)
    for _, batch in islice(loader, 3):
        captions = [drawn.caption(ids) for ids in batch["input_ids_2"]]
        np.testing.assert_array_equal(batch["input_ids"], clip(captions))
    loader.close()


@pytest.mark.parametrize(
    ("references", "probability", "warned"), [(0, 0.5, 1), (0, 0.0, 0), (1, 0.5, 0)]
)
def test_warns_of_data_without_references(references, probability, warned, tmp_path, caplog):
    made = drawn.dataset(
        tmp_path / "d",
        [(64, 64)] * 8,
        change=lambda _: {"reference_embeddings": np.ones((references, 512), np.float32)},
    )
    batches(made, reference_probability=probability)
    assert len(caplog.messages) == warned
    assert all(f"reference_probability=0.5 has no effect on {made}" in m for m in caplog.messages)
