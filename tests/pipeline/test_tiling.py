"""The VAE in tiles: geometry and blend by our own rule, and the images of a pipeline."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from instantid_jax import InputError, InstantIDPipeline
from instantid_jax.pipeline import memory, programs, stages
from instantid_jax.pipeline.tiling import TILE, check_tiling, map_tiles, shares, starts
from instantid_jax.request.provenance import Provenance
from instantid_jax.sharding import sampling_mesh
from tests.pipeline.test_compilation import compiled_by as compiled_by
from tests.pipeline.test_images import begun

# The last tiles overlap more.
LARGE = {"height": 240, "width": 328}


@pytest.mark.parametrize("tile", [8, 16, 64])
@pytest.mark.parametrize("length", [3, 8, 9, 16, 21, 64, 65, 100, 112, 160, 200])
def test_tiles_cover_a_side_and_overlap_by_a_quarter(length, tile):
    begins = starts(length, tile)
    span = min(length, tile)
    assert begins[0] == 0 and begins[-1] + span == length
    steps = np.diff(begins)
    assert (steps > 0).all() and (steps <= tile - tile // 4).all()
    assert (steps[:-1] == tile - tile // 4).all()
    # No tile could be left out.
    assert len(begins) == 1 or len(begins) - 1 == -(-(length - tile) // (tile - tile // 4))


@pytest.mark.parametrize("length", [8, 9, 14, 15, 20, 23])
def test_shares_add_up_and_are_linear_over_the_overlap(length):
    begins, unit = starts(length, 8), 8
    kept = shares([unit * begin for begin in begins], unit * min(length, 8))
    total = np.zeros(unit * length)
    for begin, share in zip(begins, kept, strict=True):
        total[unit * begin : unit * begin + len(share)] += share
        assert (share >= 0).all() and (share <= 1).all()
    np.testing.assert_allclose(total, 1, atol=1e-12)
    if length == 14:  # a whole number of tiles: 16 pixels in common
        np.testing.assert_allclose(kept[1][:16], np.arange(16) / 16)
        np.testing.assert_allclose(kept[0][-16:], 1 - np.arange(16) / 16)
        assert (kept[0][:-16] == 1).all() and (kept[1][16:] == 1).all()


def blended(run, array, tile, taken, made):
    """Our rule, one side after the other: each tile fades in over what is there already."""

    def along(axis, run, array):
        length = array.shape[axis] // taken
        result, end = None, 0
        for begin in starts(length, tile):
            indices = np.arange(taken * begin, taken * min(begin + tile, length))
            part = run(np.take(array, indices, axis))
            part = np.moveaxis(part.astype(np.float64), axis, 0)
            first = made * begin
            if result is None:
                result = np.zeros((made * length, *part.shape[1:]))
            overlap = end - first
            for k in range(len(part)):
                weight = k / overlap if k < overlap else 1
                result[first + k] = (1 - weight) * result[first + k] + weight * part[k]
            end = first + len(part)
        return np.moveaxis(result, 0, axis)

    return along(1, lambda rows: along(2, run, rows), array)


@pytest.mark.parametrize("units", [(1, 8), (8, 1)])
@pytest.mark.parametrize("size", [(8, 20), (9, 15), (23, 5), (14, 14)])
def test_blend_follows_our_rule(size, units):
    taken, made = units
    random = np.random.default_rng(0)
    array = random.standard_normal((2, *(taken * side for side in size), 3), np.float32)

    def run(part):
        """Something that differs from tile to tile, and has the size of what a VAE makes."""
        part = part - part.mean(axis=(1, 2), keepdims=True)
        if made > taken:
            return part.repeat(made, axis=1).repeat(made, axis=2)
        return part[:, ::taken, ::taken]

    ours = map_tiles(run, array, 8, units)
    assert ours.dtype == np.float32
    assert ours.shape == (2, *(made * side for side in size), 3)
    np.testing.assert_allclose(ours, blended(run, array, 8, taken, made), atol=1e-5)


@pytest.mark.parametrize("value", [0, 32, 100, 8192, -64, "512", 512.0])
def test_other_tiles_are_refused(value):
    with pytest.raises(InputError, match="vae_tiling="):
        check_tiling(value)
    assert [check_tiling(each) for each in (True, False, None, 96)] == [TILE, False, None, 96]


@pytest.fixture(scope="module")
def tiled(folder):
    return InstantIDPipeline.load(sdxl=folder, instantid=folder, vae_tiling=64)


def test_an_image_of_one_tile_has_the_bits_of_no_tiles(pipe, folder, sample):
    one = InstantIDPipeline.load(sdxl=folder, instantid=folder, vae_tiling=128)
    arguments = begun(output_type="np")
    np.testing.assert_array_equal(sample(one, **arguments).images, sample(**arguments).images)


def test_tiles_change_the_pixels_a_little(tiled, sample):
    whole, parts = (sample(output_type="np", **LARGE), sample(tiled, output_type="np", **LARGE))
    np.testing.assert_array_equal(whole.latents, parts.latents)
    difference = np.abs(whole.images - parts.images)
    assert 0 < difference.mean() < 0.1


def test_one_program_serves_all_sizes_and_pictures(tiled, sample, compiled_by):
    sample(tiled, output_type="pil", **LARGE)
    first = compiled_by(sample, pipe=tiled, output_type="pil", height=136, width=200)
    assert "jit(denoise)" in first and not {"jit(decode)", "jit(decode_tile)"} & set(first)
    assert compiled_by(sample, pipe=tiled, output_type="np", height=136, width=200) == []


def test_batch_and_alone_have_the_same_bits(tiled, sample):
    size = (LARGE["height"], LARGE["width"])
    plan = SimpleNamespace(size=size, seeds=[5, 6], views=[None, None], repeats=1)
    one = SimpleNamespace(size=size, seeds=[5], views=[None], repeats=1)
    latents = np.random.default_rng(0).standard_normal((2, 30, 41, 4), np.float32)
    both = stages.decode(tiled.model, plan, latents, np.dtype(np.uint8))
    for i, image in enumerate(both):
        alone = stages.decode(tiled.model, one, latents[i : i + 1], np.dtype(np.uint8))
        np.testing.assert_array_equal(alone[0], image)
    assert (both[0] != both[1]).any()


def test_an_image_to_begin_with_is_encoded_in_tiles(tiled, sample):
    image = np.random.default_rng(0).integers(0, 255, (240, 328, 3), np.uint8)
    arguments = begun(image=image, **LARGE)
    whole, parts = sample(**arguments).latents, sample(tiled, **arguments).latents
    assert 0 < np.abs(whole - parts).mean() < 0.3 * np.abs(whole).mean()


@pytest.mark.slow
def test_on_a_mesh_the_pixels_are_those_of_one_device(tiled, folder, sample):
    mesh = sampling_mesh(data=2, rows=2, devices=jax.devices()[:4])
    shared = InstantIDPipeline.load(sdxl=folder, instantid=folder, vae_tiling=64, mesh=mesh)
    arguments = {"output_type": "np", "height": 192, "width": 96, "num_images_per_prompt": 4}
    np.testing.assert_allclose(
        sample(shared, **arguments).images, sample(tiled, **arguments).images, atol=1e-4
    )


def test_not_finite_pixels_are_refused(tiled, sample, monkeypatch):
    def broken(network, params, latents):
        return np.full((len(latents), 64, 64, 3), np.nan, np.float32)

    monkeypatch.setattr(programs, "decode_tile", broken)
    with pytest.raises(InputError, match="the decoded pixels of seed 5 are not finite"):
        sample(tiled, output_type="pil", seed=5, **LARGE)


def test_images_record_their_tiles(tiled, sample, tmp_path):
    for size, tile in ((LARGE, 64), ({"height": 64, "width": 64}, False)):
        (path,) = sample(tiled, output_type="pil", **size).save(tmp_path / "a.png")
        assert Provenance.read(path).facts["vae_tiling"] == tile


def test_none_takes_tiles_where_memory_is_too_small(folder, monkeypatch, caplog):
    model = InstantIDPipeline.load(sdxl=folder, instantid=folder).model
    needed = memory.decoding_bytes(model.networks.vae.config, (1024, 1024), model.vae_dtype)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed - 1)
    caplog.set_level("INFO")
    assert model.vae_tile((1024, 1024)) == TILE and model.vae_tile((1024, 1016)) is None
    assert model.vae_tile((512, 512)) is None
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("decoding 1024 x 1024 pixels takes about ") and "vae_tiling" in line
    # Decided once for a size.
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * needed)
    assert model.vae_tile((1024, 1024)) == TILE


def test_a_cpu_takes_tiles_only_when_asked(pipe):
    assert pipe.model.vae_tile((16384, 16384)) is None
    with pytest.raises(InputError, match="load the model with vae_tiling"):
        pipe.model.check_memory((10**6, 10**6))
    assert memory.free_bytes(jax.devices()[0]) is None


def test_a_large_image_in_tiles_fits_a_cpu(tiled):
    tiled.model.check_memory((10**6, 10**6))
