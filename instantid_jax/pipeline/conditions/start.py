"""The start of sampling: unit noise, and images that are changed or partly kept."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from instantid_jax.diffusion.sampler import Levels, SamplerBatch
from instantid_jax.errors import InputError
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.conditions.view import View
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.tiling import LATENT, map_tiles
from instantid_jax.request.request import Request

# As in the official image-to-image pipeline, and in diffusers' for inpainting.
STRENGTH, STRENGTH_WITH_MASK = 0.8, 0.9999


@dataclasses.dataclass(frozen=True, eq=False)
class KeptInputs:
    """The parts of B images that masks keep.

    Attributes:
      levels: the shares of image and noise that latents outside the mask have after each step,
        [T, B] float32.
      released: [T, B] float32, the least value of masks at which a latent is free after each step.
    """

    levels: Levels
    released: np.ndarray

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those of step `i`, as a step takes them."""
        return self.levels.signal[i], self.levels.noise[i], self.released[i]


@dataclasses.dataclass(frozen=True, eq=False)
class StartInputs:
    """The start of R requests, of B images.

    Attributes:
      noise: [B, H, W, C] float32 that was given; None where the seeds draw it.
      images: [R, 8H, 8W, 3] uint8, black for requests without one; None if none has one.
      masks: [R, H, W, 1] float32, 1 where a latent is released at once; None if none has one.
      masked: [R, 8H, 8W, 3] in [-1, 1], the images without what is painted over, for a UNet that
        takes them; else None.
      first: the shares of image and noise that each image begins with, [B] float32.
      kept: what the masks keep at each step.
    """

    noise: np.ndarray | None
    images: np.ndarray | None
    masks: np.ndarray | None
    masked: np.ndarray | None
    first: Levels
    kept: KeptInputs


def strength_of(request: Request) -> float | None:
    """The share of the steps to take; None takes all, or is that of `denoising_start`."""
    if request.image is None or request.strength is not None:
        return request.strength
    if request.denoising_start is not None:
        return None
    return STRENGTH if request.mask_image is None else STRENGTH_WITH_MASK


def resolve_start(
    requests: Sequence[Request],
    views: Sequence[View | None],
    samplers: SamplerBatch,
    lengths: Sequence[int],
    shape: tuple[int, int, int],
    takes_mask: bool,
) -> StartInputs:
    """Cuts images and masks out, and finds the noise levels.

    Args:
      requests: of equally many images each.
      lengths: steps of each request, with those of the refiner.
      shape: (H, W, C) of an image's latents.
      takes_mask: whether the UNet is one for inpainting.
    """
    size = (8 * shape[0], 8 * shape[1])
    repeats = requests[0].num_images_per_prompt
    images = masks = masked = None
    if takes_mask or any(view is not None for view in views):
        black = np.zeros((*size, 3), np.uint8)
        images = np.stack([black if v is None else v.cut(v.image, size) for v in views])
    given = [None if view is None else view.sampling_mask(size) for view in views]
    if takes_mask:
        nothing = np.zeros((*size, 3), np.float32)
        masked = np.stack([nothing if view is None else view.masked(size) for view in views])
    if takes_mask or any(mask is not None for mask in given):
        free = np.ones(shape[:2], np.float32)
        masks = np.stack([free if mask is None else mask for mask in given])[..., None]
    # As in diffusers, a masked image is not in the noise of a whole run, any other is. Latents to
    # continue with take the place of noise, and an image that is one gets no noise.
    pure = [
        request.latents is not None
        if request.denoising_start is not None
        else view is None or (mask is not None and strength_of(request) == 1)
        for request, view, mask in zip(requests, views, given, strict=True)
    ]
    from_noise = np.repeat(pure, repeats)
    begun = np.repeat([request.denoising_start is not None for request in requests], repeats)
    signal, deviation = (level[0] for level in samplers.levels)
    first = Levels(
        np.where(from_noise, 0, np.where(begun, 1, signal)).astype(np.float32),
        np.where(from_noise, samplers.init_noise_sigma, np.where(begun, 0, deviation)),
    )
    kept = resolve_kept(samplers, np.zeros(len(from_noise)), np.repeat(lengths, repeats))
    noise = resolve_noise(requests, shape)
    return StartInputs(noise, images, masks, masked, first, kept)


def resolve_kept(samplers: SamplerBatch, before: np.ndarray, lengths: np.ndarray) -> KeptInputs:
    """Finds what masks keep of B images at each step.

    Args:
      before: [B], how many steps each has taken before.
      lengths: [B], how many it takes in all.
    """
    steps = np.minimum(before + np.arange(1, len(samplers) + 1)[:, None], lengths)
    return KeptInputs(
        Levels(samplers.levels.signal[1:], samplers.levels.noise[1:]),
        (1 - steps / lengths).astype(np.float32),
    )


def encode_images(model: LoadedModel, images: np.ndarray) -> np.ndarray:
    """Images [R, 8H, 8W, 3] to latents [R, H, W, C] float32: means of the VAE's posterior.

    images: uint8, or float32 in [-1, 1].
    """
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 127.5 - 1

    def run(image: np.ndarray) -> np.ndarray:
        return jax.device_get(programs.encode_image(model.networks.vae, model.params["vae"], image))

    with model.resident("vae"), model.on_devices(model.vae_dtype):
        tile = model.vae_tile((images.shape[1], images.shape[2]))
        # One at a time: encoding takes more memory than sampling.
        each = (images[i : i + 1] for i in range(len(images)))
        # A blend of scaled means is the scaled mean of blended moments.
        return np.concatenate(
            [
                run(image) if tile is None else map_tiles(run, image, tile // LATENT, (LATENT, 1))
                for image in each
            ]
        )


def resolve_noise(requests: Sequence[Request], shape: tuple[int, int, int]) -> np.ndarray | None:
    """Given noise [images, H, W, C] float32; None where the seeds draw it.

    Args:
      shape: (H, W, C) of an image's latents.
    """
    given = [request.latents for request in requests if request.latents is not None]
    if not given:
        return None
    if len(given) < len(requests):
        raise InputError("some requests of a batch give latents, others none: run them separately")
    for request, latents in zip(requests, given, strict=True):
        expected = (request.num_images_per_prompt, *shape)
        if latents.shape != expected:
            raise InputError(
                f"latents have shape {list(latents.shape)}: expected {list(expected)}, "
                "unit-variance noise with channels last"
            )
    return np.concatenate(given)
