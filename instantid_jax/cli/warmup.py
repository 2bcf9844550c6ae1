"""`instantid warmup`: what `generate` will compile, compiled beforehand."""

import sys
import time

import numpy as np

from instantid_jax.cli.generate import Weights
from instantid_jax.diffusion.names import SamplerName
from instantid_jax.errors import InputError
from instantid_jax.pipeline import inputs


def warmup(
    sizes: tuple[tuple[int, int], ...],
    num_images_per_prompt: tuple[int, ...] = (1,),
    scheduler: SamplerName | None = None,
    guidance: bool = True,
    clip_skip: int | None = None,
    eta: float = 0.0,
    weights: Weights = Weights(),  # noqa: B008
) -> None:
    """Fills the cache of compiled programs for pictures of these kinds.

    Each is sampled for one step, with nobody's face. Prompts, faces, strengths, seeds and numbers
    of steps need no programs of their own.

    Args:
      sizes: heights and widths, in pixels.
      num_images_per_prompt: how many pictures at a time.
      scheduler: None is the checkpoint's own.
      guidance: whether --guidance-scale will be above 1.
      clip_skip: as --clip-skip will be.
      eta: as --eta will be; all above 0 are alike.
    """
    for height, width in sizes:
        inputs.check_size(height, width)
    for count in num_images_per_prompt:
        inputs.check_whole("num_images_per_prompt", count, 1, 1024)
    if not sizes or not num_images_per_prompt:
        raise InputError("no sizes are named: give heights and widths, --sizes 1024 1024 1024 768")
    pipe = weights.load()
    networks = pipe.model.networks
    for height, width in sizes:
        picture = np.zeros((height, width, 3), np.uint8)
        for count in num_images_per_prompt:
            start = time.perf_counter()
            pipe(
                "",
                # No layer of it is left out, which is a program of its own under --clip-skip.
                negative_prompt="",
                image_embeds=np.zeros(networks.image_proj.config.embedding_dim),
                image=picture,
                control_images=[picture] * (len(networks.controlnets) - 1),
                height=height,
                width=width,
                num_images_per_prompt=count,
                num_inference_steps=1,
                scheduler=scheduler,
                guidance_scale=5.0 if guidance else 1.0,
                clip_skip=clip_skip,
                eta=eta,
            )
            seconds = time.perf_counter() - start
            at_once = "a picture" if count == 1 else f"{count} pictures at a time"
            print(f"{height} x {width}, {at_once}: {seconds:.1f} s", file=sys.stdout)
