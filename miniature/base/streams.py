"""Channels that are given a purpose before training: where they lie, and how they pass norms."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Params

# There SiLU has no curvature: what is added to it passes unchanged, but for a factor.
LINEAR_AT = 2.3994
_SIGMOID = 1 / (1 + np.exp(-LINEAR_AT))
OFFSET, SLOPE = LINEAR_AT * _SIGMOID, _SIGMOID * (1 + LINEAR_AT * (1 - _SIGMOID))
# Some spare channels hold plus and minus a constant, with so many times the energy of all signals:
# norms then hardly depend on the signals, as is needed for these to pass unchanged.
DOMINANCE = 6.0
# One spare channel in so many.
SPARE_TO_CONSTANTS = 4


class Stream:
    """Channels of a layer's output: some of a purpose, the others spare.

    They take turns between the groups of a norm, so that each group has its share of all. In each
    group one channel holds zero: less that, the others are what they were before the norm
    subtracted a mean.

    Attributes:
      zeros: places of those that hold zero, one for each group.
      parts: places of the channels of each purpose.
      used: all of these, in turn.
    """

    def __init__(self, config: VAEConfig, width: int, sizes: Sequence[int], energy: float):
        """energy: expected sum of the squares of the channels of all purposes."""
        groups = config.norm_num_groups
        places = np.arange(width).reshape(groups, -1).T.ravel()
        total = groups + sum(sizes)
        self.width, self._group = width, width // groups
        self.used, spare = places[:total], places[total:]
        self.zeros, *self.parts = np.split(self.used, np.cumsum([groups, *sizes])[:-1])
        # As many plus as minus in each group.
        pairs = max(len(spare) // (2 * groups * SPARE_TO_CONSTANTS), min(1, len(spare) // 2))
        self._constant = spare[: 2 * groups * pairs]
        signs = np.arange(len(self._constant)) // groups % 2
        self._values = np.zeros(width)
        if len(self._constant):
            size = np.sqrt(DOMINANCE * energy / len(self._constant))
            self._values[self._constant] = size * (1 - 2.0 * signs)

    def with_constants(self, bias: jax.Array) -> jax.Array:
        """A bias by which the channels for it hold constants; the others' stay."""
        return bias.at[self._constant].set(self._values[self._constant])

    def against(
        self, places: np.ndarray, taps: np.ndarray, others: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums of channels, each less another channel of its group.

        Args:
          places: of the n channels.
          taps: [n, m].
          others: places of those that are subtracted, one for each group.
        Returns:
          places and taps of both.
        """
        same = places[None] // self._group == others[:, None] // self._group
        return np.concatenate([places, others]), np.concatenate([taps, -(same * 1.0) @ taps])

    def norm(self, name: str, scales: np.ndarray, shifts: np.ndarray) -> Params:
        """Parameters of a norm that multiplies and shifts the used channels by these.

        The scale is to be multiplied by the deviation that each group is found to have.

        Constants become zero, so that nothing after it begins by reading so many equal numbers;
        the other channels stay.
        """
        scale, bias = np.ones(self.width), np.zeros(self.width)
        scale[self._constant] = 0
        scale[self.used] = scales[: len(self.used)]
        bias[self.used] = shifts[: len(self.used)]
        return {
            f"{name}.scale": jnp.asarray(scale, jnp.float32),
            f"{name}.bias": jnp.asarray(bias, jnp.float32),
        }


def tapped(
    kernel: jax.Array,
    taps: np.ndarray,
    inputs: np.ndarray | None = None,
    outputs: np.ndarray | None = None,
) -> jax.Array:
    """A kernel by which some outputs are sums of some inputs, and of nothing else.

    Args:
      kernel: [3, 3, inputs, outputs] or [1, 1, ...]; other outputs stay as they are.
      taps: [n, m], of the middle, or [h, w, n, m] from the upper left.
      inputs, outputs: places of the n and m; None are the first.
    """
    inputs = np.arange(taps.shape[-2]) if inputs is None else inputs
    outputs = np.arange(taps.shape[-1]) if outputs is None else outputs
    if taps.ndim == 2:
        middle = kernel.shape[0] // 2
        padded = np.zeros((*kernel.shape[:2], *taps.shape))
        padded[middle, middle] = taps
        taps = padded
    height, width = taps.shape[:2]
    at = np.ix_(np.arange(height), np.arange(width), inputs, outputs)
    return kernel.at[..., outputs].set(0).at[at].set(taps)
