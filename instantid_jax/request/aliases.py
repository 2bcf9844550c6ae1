"""Argument names of other pipelines: what takes their place here, or that nothing does."""

import difflib
from collections.abc import Iterable, Sequence

from instantid_jax.errors import InputError

# Arguments of diffusers', the official and other InstantID pipelines that have another name here.
ALIASES = {
    "adapter_strength_ratio": "ip_adapter_scale",
    "cfg_scale": "guidance_scale",
    "conditioning_scale": "controlnet_conditioning_scale",
    "face_emb": "image_embeds",
    "face_embedding": "image_embeds",
    "face_image": "face",
    "face_kps": "kps",
    "generator": "seed",
    "identitynet_strength_ratio": "controlnet_conditioning_scale",
    "image_kps": "pose",
    "ip_adapter_image": "face",
    "ip_adapter_image_embeds": "image_embeds",
    "keypoints": "kps",
    "num_images": "num_images_per_prompt",
    "num_steps": "num_inference_steps",
    "pose_image": "pose",
    "sampler": "scheduler",
    "steps": "num_inference_steps",
}
# Arguments of diffusers' SDXL pipelines that have no counterpart, and what to do without them.
UNSUPPORTED = {
    "callback": "is deprecated in diffusers: use callback_on_step_end",
    "callback_steps": "is deprecated in diffusers: use callback_on_step_end",
    "cross_attention_kwargs": "is not supported; ip_adapter_scale sets the adapter's strength",
    "masked_image_latents": "is not supported: give image and mask_image",
    "return_dict": "is not supported: the result has images, latents and seeds",
}


def refuse_unknown(unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raises an InputError for the first name of `unknown`; it suggests only names that exist."""
    for name in unknown:
        if name in UNSUPPORTED:
            raise InputError(f"{name} {UNSUPPORTED[name]}")
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        nearest = ALIASES.get(name) or (near[0] if near else None)
        hint = f"did you mean {nearest}?" if nearest else f"expected one of {', '.join(known)}"
        raise InputError(f"unknown argument {name}: {hint}")
