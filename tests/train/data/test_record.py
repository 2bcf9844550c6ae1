import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.train.data import drawn
from train.data.reading import FaceDataset
from train.data.record import CorruptRecord, Record, features, image_hash
from train.data.writing import write_dataset


def assert_same(a: Record, b: Record):
    for field in fields(Record):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name


def varied(number: int) -> Record:
    rng = np.random.default_rng(number)
    return drawn.record(
        number,
        48,
        64 + number,
        captions={"alt": "a face", "blip2": "ein Gesicht, größer"} if number else {},
        det_score=float(np.float32(rng.random())),
        sharpness=float(np.float32(rng.random())),
        reference_embeddings=rng.normal(size=(number, 512)).astype(np.float32),
        identity="somebody",
        nsfw="UNLIKELY",
        license="?",
    )


def test_records_come_back_from_a_tfds_data_source_bit_by_bit(tmp_path):
    records = [varied(number) for number in range(5)]
    write_dataset(tmp_path / "d", ((r, (48, 64)) for r in records), shards=2)
    source = tfds.data_source(
        "instantid_faces",
        split="train",
        data_dir=tmp_path / "d",
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    in_order = [records[i] for i in (0, 2, 4, 1, 3)]  # record i is in shard i mod 2
    assert len(source) == 5
    for example, expected in zip(source, in_order, strict=True):
        assert_same(Record.decode(example), expected)
    dataset = FaceDataset(tmp_path / "d")
    for row, expected in enumerate(in_order):
        assert_same(dataset[row], expected)


def test_parts_read_as_one_ordered_by_name(tmp_path):
    for part, first, sizes in (("a", 0, [(64, 64)] * 3), ("b", 3, [(64, 96)] * 2)):
        drawn.dataset(tmp_path / "all" / part, sizes, first=first)
    drawn.dataset(tmp_path / "all" / ".c.torn", [(64, 64)])  # the remnant of a killed build
    dataset = FaceDataset(tmp_path / "all")
    keys = [dataset[row].key for row in range(len(dataset))]
    assert keys == ["00000", "00002", "00001", "00003", "00004"]
    np.testing.assert_array_equal(dataset.image_size[:, 1], [64, 64, 64, 96, 96])
    folders = sorted((tmp_path / "all").glob("[ab]/*/1.0.0"))
    assert len(tfds.builder_from_directories(folders).as_data_source(split="train")) == 5


def test_supports_other_embedding_sizes(tmp_path):
    record = drawn.record(
        1, embedding=np.arange(1, 9, dtype=np.float32), reference_embeddings=np.ones((2, 8))
    )
    write_dataset(tmp_path / "d", [(record, (64, 64))], embedding_size=8)
    dataset = FaceDataset(tmp_path / "d")
    assert dataset.embedding_size == 8
    assert dataset[0].reference_embeddings.shape == (2, 8)


def test_same_records_give_the_same_bytes_and_fingerprint(tmp_path):
    for name in ("a", "b"):
        drawn.dataset(tmp_path / name, [(64, 64)] * 3)
    shards = [sorted((tmp_path / name).glob("**/*array_record*")) for name in ("a", "b")]
    assert [p.read_bytes() for p in shards[0]] == [p.read_bytes() for p in shards[1]]
    assert FaceDataset(tmp_path / "a").fingerprint == FaceDataset(tmp_path / "b").fingerprint
    drawn.dataset(tmp_path / "c", [(64, 64)] * 3, first=1)
    assert FaceDataset(tmp_path / "a").fingerprint != FaceDataset(tmp_path / "c").fingerprint


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embedding", np.full(512, np.nan), "embedding holds NaN"),
        ("embedding", np.zeros(512), "embedding is all zeros"),
        ("kps", np.zeros((4, 2)), "kps has shape"),
        ("kps", np.full((5, 2), 1e9), "million pixels"),
        ("reference_embeddings", np.zeros((2, 100)), "reference_embeddings has shape"),
        ("original_size", [0, 5], "original_size is"),
        ("original_size", [7], "cannot be read"),
        ("captions", {"source": [b"alt"], "text": []}, "cannot be read"),
        ("key", b"\xff\xfe", "cannot be read"),
        ("license", None, "cannot be read"),
    ],
)
def test_invalid_fields_are_corrupt(field, value, message):
    feature = features()
    data = feature.serialize_example(feature.encode_example(drawn.record(0).encode()))
    example = feature.deserialize_example_np(data, decoders={"image": tfds.decode.SkipDecoding()})
    Record.decode(example)
    with pytest.raises(CorruptRecord, match=message):
        Record.decode({**example, field: value})


def test_damaged_images_are_corrupt():
    good = drawn.record(0, 64, 48)
    assert good.pixels().shape == (64, 48, 3)
    flipped = bytearray(good.image)
    flipped[-100] ^= 1
    for image, message in (
        (bytes(flipped), "sha256"),
        (good.image[:-50], "sha256"),
        (b"", "sha256"),
    ):
        with pytest.raises(CorruptRecord, match=message):
            drawn.record(0, image=image, sha256=good.sha256).pixels()
    for image, message in (
        (good.image[:-50], "truncated JPEG"),
        (b"\xff\xd8 garbage \xff\xd9", "cannot be decoded"),
    ):
        with pytest.raises(CorruptRecord, match=message):
            drawn.record(0, image=image, sha256="").pixels()
        with pytest.raises(CorruptRecord, match=message):
            drawn.record(0, image=image, sha256=image_hash(image)).pixels()


def test_images_decode_at_reduced_size():
    record = drawn.record(0, image=drawn.jpeg(drawn.picture(131, 98, radius=20)), sha256="")
    assert record.size() == (131, 98)
    whole = record.pixels()
    for reduction in (2, 4):
        small = record.pixels(reduction)
        assert small.shape == (-(-131 // reduction), -(-98 // reduction), 3)
        there = whole[: 96 // reduction * reduction, : 96 // reduction * reduction]
        there = there.reshape(96 // reduction, reduction, 96 // reduction, reduction, 3)
        difference = small[: 96 // reduction, : 96 // reduction] - there.mean((1, 3))
        assert np.abs(difference).mean() < 3
    with pytest.raises(CorruptRecord, match="not a JPEG"):
        drawn.record(0, image=b"nothing", sha256="").size()


def test_tensorflow_is_not_imported(tmp_path):
    drawn.dataset(tmp_path / "d", [(64, 64)] * 2)
    program = (
        "import sys; from train.data import build, loader, batches, config\n"
        f"share = config.DatasetShare(folder={str(tmp_path / 'd')!r})\n"
        "setting = config.DataConfig(datasets=(share,), buckets=((64, 64),))\n"
        "from tests.train.data import drawn\n"
        "made = batches.Batches(setting, [drawn.tokenizer] * 2, 2, 0).batch(0)\n"
        "print(made['images'].shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(2, 64, 64, 3) False", done.stderr
