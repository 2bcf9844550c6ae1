"""`instantid warmup`: compiles beforehand what `generate` will run."""

import dataclasses
import sys
import time

import numpy as np

from instantid_jax.chunks import MOST
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.request import Request, Settings
from instantid_jax.request.checks import check_whole


def warmup(
    sizes: tuple[tuple[int, int], ...],
    num_images_per_prompt: tuple[int, ...] = (1,),
    chunks: tuple[int, ...] = (1,),
    scheduler: str | None = None,
    no_guidance: bool = False,
    clip_skip: int | None = None,
    eta: float = 0.0,
    weights: Weights = Weights(),
) -> None:
    """Fills the cache of compiled programs for images of these kinds.

    Samples each for one step, and one of the refiner if there is one, with nobody's face. Prompts
    of as many chunks, faces, strengths, seeds and numbers of steps need no programs of their own.

    Args:
      sizes: heights and widths, in pixels.
      num_images_per_prompt: how many images at a time.
      chunks: chunks of 75 tokens in the longest prompt, 1 to 4.
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
        (
            size,
            check_whole("chunks", count, 1, MOST),
            dataclasses.replace(common, height=size[0], width=size[1], num_images_per_prompt=n),
        )
        for size in sizes
        for n in num_images_per_prompt
        for count in chunks
    ]
    if not kinds:
        raise InputError("no sizes: give heights and widths, --sizes 1024 1024 1024 768")
    pipe = weights.load()
    networks = pipe.model.networks
    nobody = np.zeros(networks.image_proj.config.embedding_dim, np.float32)
    for (height, width), chunk_count, kind in kinds:
        if pipe.model.refiner is not None:
            # A step of the base networks, and one of the refiner.
            kind = dataclasses.replace(kind, num_inference_steps=2, denoising_end=0.5)
        image = np.zeros((height, width, 3), np.uint8)
        control_images = (image,) * (len(networks.controlnets) - 1)
        start = time.perf_counter()
        pipe.run(
            [
                Request(
                    " BREAK ".join(["a"] * chunk_count),
                    image_embeds=nobody,
                    kps_image=image,
                    control_images=control_images,
                    **kind.values(),
                )
            ]
        )
        seconds = time.perf_counter() - start
        count = kind.num_images_per_prompt
        what = "an image" if count == 1 else f"{count} images at a time"
        what += "" if chunk_count == 1 else f", {chunk_count} chunks"
        print(f"{height} x {width}, {what}: {seconds:.1f} s", file=sys.stdout)
