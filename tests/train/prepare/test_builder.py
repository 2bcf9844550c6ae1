"""TFDS builds the dataset, and separate parts read as one."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.face import synthetic_pack
from tests.train.prepare import web
from train.data.reading import FaceDataset
from train.prepare.__main__ import Options, prepare
from train.prepare.builder import InstantidFaces
from train.prepare.filtering import Filter
from train.prepare.record_settings import RecordSettings


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> RecordSettings:
    pack = synthetic_pack.write_pack(tmp_path_factory.mktemp("pack"))
    return RecordSettings(face_pack=str(pack), filter=Filter(min_side=64, min_sharpness=0))


@pytest.fixture(scope="module")
def parts(settings, tmp_path_factory) -> tuple[Path, Path]:
    """One part built by TFDS and one prepared, from different images."""
    folder = tmp_path_factory.mktemp("parts")
    for name, tars in (("built", 1), ("prepared", 2)):
        web.write_tars(folder / name, tars, 11, cut=False)
    builder = InstantidFaces(data_dir=folder / "data" / "built", settings=settings)
    config = tfds.download.DownloadConfig(manual_dir=folder / "built")
    builder.download_and_prepare(download_config=config)
    output = folder / "data" / "prepared"
    prepare(Options(input=folder / "prepared", output=output, settings=settings))
    return Path(builder.data_dir), output / "instantid_faces" / "1.0.0"


def test_tfds_build_loads_by_name_and_equals_prepare(parts):
    built, _ = parts
    source = tfds.data_source(
        "instantid_faces:1.0.0",
        data_dir=built.parents[1],
        split="train",
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    assert len(source) == 5
    assert source[0]["embedding"].shape == (512,) and source[0]["image"].startswith(b"\xff\xd8")


def test_parts_read_as_one_and_train(parts, settings):
    merged = tfds.builder_from_directories(list(parts))
    assert merged.info.splits["train"].num_examples == 15
    dataset = FaceDataset(parts[1].parents[2])
    assert len(dataset) == 15
    assert dataset.recognizer == settings.analyzer().recognizer
    keys = [dataset[row].key for row in range(15)]
    # Both parts have a tar number 0.
    assert len(set(keys)) == 10
    for row in range(15):
        assert np.isfinite(dataset[row].embedding).all()
        assert dataset[row].pixels().shape[:2] == tuple(dataset.image_size[row])
