import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from tests.train.data import drawn
from train.data import faces
from train.data.batches import Batches
from train.data.build import build, main
from train.data.config import DataConfig, DatasetShare
from train.data.reading import FaceDataset
from train.data.record import image_hash


def face(height: int, width: int, seed: int = 0, **changes) -> Face:
    record = drawn.record(seed, height, width)
    fields = {
        "embedding": record.embedding,
        "kps": record.kps,
        "image_size": (height, width),
        "bbox": record.bbox,
        "det_score": 0.5,
    }
    return Face(**(fields | changes))


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def put(folder: Path, name: str, image: bytes, of: Face | None, caption: str | None = None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image)
    if of is not None:
        of.save(path.with_suffix(".npz"))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def records(folder: Path) -> dict:
    dataset = FaceDataset(folder)
    found = [dataset[row] for row in range(len(dataset))]
    return {record.key: record for record in found}


@pytest.fixture
def folder(tmp_path):
    """Good images of several kinds, and one image for each reason to reject."""
    source = tmp_path / "in"
    pixels = drawn.picture(64, 48)
    put(source, "a.jpg", drawn.jpeg(pixels), face(64, 48), "größe\n")
    put(source, "sub/b.png", encoded(pixels, "PNG"), face(64, 48, 1))
    gray = np.repeat(pixels[..., :1], 3, axis=-1)
    put(source, "gray.jpg", encoded(gray[..., 0], "JPEG"), face(64, 48))
    put(source, "none.jpg", drawn.jpeg(pixels), None)
    put(source, "torn.jpg", drawn.jpeg(pixels)[:-200], face(64, 48))
    put(source, "empty.jpg", b"", face(64, 48))
    put(source, "wide.jpg", drawn.jpeg(pixels), face(48, 64))
    put(source, "off.jpg", drawn.jpeg(pixels), face(64, 48, bbox=[70, 0, 80, 10]))
    put(source, "boxless.jpg", drawn.jpeg(pixels), face(64, 48, bbox=None))
    put(source, "other.jpg", drawn.jpeg(pixels), face(64, 48, embedding=np.ones(128) * 2))
    put(source, "nothing.jpg", drawn.jpeg(pixels), None)
    nothing = {"embedding": np.zeros(512), "kps": np.ones((5, 2)), "bbox": np.ones(4)}
    np.savez(source / "nothing.npz", **nothing)
    put(source, "broken.jpg", drawn.jpeg(pixels), None)
    (source / "broken.npz").write_bytes(b"PK")
    put(source, "a.png", encoded(pixels, "PNG"), None)
    return source


def test_builds_a_folder_and_accounts_for_every_image(folder, tmp_path):
    manifest = build(folder, tmp_path / "out", shards=2, resolution=512)
    rejected = {
        "no face file": 1,
        "unreadable image": 2,
        "face of an image with another aspect ratio": 1,
        "face outside the image": 1,
        "no box in face file": 1,
        "wrong embedding size": 1,
        "unreadable face file": 2,
        "duplicate name": 1,
    }
    assert manifest["rejected"] == rejected
    assert manifest["seen"] == 13 and manifest["kept"] == 3
    assert manifest["buckets"]["576x448"] == 3
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    made = records(tmp_path / "out")
    assert made.keys() == {"a", "sub/b", "gray"}
    a = made["a"]
    assert a.image == (folder / "a.jpg").read_bytes()  # an upright RGB JPEG is kept
    assert a.sha256 == image_hash(a.image)
    assert a.captions == {"alt": "größe"}
    assert a.original_size == (64, 48)
    assert a.det_score == 0.5
    np.testing.assert_array_equal(a.kps, face(64, 48).kps)
    np.testing.assert_array_equal(a.embedding, face(64, 48).embedding)
    assert a.reference_embeddings.shape == (0, 512)
    assert made["sub/b"].captions == {}
    for name in ("sub/b", "gray"):
        with Image.open(io.BytesIO(made[name].image)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 64))
    difference = np.abs(made["sub/b"].pixels().astype(int) - drawn.picture(64, 48))
    assert difference.mean() < 3


def test_index_has_buckets_sizes_and_face_shares(folder, tmp_path):
    build(folder, tmp_path / "out", shards=2, resolution=512)
    path = next((tmp_path / "out").glob("**/index.npz"))
    with np.load(path) as index:
        np.testing.assert_array_equal(index["image_size"], [[64, 48]] * 3)
        np.testing.assert_array_equal(index["bucket"], [1] * 3)
        assert index["buckets"].tolist()[1] == [576, 448]
        expected = faces.face_share(face(64, 48).bbox, (64, 48))
        np.testing.assert_allclose(index["face_share"], expected, rtol=1e-5)
    dataset = FaceDataset(tmp_path / "out")
    np.testing.assert_array_equal(dataset.bucket(((64, 64), (96, 64))), [1] * 3)


