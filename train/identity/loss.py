"""The identity loss: 1 minus the cosine between the predicted face's embedding and the person's.

The noise error is nearly blind to what distinguishes people; this loss measures nothing else.
Source: Peng et al. 2024 (PortraitBooth), which decodes the one-step estimate of the clean image.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from instantid_jax.params import Params
from train.networks import Networks

# Eyes, nose and mouth corners in the recognizer's 112 x 112 input.
# Source: insightface/utils/face_align.py:arcface_dst.
TEMPLATE_SIDE = 112
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    np.float32,
)
# Minimum share of the aligned crop inside the image. A truncated face has another embedding,
# whatever the prediction.
LEAST_INSIDE = 0.9


def identity_losses(
    networks: Networks,
    frozen: dict[str, Params],
    latents: jax.Array,
    kps: jax.Array,
    wanted: jax.Array,
    window: int | None,
) -> jax.Array:
    """1 minus the cosine between the embeddings of the decoded face and the wanted one.

    Args:
      networks: must include a recognizer.
      latents: [B, H, W, C], clean, VAE-scaled.
      kps: [B, 5, 2], the face's keypoints in pixels of the image.
      wanted: [B, E]; zeros for a dropped ID.
      window: side in latents of the square around the face to decode; None decodes all.
    Returns:
      [B] float32; 0 for a dropped ID, and for a face of which too little is inside the image.
    """
    vae = networks.vae.bind(frozen["vae"])
    recognizer = networks.recognizer.bind(frozen["recognizer"])
    side = networks.recognizer.config.side
    if window is not None:
        latents, kps = _face_windows(latents, kps, window, networks.vae.config.downscale)
    images = jnp.clip(vae.decode(latents), -1, 1)
    found = recognizer(aligned_faces(images, kps, side))
    norms = jnp.linalg.norm(found, axis=-1) * jnp.linalg.norm(wanted, axis=-1)
    cosine = (found * wanted).sum(-1) / jnp.where(norms > 0, norms, 1)
    whole = share_inside(kps, images.shape[1:3]) >= LEAST_INSIDE
    return jnp.where((norms > 0) & whole, 1 - cosine, 0)


def share_inside(kps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The share of each face's aligned crop inside an image of `size` (height, width): [B]."""
    x, y = jax.vmap(_from_template, in_axes=(0, None))(kps, _grid(TEMPLATE_SIDE)).swapaxes(0, 1)
    return ((x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1)).mean((1, 2))


def aligned_faces(images: jax.Array, kps: jax.Array, side: int) -> jax.Array:
    """Aligned face crops for a recognizer: [B, side, side, 3], black outside the image.

    Args:
      images: [B, H, W, 3] in [-1, 1].
      kps: [B, 5, 2] pixels.
      side: in pixels, a multiple of 112.
    Source: insightface/utils/face_align.py:norm_crop.
    """
    grid = _grid(side)

    def one(image: jax.Array, kps: jax.Array) -> jax.Array:
        x, y = _from_template(kps, grid)
        return jax.vmap(
            lambda channel: map_coordinates(channel, [y, x], order=1, mode="constant"),
            in_axes=-1,
            out_axes=-1,
        )(image)

    # map_coordinates fills with 0, so black is shifted to 0 and back.
    return jax.vmap(one)(images + 1, kps) - 1


def _grid(side: int) -> jax.Array:
    """A grid of `side` x `side` points over the template: [2, side, side], x and y."""
    at = jnp.arange(side, dtype=jnp.float32) * (TEMPLATE_SIDE / side)
    return jnp.stack(jnp.meshgrid(at, at))


def _face_windows(
    latents: jax.Array, kps: jax.Array, window: int, downscale: int
) -> tuple[jax.Array, jax.Array]:
    """Squares of latents around the faces, shifted inside the image, and the keypoints in them."""
    size = latents.shape[1:3]
    window_size = tuple(min(window, side) for side in size)

    def one(latents: jax.Array, kps: jax.Array) -> tuple[jax.Array, jax.Array]:
        middle = jnp.full((2, 1, 1), (TEMPLATE_SIDE - 1) / 2)
        center = _from_template(kps, middle)[::-1, 0, 0] / downscale
        corner = jnp.round(center - jnp.array(window_size) / 2).astype(jnp.int32)
        corner = jnp.clip(corner, 0, jnp.array(size) - jnp.array(window_size))
        part = jax.lax.dynamic_slice(latents, (*corner, 0), (*window_size, latents.shape[-1]))
        return part, kps - corner[None, ::-1] * downscale

    return jax.vmap(one)(latents, kps)


def _from_template(kps: jax.Array, points: jax.Array) -> jax.Array:
    """Maps points of the template into the image: [2, ...], x and y.

    The map is the least-squares similarity between keypoints and template (Umeyama 1991). In two
    dimensions it is a quotient of complex numbers, here cos and sin times the scale.
    """
    center, wanted = kps.mean(0, keepdims=True), TEMPLATE.mean(0, keepdims=True)
    (px, py), (qx, qy) = (kps - center).T, (TEMPLATE - wanted).T
    # Fitted from image to template, as in insightface, then inverted.
    cos, sin = (px * qx + py * qy).sum(), (px * qy - py * qx).sum()
    scale = (px**2 + py**2).sum() / (cos**2 + sin**2)
    u, v = points[0] - wanted[0, 0], points[1] - wanted[0, 1]
    return jnp.stack(
        [center[0, 0] + scale * (cos * u + sin * v), center[0, 1] + scale * (cos * v - sin * u)]
    )
