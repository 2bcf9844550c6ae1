"""Cached latents give the same examples and loss, and mismatched caches are rejected."""

import functools
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from instantid_jax.diffusion.schedule import add_noise
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.sharding import training_mesh
from instantid_jax.weights import names
from tests.train import small
from tests.train.data import drawn
from train.compiled_step import batch_shapes
from train.config import ModelConfig, TrainConfig
from train.data import latent_cache
from train.data.batches import Batches
from train.data.config import DataConfig, DatasetShare
from train.data.latent_cache import (
    EncodedImage,
    LatentCache,
    cache_folder,
    vae_fingerprint,
    write_latents,
)
from train.data.latents import cache_latents, main
from train.data.loader import Loader
from train.data.reading import FaceDataset
from train.data.record import CorruptRecord
from train.objective import ObjectiveConfig, draw, encode_batch, image_moments, losses, predict

# Equals `aspect_buckets(96)`.
BUCKETS = ((96, 96), (128, 64), (64, 128))
# Relative rounding error of float16.
ROUNDING = 2.0**-11
# This objective's target contains the latents.
VELOCITY = ObjectiveConfig(prediction_type="v_prediction")


def config(folder, **settings) -> DataConfig:
    shares = (DatasetShare(folder=str(folder)),)
    settings = {"buckets": BUCKETS, "crop": "center", "reference_probability": 0.5} | settings
    return DataConfig(datasets=shares, **settings)


def batches(folder, size=4, **settings) -> Batches:
    return Batches(config(folder, **settings), [drawn.tokenizer] * 2, size, 1)


def cache(folder, **settings) -> dict:
    return cache_latents(config(folder, **settings), small.networks().vae, small.vae(), 1)


@functools.cache
def encoder():
    return jax.jit(functools.partial(image_moments, small.networks().vae))


