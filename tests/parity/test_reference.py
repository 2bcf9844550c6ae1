"""The PyTorch reference against diffusers' own pipelines and loaders, where those reach."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from diffusers.loaders import single_file_utils
from diffusers.models.attention_processor import AttnProcessor2_0

from tests.parity.reference import (
    InstantIDReference,
    make_scheduler,
    nchw,
    nhwc,
    relative_error,
    unit_noise,
)

pytestmark = [
    # diffusers calls np.array(tensor); torch 2.13's __array__ does not know NumPy 2's `copy`.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

PROMPT, NEGATIVE = ["a man in the rain, 12 o'clock", "film"], ["blurry", ""]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    reference = InstantIDReference(folder, further_controlnets=1)
    reference.save(folder / "saved")
    reference.folder = folder / "saved"
    return reference


@pytest.fixture(scope="module")
def pipeline(reference):
    """diffusers' SDXL with one ControlNet, from the saved folder."""
    base = StableDiffusionXLPipeline.from_pretrained(reference.folder / "sdxl")
    pipeline = StableDiffusionXLControlNetPipeline(
        **base.components, controlnet=reference.controlnets[1], add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_saved_folder_loads_in_diffusers_to_the_same_weights(reference, pipeline):
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        theirs = getattr(pipeline, name).state_dict()
        ours = getattr(reference, name).state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("clip_skip", [None, 1])
@torch.no_grad()
def test_prompts_are_encoded_as_by_diffusers(reference, pipeline, negative, clip_skip):
    ours = reference.encode_prompt(PROMPT, negative, prompt_2=PROMPT[::-1], clip_skip=clip_skip)
    theirs = pipeline.encode_prompt(
        PROMPT, PROMPT[::-1], negative_prompt=negative, clip_skip=clip_skip, device="cpu"
    )
    pairs = zip((ours.text, ours.negative_text, ours.pooled, ours.negative_pooled), theirs)  # noqa: B905
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        ("EulerDiscreteScheduler", {}),
        ("DDIMScheduler", {"guess_mode": True}),
        ("EulerAncestralDiscreteScheduler", {"control_guidance_end": 0.5}),
        ("DPMSolverMultistepScheduler", {"guidance_scale": 1.0, "control_guidance_start": 0.25}),
    ],
)
def test_denoising_without_a_person_equals_diffusers_pipeline(
    reference, pipeline, scheduler, settings, monkeypatch
):
    settings = {
        "num_inference_steps": 4,
        "guidance_scale": 4.0,
        "original_size": (640, 480),
        "crops_coords_top_left": (3, 5),
        "target_size": (512, 384),
    } | settings
    noise, image = unit_noise(1, 2, 8, 12, 4), np.abs(unit_noise(2, 2, 64, 96, 3)) % 1
    ours = reference(
        PROMPT,
        unit_noise(3, 2, 512),
        [image, image],
        noise,
        negative_prompt=NEGATIVE,
        scheduler=make_scheduler(scheduler),
        step_noise=lambda i: unit_noise(10 + i, 2, 8, 12, 4),
        ip_adapter_scale=0.0,
        controlnet_conditioning_scale=[0.0, 0.7],
        **settings,
    )
    pipeline.scheduler = make_scheduler(scheduler)
    pipeline.unet.set_attn_processor(AttnProcessor2_0())
    drawn = iter(range(10, 14))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
        lambda *_, **__: nchw(unit_noise(next(drawn), 2, 8, 12, 4)),
    )
    theirs = pipeline(
        PROMPT,
        image=nchw(image),
        negative_prompt=NEGATIVE,
        latents=nchw(noise),
        controlnet_conditioning_scale=0.7,
        output_type="latent",
        **settings,
    ).images
    # The attention of ours is written out, theirs is fused: sums are taken in another order.
    assert relative_error(ours.latents, nhwc(theirs)) < 1e-5
    assert np.isfinite(ours.images).all()


def test_original_layout_is_what_diffusers_converts_back(reference):
    original = reference.original_state()
    converters = {
        "unet": lambda m: single_file_utils.convert_ldm_unet_checkpoint(original, m.config),
        "vae": lambda m: single_file_utils.convert_ldm_vae_checkpoint(original, m.config),
        "text_encoder_2": lambda m: single_file_utils.convert_open_clip_checkpoint(
            m, original, "conditioner.embedders.1.model."
        ),
    }
    for name, convert in converters.items():
        model = getattr(reference, name)
        converted, state = convert(model), model.state_dict()
        assert converted.keys() == state.keys()
        assert all(torch.equal(converted[key], state[key]) for key in state)