def test_tfds_loads_the_dataset(folder, tmp_path):
    build(folder, tmp_path / "out")
    by_name = tfds.data_source("instantid_faces", split="train", data_dir=tmp_path / "out")
    # Here TFDS decodes the image.
    assert sorted(example["image"].shape for example in by_name) == [(64, 48, 3)] * 3
    path = tmp_path / "out" / "instantid_faces" / "1.0.0"
    assert len(tfds.builder_from_directory(path).as_data_source(split="train")) == 3
    share = DatasetShare(folder=str(tmp_path / "out"))
    config = DataConfig(datasets=(share,), buckets=((96, 64),))
    batch = Batches(config, [drawn.tokenizer] * 2, 3, 0).batch(0)
    assert sorted(batch["example_ids"]) == ["a", "gray", "sub/b"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_stored_upright(tmp_path, orientation):
    upright = drawn.picture(64, 48, radius=5)
    # As a camera stores it: the inverse of the tag's rotation.
    turned = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p.transpose(1, 0, 2), 2),
        8: lambda p: np.rot90(p, 3),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(turned), "JPEG", quality=95, subsampling=0, exif=exif)
    put(tmp_path / "in", "a.jpg", data, face(64, 48))
    build(tmp_path / "in", tmp_path / "out")
    (record,) = records(tmp_path / "out").values()
    assert (record.image == data) == (orientation == 1)
    pixels = record.pixels()
    assert pixels.shape == (64, 48, 3)
    for (x, y), color in zip(record.kps.astype(int), drawn.COLORS, strict=True):
        np.testing.assert_allclose(pixels[y, x].astype(int), color, atol=25)


def test_face_of_a_larger_copy_is_scaled(tmp_path):
    put(tmp_path / "in", "a.jpg", drawn.jpeg(drawn.picture(64, 48)), face(256, 192))
    build(tmp_path / "in", tmp_path / "out")
    (record,) = records(tmp_path / "out").values()
    large = face(256, 192)
    np.testing.assert_allclose(record.kps, large.kps / 4)
    np.testing.assert_allclose(record.bbox, large.bbox / 4)