def assert_same_but_for_the_image(cached, plain):
    assert cached.keys() - {"latent_moments"} == plain.keys() - {"images"}
    for name, value in plain.items():
        if name != "images":
            np.testing.assert_array_equal(cached[name], value, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images with about the three buckets' ratios, and their latents."""
    folder = drawn.dataset(
        tmp_path_factory.mktemp("data") / "d",
        [(100, 100), (140, 70), (96, 96), (80, 200), (130, 100), (90, 93), (64, 128), (100, 45)],
        change=lambda n: {
            "captions": {"alt": f"alt {n}", "blip2": f"blip2 {n}"},
            "reference_embeddings": np.full((2, 512), n + 1, np.float32),
        },
    )
    manifest = cache(folder)
    assert (manifest["pictures"], manifest["missing"]) == (8, 0)
    return folder


def test_cached_examples_differ_only_in_the_image(folder):
    plain, cached = batches(folder), batches(folder, cached_latents=True)
    assert cached.fingerprint == plain.fingerprint
    for step in range(6):
        expected, batch = plain.batch(step), cached.batch(step)
        assert_same_but_for_the_image(batch, expected)
        height, width = plain.bucket(step)
        assert batch["latent_moments"].shape == (4, height // 8, width // 8, 8)
        assert batch["latent_moments"].dtype == np.float16
        if (height, width) == BUCKETS[0]:  # each size compiles separately
            moments = encoder()(small.vae(), expected["images"])
            np.testing.assert_allclose(batch["latent_moments"], moments, rtol=ROUNDING, atol=1e-5)
            compared = True
    assert compared


def test_threads_read_the_same_rows(folder):
    made = batches(folder, cached_latents=True)
    loader = Loader(made, threads=4)
    for step, batch in (next(loader) for _ in range(4)):
        np.testing.assert_array_equal(batch["latent_moments"], made.batch(step)["latent_moments"])
    loader.close()


@pytest.mark.slow
def test_cached_step_has_the_same_loss(folder):
    networks, constants, objective = small.networks(), small.constants(), VELOCITY
    alphas = constants.alphas_cumprod
    encode = jax.jit(functools.partial(encode_batch, networks))

    @jax.jit
    def loss(params, frozen, latents, conditions, draws):
        noisy = add_noise(alphas, latents, draws.noise, draws.timesteps)
        prediction = predict(networks, frozen, params, noisy, draws.timesteps, conditions)
        return losses(objective, alphas, prediction, latents, draws.noise, draws.timesteps)

    plain, cached = (
        {k: v for k, v in batches(folder, **settings).batch(0).items() if k != "example_ids"}
        for settings in ({}, {"cached_latents": True})
    )
    shape = (*cached["latent_moments"].shape[1:3], 4)
    draws = draw(objective, jax.random.key(3), np.arange(4), shape, alphas)
    others = cached | {"latent_moments": cached["latent_moments"][::-1]}
    results = []
    for batch in (plain, cached, others):
        encoded = encode(constants.frozen, batch, draws, constants.empty_prompt)
        results.append(np.asarray(loss(small.trainables(), constants.frozen, *encoded, draws)))
    expected, got, wrong = results
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert np.abs(wrong / expected - 1).max() > 1e-2


@pytest.mark.parametrize("cached", [False, True])
def test_batch_shapes_match_batches(folder, cached):
    data = config(folder, cached_latents=cached)
    settings = TrainConfig(model=ModelConfig(sdxl="any"), data=data, global_batch_size=4, steps=1)
    mesh = training_mesh((1, 1, 1), jax.devices()[:1])
    made = batches(folder, cached_latents=cached)
    shapes = batch_shapes(settings, small.networks(), mesh, made.bucket(1))
    batch = made.batch(1)
    assert batch.keys() - shapes.keys() == {"example_index", "example_ids"}
    for name, shape in shapes.items():
        assert (batch[name].shape, batch[name].dtype) == (shape.shape, shape.dtype)


def broken(number):
    ways = ({"image": b"nothing"}, {"sha256": "0" * 64}, {"kps": np.full((5, 2), np.nan)})
    return ways[number % 3] if number in (1, 5, 6) else {}


def test_missing_rows_are_replaced_like_corrupt_records(tmp_path):
    folder = drawn.dataset(tmp_path / "d", [(96, 96)] * 10, change=broken)
    assert cache(folder)["missing"] == 3
    plain, cached = batches(folder), batches(folder, cached_latents=True)
    for step in range(5):
        assert_same_but_for_the_image(cached.batch(step), plain.batch(step))
    assert cached.corruption.corrupt == plain.corruption.corrupt > 0


def test_too_many_corrupt_records_leave_no_cache(tmp_path):
    folder = drawn.dataset(tmp_path / "d", [(96, 96)] * 8, change=broken)
    with pytest.raises(InputError, match=r"corrupt records .* exceed max_corrupt_share=0"):
        cache(folder, max_corrupt_share=0)
    nothing = drawn.dataset(tmp_path / "bad", [(96, 96)] * 3, change=lambda n: {"image": b""})
    with pytest.raises(InputError, match=r"no usable image in .*nothing is written"):
        cache(nothing)
    assert not [path for path in tmp_path.glob("*/latents/**/*")]


def test_flipped_bytes_in_a_shard_are_corrupt_records(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "d")
    (shard,) = cache_folder(copy, BUCKETS).glob("*.array_record")
    data = bytearray(shard.read_bytes())
    data[5_000] ^= 1
    shard.write_bytes(data)
    made = batches(copy, size=8, cached_latents=True)
    for step in range(8):
        made.batch(step)
    assert made.corruption.corrupt > 0


def test_shards_read_as_one_sequence(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latent_cache, "_SHARD_RECORDS", 3)
    dataset = FaceDataset(folder)
    moments = np.random.default_rng(0).normal(size=(7, 2, 3, 8)).astype(np.float16)
    rows = (6, 0, 5, 2, 1, 3, 4)  # 7 is missing
    images = [(row, EncodedImage(moments[row], np.uint32(10 + row))) for row in rows]
    manifest = write_latents(tmp_path, dataset, BUCKETS, "vae", images)
    assert (manifest["shards"], manifest["pictures"], manifest["missing"]) == (3, 7, 1)
    written = LatentCache(tmp_path, dataset, BUCKETS)
    for row in rows:
        np.testing.assert_array_equal(written[row].moments, moments[row])
        assert written[row].crc32 == 10 + row
    with pytest.raises(CorruptRecord):
        written[7]


def test_rejects_another_vae(folder):
    made, params = batches(folder, cached_latents=True), small.vae()
    made.check_vae(params)
    made.check_vae(params | {"decoder.conv_in.bias": 1 + params["decoder.conv_in.bias"]})
    other = params | {"encoder.conv_in.bias": 1e-6 + params["encoder.conv_in.bias"]}
    with pytest.raises(
        InputError, match=r"computed with another VAE .* run `python -m train"
    ) as error:
        made.check_vae(other)
    assert "\n" not in str(error.value)
    batches(folder).check_vae(other)


def test_vae_fingerprint_depends_on_bits_and_names():
    params = small.vae()
    again = {name: np.array(params[name]) for name in sorted(params)}
    assert vae_fingerprint(again) == vae_fingerprint(params)
    first, second = "encoder.conv_norm_out.bias", "encoder.conv_norm_out.scale"
    swapped = params | {first: params[second], second: params[first]}
    assert vae_fingerprint(swapped) != vae_fingerprint(params)


def test_rejects_incomplete_or_mismatched_caches(folder, tmp_path):
    def refused(where, message, **settings):
        with pytest.raises(InputError, match=message) as error:
            batches(where, cached_latents=True, **settings)
        assert "\n" not in str(error.value)

    refused(folder, "crop='random'.*set crop='center'", crop="random")
    command = r"run `python -m train.data.latents \S+ --sdxl MODEL --resolution 256`"
    buckets = ((256, 256), (288, 224), (224, 288), (320, 192), (192, 320))
    refused(folder, f"no cached latents for buckets 256x256_.*{command}", buckets=buckets)
    refused(folder, "MODEL --buckets 64 64 96 64` with", buckets=((64, 64), (96, 64)))

    other = drawn.dataset(tmp_path / "other", [(96, 96)] * 8, first=50)
    torn = shutil.copytree(folder / "latents", other / "latents" / ".96x96.torn")
    refused(other, "no cached latents .* --resolution 96`")
    shutil.move(torn / cache_folder(folder, BUCKETS).name, cache_folder(other, BUCKETS))
    refused(other, "computed from other records than .*delete .*other")

    copy = shutil.copytree(folder, tmp_path / "d")
    inside = cache_folder(copy, BUCKETS)
    (shard,) = inside.glob("*.array_record")
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    refused(copy, "(cannot be read|is incomplete).*copy it again, or delete")
    shard.unlink()
    refused(copy, "cannot be read .*copy it again, or delete")
    (inside / "index.npz").write_bytes(b"PK")
    refused(copy, "is not a valid index")
    write_json(inside / "manifest.json", {"version": 0})
    refused(copy, "has version 0, but 1 is expected")


def test_rejects_latents_that_overflow(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "d", ignore=shutil.ignore_patterns("latents"))
    params = small.vae() | {"quant_conv.bias": np.full(8, 1e5, np.float32)}
    with pytest.raises(InputError, match="overflow float16"):
        cache_latents(config(copy), small.networks().vae, params, 1)


@pytest.mark.parametrize("flag", ["--sdxl", "--vae"])
def test_program_writes_a_cache_for_training(tmp_path, capsys, flag):
    folder = drawn.dataset(tmp_path / "d", [(96, 96)] * 4)
    model = tmp_path / "sdxl" / "vae"
    model.mkdir(parents=True)
    tensors = names.to_torch({name: np.array(value) for name, value in small.vae().items()})
    save_file(tensors, model / "diffusion_pytorch_model.safetensors")
    write_json(model / "config.json", small.VAE)
    source = model if flag == "--vae" else model.parent
    buckets = [str(side) for bucket in BUCKETS for side in bucket]
    size = ["--buckets", *buckets] if flag == "--vae" else ["--resolution", "96"]
    args = [str(folder), flag, str(source), *size, "--batch-size", "1"]
    main(args)
    assert f"wrote latents of 4 images to {folder}" in capsys.readouterr().out
    made = batches(folder, cached_latents=True)
    made.check_vae(small.vae())
    moments = encoder()(small.vae(), batches(folder).batch(0)["images"])
    got = made.batch(0)["latent_moments"]
    np.testing.assert_allclose(got, moments, rtol=ROUNDING, atol=1e-5)
    for wrong, message in (
        (args, "delete it to recompute"),
        (args[:1], "--sdxl"),
        ([*args, "--batch-size", "0"], "--batch-size 0: expected 1 or more"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(wrong)
        assert exit.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("train.data.latents: error: ") and message in line
