"""One pipeline at a time, whose LoRAs change without loading it again."""

import dataclasses
import weakref

import pytest

from comfyui import pipelines
from comfyui.pipelines import Weights, pipeline_of
from instantid_jax import InputError, InstantIDPipeline
from instantid_jax.pipeline.sources import Sources


class Pipeline:
    """Knows its sources, as InstantIDPipeline does."""

    def __init__(self, *, dtype, vae_dtype, offload, **sources):
        self.sources = Sources(**sources)
        self.set = []

    def set_loras(self, loras):
        self.set.append(loras)
        self.sources = dataclasses.replace(self.sources, loras=loras)


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """Pipelines in the order in which they were loaded."""
    made = []

    def load(**arguments):
        pipe = Pipeline(**arguments)
        made.append(weakref.ref(pipe))
        return pipe

    monkeypatch.setattr(InstantIDPipeline, "load", load)
    monkeypatch.setattr(pipelines, "_loaded", {})
    return made


def weights(sdxl="a/b", loras=(), **others) -> Weights:
    return Weights(Sources(sdxl=sdxl, instantid="c/d", loras=loras), **others)


def test_the_same_weights_are_loaded_once(loaded):
    assert pipeline_of(weights()) is pipeline_of(weights())
    assert len(loaded) == 1


def test_other_weights_replace_them_and_free_their_memory(loaded):
    pipeline_of(weights())
    pipeline_of(weights("e/f"))
    assert loaded[0]() is None and loaded[1]() is not None
    pipeline_of(weights("e/f", dtype="float16"))
    pipeline_of(weights("e/f", offload=True))
    assert [reference() is None for reference in loaded] == [True, True, True, False]


def test_loras_change_without_loading(loaded):
    one, other = ("x/y:0.5",), ("x/y:0.8", "z/w")
    pipe = pipeline_of(weights(loras=one))
    pipeline_of(weights(loras=one))
    pipeline_of(weights(loras=other))
    pipeline_of(weights())
    assert pipe.set == [other, ()] and len(loaded) == 1


def test_a_lora_that_fails_is_tried_again(loaded, monkeypatch):
    pipe = pipeline_of(weights())

    def refuse(loras):
        raise InputError("no such file")

    monkeypatch.setattr(pipe, "set_loras", refuse)
    for _ in range(2):
        with pytest.raises(InputError, match="no such file"):
            pipeline_of(weights(loras=("x/y",)))
    assert pipeline_of(weights()) is pipe