def add(tar: tarfile.TarFile, name: str, data: bytes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("faces_in_tar", [True, False])
def test_builds_img2dataset_tars(tmp_path, faces_in_tar):
    shards = tmp_path / "in"
    shards.mkdir()
    for shard in range(2):
        with tarfile.open(shards / f"0000{shard}.tar", "w") as tar:
            for i in range(3):
                key = f"{shard:05}{i:04}"
                notes = {
                    "NSFW": "UNLIKELY",
                    "LICENSE": "?",
                    "original_width": 480,
                    "original_height": 640,
                    "captions": {"blip2": f"a drawing {i}"},
                }
                add(tar, f"{key}.jpg", drawn.jpeg(drawn.picture(64, 48, seed=i)))
                add(tar, f"{key}.json", json.dumps(notes).encode())
                add(tar, f"{key}.txt", f"caption {key}".encode())
                file = tmp_path / "faces" / f"{key}.npz"
                face(64, 48, i).save(file)
                if faces_in_tar:
                    add(tar, f"{key}.npz", file.read_bytes())
            add(tar, f"{shard:05}0003.json", b"{}")  # a download that failed
    manifest = build(shards, tmp_path / "out", faces=None if faces_in_tar else tmp_path / "faces")
    assert (manifest["kept"], manifest["rejected"]) == (6, {"no image": 2})
    made = records(tmp_path / "out")
    record = made["000010002"]
    assert record.captions == {"blip2": "a drawing 2", "alt": "caption 000010002"}
    assert (record.nsfw, record.license, record.original_size) == ("UNLIKELY", "?", (640, 480))
    np.testing.assert_array_equal(record.embedding, face(64, 48, 2).embedding)
    one = build(shards / "00001.tar", tmp_path / "one", faces=tmp_path / "faces")
    assert one["kept"] == 3


def test_faces_of_two_recognizers_are_refused(tmp_path):
    pixels = drawn.jpeg(drawn.picture(64, 48))
    for name, recognizer in (("a", "1" * 64), ("b", None), ("c", "2" * 64)):
        put(tmp_path / "in", f"{name}.jpg", pixels, face(64, 48, recognizer=recognizer))
    with pytest.raises(InputError, match="the face of c was measured by another recognizer"):
        build(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "in" / "c.npz").unlink()
    build(tmp_path / "in", tmp_path / "some")
    assert FaceDataset(tmp_path / "some").recognizer is None
    (tmp_path / "in" / "b.npz").unlink()
    build(tmp_path / "in", tmp_path / "one")
    assert FaceDataset(tmp_path / "one").recognizer == "1" * 64


def test_prints_what_decides_and_what_is_enlarged(folder, tmp_path, capsys, caplog):
    main(["--input", str(folder), "--output", str(tmp_path / "out"), "--resolution", "512"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "kept 3 of 13 images (3 of 576x448)"
    assert "rejected 1: no face file (--faces)" in lines
    assert "rejected 1: wrong embedding size (--embedding-size)" in lines
    assert "rejected 1: duplicate name" in lines
    smaller, unnamed = caplog.messages
    assert smaller.startswith("3 of 3 images are smaller than the buckets of 512x512, so training")
    assert unnamed.startswith("2 of 3 images have no caption, so training uses an empty prompt")


def test_people_get_references_from_their_other_photos(tmp_path):
    for person, photos in (("ann", 3), ("bob", 1)):
        for i in range(photos):
            seed = 10 * len(person) * photos + i
            name = f"{person}/{i}.jpg"
            put(tmp_path / "in", name, drawn.jpeg(drawn.picture(64, 48)), face(64, 48, seed))
    build(tmp_path / "in", tmp_path / "out", people=True)
    made = records(tmp_path / "out")
    assert {r.identity for r in made.values()} == {"ann", "bob"}
    assert made["bob/0"].reference_embeddings.shape == (0, 512)
    expected = [made[f"ann/{i}"].embedding for i in (0, 2)]
    np.testing.assert_array_equal(made["ann/1"].reference_embeddings, expected)
    assert FaceDataset(tmp_path / "out").has_references
    build(tmp_path / "in", tmp_path / "alone")
    assert not FaceDataset(tmp_path / "alone").has_references


def test_failed_build_leaves_nothing(folder, tmp_path):
    tar = tmp_path / "torn.tar"
    with tarfile.open(tar, "w") as opened:
        for i in range(3):
            add(opened, f"{i}.jpg", drawn.jpeg(drawn.picture(64, 48)))
            file = tmp_path / "face.npz"
            face(64, 48).save(file)
            add(opened, f"{i}.npz", file.read_bytes())
    tar.write_bytes(tar.read_bytes()[:14000])
    (tmp_path / "bare").mkdir()
    put(tmp_path / "faceless", "a.jpg", drawn.jpeg(drawn.picture(64, 48)), None)
    before = sorted(tmp_path.iterdir())
    for source, message in (
        (tar, "damaged tar"),
        (tmp_path / "bare", "holds no images"),
        (tmp_path / "missing", "is not a folder"),
        (tmp_path / "faceless", r"no usable image \(1 no face file \(--faces\)\)"),
    ):
        with pytest.raises(InputError, match=message):
            build(source, tmp_path / "out")
    with pytest.raises(InputError, match="not an empty folder"):
        build(folder, folder)
    with pytest.raises(InputError, match="shards=0: expected 1 or more"):
        build(folder, tmp_path / "out", shards=0)
    assert sorted(tmp_path.iterdir()) == before


def test_program_prints_a_summary(folder, tmp_path):
    program = [sys.executable, "-m", "train.data.build", "--input", str(folder), "--output"]
    done = subprocess.run([*program, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kept 3 of 13 images (3 of 1152x896)" in done.stdout
    again = subprocess.run([*program, str(tmp_path / "out")], capture_output=True, text=True)
    assert again.returncode == 2
    (line,) = again.stderr.strip().splitlines()
    assert line.startswith("train.data.build: error: ") and "not an empty folder" in line


def test_sharpness_falls_with_blur_and_not_with_size():
    pixels = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    box = np.array([0, 0, 224, 224])
    blurred = np.asarray(Image.fromarray(pixels).reduce(4).resize((224, 224)))
    assert faces.sharpness(pixels, box) > 10 * faces.sharpness(blurred, box)
    double = np.repeat(np.repeat(pixels, 2, 0), 2, 1)
    assert faces.sharpness(double, 2 * box) == pytest.approx(faces.sharpness(pixels, box), rel=0.01)
    assert faces.sharpness(pixels, np.array([300, 0, 310, 9])) == 0
