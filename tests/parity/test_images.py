"""Image to image and inpainting against diffusers' pipelines, with the same noise.

InstantID's parts are put into diffusers' SDXL ControlNet pipelines: the UNet and IdentityNet get
the ID tokens that these pipelines do not know.
"""

import contextlib
import sys
import types
import unittest.mock

import jax
import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
)
from PIL import Image

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pipeline.stages import INITIAL
from tests.parity.reference import (
    BrownianMotion,
    InstantIDReference,
    make_scheduler,
    nchw,
    nhwc,
    relative_error,
)
from tests.parity.test_end_to_end import KPS, TORCH_SCHEDULERS

# diffusers calls np.array(tensor); torch 2.13's __array__ does not know NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (64, 96)
SEED = 5
STEPS = 6
TOLERANCE = 1e-4
SAMPLERS = ("euler", "ddim", "dpmpp_2m_karras", "unipc", "euler_ancestral", "tcd", "lcm")
CASES = [
    pytest.param(
        name,
        strength,
        marks=[]
        if (name, strength) in (("euler", 0.7), ("dpmpp_2m_karras", 0.35))
        else [pytest.mark.slow],
    )
    for name in SAMPLERS
    for strength in (0.35, 0.7, 1.0)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def reference(folder):
    reference = InstantIDReference(folder, seed=11)
    reference.save(folder)
    return reference


@pytest.fixture(scope="module")
def of_nine_channels(tmp_path_factory):
    """A model whose UNet takes nine channels."""
    folder = tmp_path_factory.mktemp("inpainting")
    reference = InstantIDReference(folder, seed=13, unet={"in_channels": 9})
    reference.save(folder)
    sources = {"sdxl": str(folder / "sdxl"), "instantid": str(folder / "instantid")}
    return reference, InstantIDPipeline.load(**sources)


@pytest.fixture(scope="module")
def pipe(folder, reference):
    return InstantIDPipeline.load(sdxl=str(folder / "sdxl"), instantid=str(folder / "instantid"))


def face():
    embedding = np.random.default_rng(1).standard_normal(512).astype(np.float32)
    return Face(embedding=embedding, kps=KPS, image_size=SIZE)


def picture():
    """A smooth image, [H, W, 3] uint8."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 10
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)
    return np.round(127.5 + 100 * waves).astype(np.uint8)


def mask():
    levels = np.zeros(SIZE, np.uint8)
    levels[20:50, 17:66] = 255
    return levels


def noise(step):
    """Our noise of a step, as torch's [1, C, H, W]."""
    key = jax.random.fold_in(jax.random.key(SEED), step)
    return nchw(np.asarray(jax.random.normal(key, (1, SIZE[0] // 8, SIZE[1] // 8, 4))))


@contextlib.contextmanager
def with_id_tokens(reference, tokens):
    """The UNet sees the tokens after the text, IdentityNet instead of it."""
    unet, (net,) = reference.unet, reference.controlnets

    def forward(module, change):
        original = type(module).forward

        def changed(self, *args, encoder_hidden_states, **kwargs):
            rows = tokens[-len(encoder_hidden_states) :]
            hidden = change(encoder_hidden_states, rows)
            return original(self, *args, encoder_hidden_states=hidden, **kwargs)

        return unittest.mock.patch.object(module, "forward", types.MethodType(changed, module))

    with (
        forward(unet, lambda text, rows: torch.cat([text, rows], dim=1)),
        forward(net, lambda text, rows: rows),
    ):
        yield


@torch.no_grad()
def run_torch(reference, kind, scheduler, *, strength, guidance=4.0, **arguments):
    """[1, H, W, C] latents of diffusers' pipeline."""
    pipeline = kind(
        vae=reference.vae,
        text_encoder=reference.text_encoder,
        text_encoder_2=reference.text_encoder_2,
        tokenizer=reference.tokenizer,
        tokenizer_2=reference.tokenizer_2,
        unet=reference.unet,
        controlnet=reference.controlnets[0],
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    reference.id_adapter.set_scale(0.7)
    someone = np.stack([np.zeros(512, np.float32), face().embedding])
    tokens = reference.id_tokens(someone)
    steps = iter(range(100))
    drawn = lambda *_, **__: noise(next(steps))  # noqa: E731
    motion = BrownianMotion(drawn)
    stand_ins = {"randn_tensor": drawn, "BrownianTreeNoiseSampler": lambda *_: motion}
    # Ours takes the mean of the posterior.
    start = {
        "randn_tensor": lambda *_, **__: noise(INITIAL),
        "retrieve_latents": lambda encoded, **_: encoded.latent_dist.mode(),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(with_id_tokens(reference, tokens))
        for module, changes in ((type(scheduler), stand_ins), (kind, start)):
            for name, stand_in in changes.items():
                if hasattr(sys.modules[module.__module__], name):
                    stack.enter_context(
                        unittest.mock.patch.object(sys.modules[module.__module__], name, stand_in)
                    )
        made = pipeline(
            prompt="a man in the rain",
            image=Image.fromarray(picture()),
            control_image=Image.fromarray(draw_keypoints(*SIZE, KPS)),
            strength=strength,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            controlnet_conditioning_scale=0.6,
            height=SIZE[0],
            width=SIZE[1],
            output_type="latent",
            **arguments,
        ).images
    return nhwc(made)


def run_ours(pipe, **arguments):
    return pipe(
        "a man in the rain",
        face=face(),
        pose=face(),
        image=picture(),
        num_inference_steps=STEPS,
        guidance_scale=arguments.pop("guidance", 4.0),
        ip_adapter_scale=0.7,
        controlnet_conditioning_scale=0.6,
        seed=SEED,
        output_type="latent",
        progress=False,
        **arguments,
    ).latents


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_image_to_image(name, strength, reference, pipe):
    class_name, settings = TORCH_SCHEDULERS[name]
    theirs = run_torch(
        reference,
        StableDiffusionXLControlNetImg2ImgPipeline,
        make_scheduler(class_name, **settings),
        strength=strength,
    )
    ours = run_ours(pipe, strength=strength, scheduler=name)
    assert relative_error(ours, theirs) < TOLERANCE


def check_inpainting(name, strength, reference, pipe):
    class_name, settings = TORCH_SCHEDULERS[name]
    theirs = run_torch(
        reference,
        StableDiffusionXLControlNetInpaintPipeline,
        make_scheduler(class_name, **settings),
        strength=strength,
        mask_image=Image.fromarray(mask()),
    )
    ours = run_ours(pipe, strength=strength, scheduler=name, mask_image=mask())
    assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_inpainting(name, strength, reference, pipe):
    check_inpainting(name, strength, reference, pipe)


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_inpainting_with_nine_channels(name, strength, of_nine_channels):
    check_inpainting(name, strength, *of_nine_channels)
