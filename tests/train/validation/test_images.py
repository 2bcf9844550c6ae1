"""Validation images: rows of photo, keypoints and generated image."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.experimental.layout import Format
from PIL import Image

from instantid_jax import sharding
from instantid_jax.components import component_shapes
from instantid_jax.errors import InputError
from instantid_jax.params import join_parts
from instantid_jax.pipeline import Result, placement
from instantid_jax.sharding import training_mesh
from tests.train import tiny_config
from train.config import MeshConfig
from train.model import Frozen, find_base
from train.networks import INSTANTID
from train.random_model import draw_params
from train.state import TrainState, init_state, init_trainables, state_sharding
from train.validation import images
from train.validation.config import ValidationConfig
from train.validation.images import ValidationImages
from train.validation.records import ValidationRecords

SIZE = (64, 96)


@pytest.fixture(scope="module")
def config():
    made = tiny_config.get_config()
    validation = ValidationConfig(
        dataset=made.data.datasets[0].folder,
        records=2,
        size=SIZE,
        num_inference_steps=2,
        guidance_scale=2.0,
    )
    return dataclasses.replace(made, validation=validation)


@pytest.fixture(scope="module")
def base(config):
    return find_base(config.model)


def records_of(config, base):
    return ValidationRecords(config, base.tokenizers, base.networks.image_proj)


def images_of(config, base):
    return ValidationImages(config, base, records_of(config, base).shown)


@pytest.mark.slow
def test_grid_shows_each_record_and_the_average(config, base, tmp_path):
    mesh = training_mesh((2, 1, 1), jax.devices()[:2])
    frozen = Frozen(base, config, mesh).params
    unet = jax.device_put(frozen["unet"], jax.devices()[0])
    init = jax.jit(lambda unet: init_trainables(base.networks, unet, jax.random.key(0)))
    state = init_state(config.optimizer, init(unet))
    state = jax.device_put(state, jax.tree.leaves(frozen["vae"])[0].sharding)
    validation = images_of(config, base)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    validation.save(paths[0], 5, state, frozen)
    first = Image.open(paths[0])
    assert first.size == (3 * SIZE[1], 2 * SIZE[0])
    assert "a drawn face before a" in first.text["prompt"]
    pixels = np.asarray(first)
    columns = np.split(pixels, 3, axis=1)
    assert all(column.std() > 5 for column in columns)
    # Sampling uses the average: it alone changes the image.
    other = jax.tree.map(lambda value: value * 1.5, state.params)
    validation.save(paths[1], 5, state._replace(params=other), frozen)
    np.testing.assert_array_equal(np.asarray(Image.open(paths[1])), pixels)
    validation.save(paths[2], 5, state._replace(ema=other), frozen)
    changed = np.split(np.asarray(Image.open(paths[2])), 3, axis=1)
    np.testing.assert_array_equal(changed[0], columns[0])
    assert (changed[2] != columns[2]).mean() > 0.1


@pytest.mark.slow
def test_sharded_weights_give_the_same_images(config, base, tmp_path, monkeypatch):
    pictures = []
    # Otherwise the small networks' layers are not split.
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 256)
    for shape in ((1, 1, 1), (1, 2, 2), (2, 2, 2)):
        frozen = "replicated" if shape == (1, 1, 1) else "sharded"
        made = dataclasses.replace(config, mesh=MeshConfig(frozen=frozen))
        mesh = training_mesh(shape, jax.devices()[: int(np.prod(shape))])
        weights = Frozen(base, made, mesh).params
        state = init_state(config.optimizer, trainables(base))
        state = jax.device_put(state, state_sharding(state, mesh))
        if frozen == "sharded":
            for group in (state.ema, weights["unet"]):
                axes = {axis for value in group.values() for axis in value.sharding.spec}
                assert axes >= {"fsdp", "tensor"}
        path = tmp_path / f"{len(pictures)}.png"
        images_of(made, base).save(path, 5, state, weights)
        pictures.append(np.asarray(Image.open(path)).astype(int))
    assert pictures[0][:, 2 * SIZE[1] :].std() > 5
    for picture in pictures[1:]:
        # A level of 8 bits, where rounding crosses a half.
        assert np.abs(picture - pictures[0]).max() <= 1


def trainables(base):
    """Trainables of unit gain, as numbers."""
    parts = {name: draw_params(base.networks.of(name), 4) for name in INSTANTID}
    adapter = component_shapes("ip_adapter", base.networks.unet)
    parts["ip_adapter"] = {n: v for n, v in parts["ip_adapter"].items() if n in adapter}
    return join_parts(parts)


def test_captions_are_literal_and_truncated(config, base):
    """As in training."""
    asked = []

    class Pipe:
        def run(self, requests):
            asked.extend(requests)
            return Result([np.zeros((*SIZE, 3), np.uint8)], np.zeros(1), [0])

    validation = images_of(config, base)
    example = validation._examples[0]
    for caption in ("(a:1.2) [b|c] AND d", "abcde " * 20):
        validation._generate(Pipe(), {**example, "caption": caption})
    assert [request.prompt_weighting for request in asked] == [False, False]
    assert asked[0].prompt == "(a:1.2) [b|c] AND d"
    tokenizer = base.tokenizers[0]
    kept = asked[1].prompt
    assert len(tokenizer.tokens(kept)) == 75
    np.testing.assert_array_equal(tokenizer([kept]), tokenizer(["abcde " * 20]))


@pytest.mark.slow
def test_sampling_layout_does_not_affect_training_weights(config, base, tmp_path, monkeypatch):
    # Simulates a GPU's layout, with which the CPU computes as well.
    def turned(axes, platform, sharding):
        return Format(placement.GPU_CONVOLUTION, sharding) if axes == 4 else sharding

    monkeypatch.setattr(placement, "weight_format", turned)
    frozen = Frozen(base, config, training_mesh((1, 1, 1), jax.devices()[:1])).params
    init = jax.jit(lambda unet: init_trainables(base.networks, unet, jax.random.key(0)))
    state = init_state(config.optimizer, init(frozen["unet"]))
    images_of(config, base).save(tmp_path / "a.png", 5, state, frozen)
    assert (tmp_path / "a.png").is_file()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, state)))


@pytest.mark.slow
def test_nonfinite_images_are_skipped_with_a_warning(config, base, tmp_path, caplog):
    mesh = training_mesh((1, 1, 1), jax.devices()[:1])
    frozen = Frozen(base, config, mesh).params
    params = init_trainables_nan(base, frozen)
    state = init_state(dataclasses.replace(config.optimizer, ema_decay=None), params)
    path = tmp_path / "a.png"
    assert images_of(config, base).save(path, 7, state, frozen) == {}
    assert "no validation images at step 7" in caplog.text
    assert not path.exists()


class Brightness:
    """A judge of several columns: the image's brightness, plus 100 times its example's number."""

    def __init__(self, name, columns):
        self.name, self.columns = name, columns

    def score(self, images, numbers):
        rows = [np.mean(image) + 100 * n for image, n in zip(images, numbers, strict=True)]
        return np.tile(np.array(rows, np.float32)[:, None], self.columns)

    def summarized(self, scores):
        assert scores.shape == (2, self.columns)
        return {f"{self.name}_{i}": float(each) for i, each in enumerate(scores[:, 0])}


def test_judges_score_the_same_images(config, base, tmp_path, monkeypatch):
    judges = [Brightness("one", 2), Brightness("two", 1)]
    validation = ValidationImages(config, base, records_of(config, base).shown, judges)
    monkeypatch.setattr(images, "InstantIDPipeline", lambda *_, **__: None)
    monkeypatch.setattr(validation, "_weights", lambda *_: {})
    monkeypatch.setattr(validation, "_model", lambda _: None)
    made = iter([np.full((*SIZE, 3), brightness, np.uint8) for brightness in (7, 9)])
    monkeypatch.setattr(validation, "_generate", lambda *_: next(made))
    state = TrainState(0, {}, (), {})
    numbers = validation.save(tmp_path / "a.png", 1, state, {})
    assert numbers == {"one_0": 7, "one_1": 109, "two_0": 7, "two_1": 109}


def init_trainables_nan(base, frozen):
    shapes = jax.eval_shape(
        lambda unet: init_trainables(base.networks, unet, jax.random.key(0)), frozen["unet"]
    )
    return {name: np.full(value.shape, np.nan, np.float32) for name, value in shapes.items()}


def test_rejects_too_few_records(config, base):
    validation = dataclasses.replace(config.validation, records=65)
    with pytest.raises(InputError, match="has 64 usable records, but validation needs 65"):
        records_of(dataclasses.replace(config, validation=validation), base)
