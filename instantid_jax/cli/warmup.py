"""`instantid warmup`: compiles beforehand what `generate` will run."""

import dataclasses
import sys
import time

import numpy as np

from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.request import Request, Settings


def warmup(
    sizes: tuple[tuple[int, int], ...],
    num_images_per_prompt: tuple[int, ...] = (1,),
    scheduler: str | None = None,
    no_guidance: bool = False,
    clip_skip: int | None = None,
    eta: float = 0.0,
    weights: Weights = Weights(),
) -> None:
    """Fills the cache of compiled programs for images of these kinds.

    Samples each for one step, with nobody's face. Prompts, faces, strengths, seeds and numbers of
    steps need no programs of their own.

    Args:
      sizes: heights and widths, in pixels.
      num_images_per_prompt: how many images at a time.
      scheduler: None is the checkpoint's own.
      no_guidance: compile for a --guidance-scale of 1, which computes half as much.
      clip_skip: as --clip-skip will be.
      eta: as --eta will be; all above 0 are alike.
    """
    common = Settings(
        # A negative prompt: no layer of it is left out, which is a program under --clip-skip.
        negative_prompt="",
        num_inference_steps=1,
        scheduler=scheduler,
        guidance_scale=1.0 if no_guidance else None,
        clip_skip=clip_skip,
        eta=eta,
    )
    kinds = [
        (size, dataclasses.replace(common, height=size[0], width=size[1], num_images_per_prompt=n))
        for size in sizes
        for n in num_images_per_prompt
    ]
    if not kinds:
        raise InputError("no sizes: give heights and widths, --sizes 1024 1024 1024 768")
    pipe = weights.load()
    networks = pipe.model.networks
    nobody = np.zeros(networks.image_proj.config.embedding_dim, np.float32)
    for (height, width), kind in kinds:
        image = np.zeros((height, width, 3), np.uint8)
        control_images = (image,) * (len(networks.controlnets) - 1)
        start = time.perf_counter()
        pipe.run(
            [
                Request(
                    "",
                    image_embeds=nobody,
                    kps_image=image,
                    control_images=control_images,
                    **kind.values(),
                )
            ]
        )
        seconds = time.perf_counter() - start
        count = kind.num_images_per_prompt
        at_once = "an image" if count == 1 else f"{count} images at a time"
        print(f"{height} x {width}, {at_once}: {seconds:.1f} s", file=sys.stdout)
