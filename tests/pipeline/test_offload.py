"""Weights that wait on the host: the same bits, no compilation, and none left on the devices."""

import jax
import numpy as np
import pytest

from instantid_jax import InputError, InstantIDPipeline
from instantid_jax.pipeline import placement, stages, step
from instantid_jax.pipeline.observer import Observer
from instantid_jax.pipeline.offload import OFFLOADED, to_devices, to_host
from instantid_jax.pipeline.placement import place, sharding_of
from instantid_jax.sharding import sampling_mesh
from tests.pipeline.test_compilation import compiled_by as compiled_by
from tests.pipeline.test_images import begun
from tests.pipeline.test_loras import bits, loras

__all__ = ["compiled_by", "loras"]


@pytest.fixture(scope="module")
def own(folder):
    return InstantIDPipeline.load(sdxl=folder, instantid=folder, offload=True)


def on_devices(model) -> set[str]:
    """The parts with weights on the devices; none is on both sides."""
    sides = {
        name: {isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params)}
        for name, params in model.params.items()
    }
    assert all(len(side) == 1 for side in sides.values())
    return {name for name, side in sides.items() if side == {True}}


@pytest.mark.parametrize("arguments", [{}, begun(mask_image=np.full((64, 128), 255, np.uint8))])
def test_images_have_the_same_bits(own, sample, arguments):
    ours = sample(own, output_type="np", **arguments)
    plain = sample(output_type="np", **arguments)
    np.testing.assert_array_equal(ours.latents, plain.latents)
    np.testing.assert_array_equal(ours.images, plain.images)
    assert on_devices(own.model) == {"unet", "image_proj"}


def test_nothing_compiles_anew(own, sample, compiled_by):
    sample(output_type="pil")
    # The programs are those without offloading.
    assert compiled_by(sample, pipe=own, output_type="pil") == []
    assert compiled_by(sample, pipe=own, output_type="pil", seed=3) == []


def test_each_part_is_on_the_devices_in_its_stage_alone(own, sample, monkeypatch):
    seen = {}

    def spy(module, name):
        called = getattr(module, name)

        def wrapped(*arguments):
            seen.setdefault(name, set()).add(frozenset(on_devices(own.model)))
            return called(*arguments)

        monkeypatch.setattr(module, name, wrapped)

    for name in ("encode_text", "encode_id", "prepare", "encode_image", "decode"):
        spy(stages.programs, name)
    spy(step, "denoise")
    moved = []
    put = to_devices
    monkeypatch.setattr(
        "instantid_jax.pipeline.offload.to_devices",
        lambda weights, sharding: moved.append(weights) or put(weights, sharding),
    )
    sample(own, output_type="pil", **begun())
    always = {"unet", "image_proj"}
    assert seen == {
        "encode_text": {frozenset(always | {"text_encoder", "text_encoder_2"})},
        "encode_id": {frozenset(always | {"controlnets"})},
        "prepare": {frozenset(always | {"controlnets"})},
        "encode_image": {frozenset(always | {"controlnets", "vae"})},
        "denoise": {frozenset(always | {"controlnets"})},
        "decode": {frozenset(always | {"vae"})},
    }
    # The VAE twice, for the image to begin with and for the result; the others once.
    assert len(moved) == 5


def test_previews_and_cancellation_leave_the_weights_on_the_host(own, sample):
    class Stop(Observer):
        def on_step(self, at):
            assert at.preview() is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(own, observer=Stop())
    assert on_devices(own.model) == {"unet", "image_proj"}


def test_stages_work_by_themselves(own, sample):
    """Without the pipeline, which keeps ControlNets from one stage to the next."""
    model = own.model
    with model.keeping("controlnets"):
        with model.resident("controlnets"):
            pass
        assert "controlnets" in on_devices(model)
        with model.resident("controlnets"), model.resident("vae"):
            assert "vae" in on_devices(model)
        assert "controlnets" in on_devices(model) and "vae" not in on_devices(model)
    assert on_devices(model) == {"unet", "image_proj"}
    with model.resident(*OFFLOADED), model.resident("vae"):
        assert on_devices(model) == set(model.params)
    assert on_devices(model) == {"unet", "image_proj"}


def test_loras_go_where_their_weights_wait(own, loras, folder, sample, compiled_by):
    chosen = [f"{loras[0]}:0.5", loras[1]]
    plain = InstantIDPipeline.load(sdxl=folder, instantid=folder, loras=chosen)
    before = bits(own)
    sample(own)
    assert compiled_by(own.set_loras, loras=chosen) == []
    assert bits(own) == bits(plain) and own.model.weights_hash == plain.model.weights_hash
    assert on_devices(own.model) == {"unet", "image_proj"}
    assert compiled_by(sample, pipe=own) == []
    np.testing.assert_array_equal(sample(own).latents, sample(plain).latents)
    own.set_loras([])
    assert bits(own) == before


@pytest.mark.slow
def test_a_mesh_has_the_weights_on_all_devices(folder, sample):
    mesh = sampling_mesh(data=2, devices=jax.devices()[:2])
    plain, ours = (
        InstantIDPipeline.load(sdxl=folder, instantid=folder, mesh=mesh, offload=offload)
        for offload in (False, True)
    )
    arguments = {"output_type": "np", "num_images_per_prompt": 2}
    np.testing.assert_array_equal(
        sample(ours, **arguments).images, sample(plain, **arguments).images
    )
    with ours.model.resident("vae"):
        for name, value in ours.model.params["vae"].items():
            assert value.sharding == plain.model.params["vae"][name].sharding


def test_with_layouts_of_a_gpu_the_second_move_compiles_nothing(monkeypatch, compiled_by):
    usual = placement.weight_format
    monkeypatch.setattr(placement, "weight_format", lambda axes, _, at: usual(axes, "gpu", at))
    params = {"a": np.ones((3, 3, 4, 8), np.float32), "b": np.arange(5, dtype=np.float32)}
    loaded = place({name: jax.device_put(value) for name, value in params.items()}, None)
    host = to_host(loaded)

    def move():
        moved = to_devices(host, sharding_of(loaded))
        for name, value in moved.items():
            assert value.format == loaded[name].format
            np.testing.assert_array_equal(value, params[name])

    move()
    assert compiled_by(move) == []


@pytest.mark.parametrize("value", [None, 1, "vae", ["vae"]])
def test_other_values_are_refused(folder, value):
    with pytest.raises(InputError, match=r"offload=.*: expected True or False"):
        InstantIDPipeline.load(sdxl=folder, instantid=folder, offload=value)
