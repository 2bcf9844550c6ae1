"""The Image Adapter's strength: in each block of the UNet, at each step."""

import dataclasses

import diffusers
import numpy as np
import pytest
from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales

from instantid_jax import InputError
from instantid_jax.models.unet import UNetConfig
from instantid_jax.pipeline.conditions.adapter import transformer_scales
from instantid_jax.pipeline.observer import Observer
from instantid_jax.request import Settings
from tests.pipeline.small_model import person
from tests.pipeline.test_compilation import compiled_by

__all__ = ["compiled_by"]

STYLE = {"up": {"block_0": [0.0, 1.0, 0.0]}}
BLOCKS = {
    "style": STYLE,
    "style and layout": {"down": {"block_2": [0.0, 1.0]}} | STYLE,
    "one number a part": {"down": 0.1, "mid": 0.2, "up": 0.3},
    "lists for every block": {"down": [0.1, 0.2], "mid": [0.3], "up": [0.4, 0.5, 0.6]},
    "one-element lists": {"down": [0.1], "up": {"block_1": [0.2]}},
    "middle": {"mid": 0.7},
}


@pytest.fixture(scope="module")
def theirs() -> diffusers.UNet2DConditionModel:
    """SDXL's blocks, narrow."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=8,
        norm_num_groups=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_are_expanded_as_by_diffusers(theirs, case):
    config = UNetConfig.from_json(dict(theirs.config))
    given = Settings(ip_adapter_scale=BLOCKS[case]).ip_adapter_scale
    ours = transformer_scales(config, given)
    (expanded,) = _maybe_expand_lora_scales(theirs, [BLOCKS[case]], default_scale=0.0)
    # The transformers, in the order of `UNetConfig.transformers`.
    names = []
    for name, count in config.transformers.items():
        part, _, block = name.partition(".")
        path = f"{part}_block" if part == "mid" else f"{part}_blocks.{block.removeprefix('block_')}"
        names += [f"{path}.attentions.{i}" for i in range(count)]
    assert dict(zip(names, ours, strict=True)) == expanded
    cross = {name.split(".transformer_blocks")[0] for name in theirs.attn_processors}
    assert cross == set(names)


def test_a_number_is_that_of_every_block(sample):
    each = {"down": 0.4, "mid": 0.4, "up": 0.4}
    plain = sample(ip_adapter_scale=0.4).latents
    np.testing.assert_array_equal(sample(ip_adapter_scale=each).latents, plain)
    assert np.abs(sample(ip_adapter_scale={"up": 0.4}).latents - plain).max() > 1e-4


def test_every_block_counts_by_itself(sample):
    parts = [{"down": {"block_1": 1}}, {"mid": 1}]
    parts += [{"up": {"block_0": [1, 0]}}, {"up": {"block_0": [0, 1]}}]
    latents = [sample(ip_adapter_scale=part).latents for part in [0, *parts]]
    assert all(np.abs(a - b).max() > 1e-5 for i, a in enumerate(latents) for b in latents[:i])


def test_a_batch_mixes_blocks(pipe, sample):
    people = {"prompt": ["rain"] * 2, "face": person(0)}
    alone = [sample(**people, ip_adapter_scale=scale) for scale in (0.5, {"up": 1})]
    requests = [each.provenance[0].request for each in alone]
    mixed = pipe.run(requests, output_type="latent").latents
    for i, each in enumerate(alone):
        np.testing.assert_array_equal(mixed[i], each.latents[i])


ENDS = {"whole": 1.0, "two steps": 0.5, "one step": 0.49}


@pytest.mark.parametrize("window", [{"ip_adapter_start": 0.99}, {"ip_adapter_end": 0.3}])
def test_outside_its_window_the_adapter_counts_nothing(sample, window):
    np.testing.assert_array_equal(sample(**window).latents, sample(ip_adapter_scale=0).latents)


def test_windows_are_those_of_controlnets(sample):
    """Step i of T counts if start <= i/T and (i+1)/T <= end."""

    class Record(Observer):
        def __init__(self):
            self.latents = []

        def on_step(self, step):
            self.latents.append(step.latents)

    latents = {}
    for name, end in ENDS.items():
        sample(num_inference_steps=4, ip_adapter_end=end, observer=(record := Record()))
        latents[name] = record.latents
    same = [
        sum(np.array_equal(a, b) for a, b in zip(latents[name], latents["whole"], strict=True))
        for name in ("two steps", "one step")
    ]
    assert same == [2, 1]


def test_a_batch_mixes_windows(pipe, sample):
    both = {"prompt": ["rain"] * 2, "face": person(0), "num_images_per_prompt": 2}
    plain = sample(**both)
    changes = [{}, {"ip_adapter_end": 0.5, "num_inference_steps": 2}]
    requests = [
        dataclasses.replace(each.request, **change)
        for each, change in zip(plain.provenance[::2], changes, strict=True)
    ]
    mixed = pipe.run(requests, output_type="latent").latents
    np.testing.assert_array_equal(mixed[:2], plain.latents[:2])
    assert np.abs(mixed[2:] - plain.latents[2:]).max() > 1e-3


def test_strengths_compile_nothing(sample, compiled_by):
    sample()
    for scale in (0.3, {"mid": 1}, {"up": {"block_0": [0, 1]}}):
        assert compiled_by(sample, ip_adapter_scale=scale) == []


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"down": {"block_0": 1}}, "names down.block_0, which has no attention: expected down.blo"),
        ({"up": {"block_7": 1}}, "names up.block_7, which has no attention"),
        ({"up": {"block_0": [1, 2, 3]}}, "has 3 strengths for up.block_0, which has 2 transf"),
        ({"mid": [1, 2]}, "has 2 strengths for mid, which has 1 transformers"),
    ],
)
def test_blocks_that_the_unet_does_not_have_are_refused(sample, scale, message):
    with pytest.raises(InputError, match=message) as error:
        sample(ip_adapter_scale=scale)
    assert "\n" not in str(error.value)
