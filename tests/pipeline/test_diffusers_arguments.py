"""Every argument of diffusers' SDXL pipelines is taken, has another name here, or is refused."""

import inspect
import re

import diffusers
import pytest

from instantid_jax import InstantIDPipeline
from instantid_jax.errors import InputError
from instantid_jax.request.aliases import ALIASES, UNSUPPORTED
from instantid_jax.request.split import split

PIPELINES = (
    diffusers.StableDiffusionXLPipeline,
    diffusers.StableDiffusionXLImg2ImgPipeline,
    diffusers.StableDiffusionXLInpaintPipeline,
    diffusers.StableDiffusionXLControlNetPipeline,
    diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
    diffusers.StableDiffusionXLControlNetInpaintPipeline,
    diffusers.StableDiffusionXLPAGPipeline,
    diffusers.StableDiffusionXLPAGImg2ImgPipeline,
    diffusers.StableDiffusionXLPAGInpaintPipeline,
    diffusers.StableDiffusionXLControlNetPAGPipeline,
    diffusers.StableDiffusionXLControlNetPAGImg2ImgPipeline,
)
TAKEN = tuple(inspect.signature(InstantIDPipeline.__call__).parameters)[1:]
THEIRS = sorted(
    {
        name
        for pipeline in PIPELINES
        for name, parameter in inspect.signature(pipeline.__call__).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
)


@pytest.mark.parametrize("name", THEIRS)
def test_argument_is_taken_or_refused_by_name(name):
    known = [name in TAKEN, name in ALIASES, name in UNSUPPORTED]
    assert sum(known) == 1, f"{name}: taken, aliased, unsupported are {known}"
    if name in TAKEN:
        return
    with pytest.raises(InputError) as error:
        split({name: None})
    line = str(error.value)
    suggested = re.findall(r"did you mean (\w+)\?", line)
    if name in ALIASES:
        assert suggested == [ALIASES[name]]
    else:
        assert line.startswith(f"{name} ") and not suggested


def test_what_is_suggested_exists():
    assert set(ALIASES.values()) <= set(TAKEN)
    assert not (set(ALIASES) | set(UNSUPPORTED)) & set(TAKEN)
