"""A decoder that reads a linear code of cells, before any training.

Its upsampling gives two pixels of a cell the same numbers, and yet it has to tell them apart. It
can: the first one's left neighbor is of another cell, the second one's right neighbor. Where the
right one differs a gate opens, by which the numbers of the first half become those of the second.
So it goes halving by halving, across and down, in the two resnets after each upsampling.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Params
from miniature.base.streams import LINEAR_AT, OFFSET, SLOPE, Stream, tapped

# How steep gates are: differences below its inverse count as none.
STEEP = 60.0
# How much differences between neighbors count against what they let pass.
GATE = 3.0
# Signals at most, and those of them whose differences are looked at.
SIGNALS, PROBES = 40, 6
# Of signals other than latents.
DEVIATION = 0.5
# Expected square of a difference, and how much neighbors differ, in deviations of a signal.
DIFFERENCE, ALIKE = 0.01, 0.6
# Places of neighbors in a kernel (row, column): across the first and second, then down.
NEIGHBORS = (((1, 0), (1, 2)), ((0, 1), (2, 1)))


@dataclasses.dataclass(frozen=True)
class _Signals:
    """What the signals of a pixel mean.

    Attributes:
      synthesis: [n, height, width, 3]; the pixels of what was not divided yet are the sum of
        signals times these.
      covariance: [n, n].
    """

    synthesis: np.ndarray
    covariance: np.ndarray

    def __len__(self) -> int:
        return len(self.synthesis)

    @property
    def energy(self) -> float:
        return float(np.trace(self.covariance))

    def first(self, most: int) -> "_Signals":
        return _Signals(self.synthesis[:most], self.covariance[:most, :most])

    def divided(self, axis: int, most: int) -> tuple["_Signals", np.ndarray, np.ndarray]:
        """Signals of halves; and, of the first and the second, matrices [n, m] from the whole's.

        Those of the first half are as near as can be to the whole's, so that a resnet has little
        to add to what it skips to.
        """
        halves = np.split(self.synthesis, 2, axis)
        flat = [half.reshape(len(self), -1) for half in halves]
        covariance = sum(half.T @ self.covariance @ half for half in flat) / 2
        count = min(most, len(covariance))
        directions = np.linalg.eigh(covariance)[1][:, : -count - 1 : -1]
        scale = DEVIATION / np.sqrt(len(covariance) / 3)
        first = flat[0] @ directions * scale
        left, _, right = np.linalg.svd(first.T @ self.covariance @ np.eye(len(self), count))
        directions = directions @ left @ right
        first, second = (half @ directions * scale for half in flat)
        synthesis = (directions / scale).T.reshape(count, *halves[0].shape[1:])
        covariance = (first.T @ self.covariance @ first + second.T @ self.covariance @ second) / 2
        return _Signals(synthesis, covariance), first, second


def decoder_parameters(
    config: VAEConfig, params: Params, synthesis: np.ndarray, deviations: np.ndarray
) -> Params:
    """Those of a decoder's parameters that are not as in `params`.

    Args:
      params: fresh ones, in which the last convolution of each branch is zero.
      synthesis: [latents, side, side, 3] of a code.
      deviations: [latents].
    """
    widths = config.block_out_channels[::-1]
    latent, count = len(synthesis), min(len(synthesis), widths[0])
    signals = _Signals(synthesis[:count], np.diag(np.square(deviations[:count])))
    found = {
        f"{name}.kernel": tapped(params[f"{name}.kernel"], taps)
        for name, taps in (
            ("post_quant_conv", np.eye(latent)),
            ("decoder.conv_in", np.eye(latent, count)),
        )
    }
    places = np.arange(count)
    for block in range(1, len(widths)):
        width = widths[block - 1]
        probes = min(PROBES, width // 16, len(signals))
        signals = signals.first(width - config.norm_num_groups - 8 * probes)
        energy = signals.energy + 8 * probes * DIFFERENCE
        stream = Stream(config, width, [len(signals), 4 * probes, 4 * probes], energy)
        name = f"decoder.up_blocks.{block - 1}.upsamplers.0.conv"
        taps = _differences(len(signals), probes)
        kernel, bias = params[f"{name}.kernel"], params[f"{name}.bias"]
        found[f"{name}.kernel"] = _into(stream, kernel, taps, places[: len(signals)])
        found[f"{name}.bias"] = stream.with_constants(bias)
        halving = _Halving(config, params, stream, signals, probes)
        for resnet, axis in enumerate((2, 1)):
            halving = halving.through(f"decoder.up_blocks.{block}.resnets.{resnet}", axis, found)
        signals, stream = halving.signals, halving.stream
        places = stream.parts[0][: len(signals)]
    shown = np.isin(stream.used, [*stream.zeros, *places]) * 1.0
    found |= stream.norm("decoder.conv_norm_out", shown, LINEAR_AT * shown)
    colors = signals.synthesis.reshape(len(signals), 3) / SLOPE
    name = "decoder.conv_out.kernel"
    read, colors = stream.against(places, colors, stream.zeros)
    found[name] = tapped(params[name], colors, read)
    return found


@dataclasses.dataclass(frozen=True)
class _Halving:
    """What the resnets after an upsampling begin with: signals, and differences to neighbors."""

    config: VAEConfig
    params: Params
    stream: Stream
    signals: _Signals
    probes: int

    def through(self, name: str, axis: int, found: Params) -> "_Halving":
        """What a resnet makes of it, whose parameters are added to `found`."""
        kernel = self.params[f"{name}.conv1.kernel"]
        width, before = kernel.shape[-1], len(self.signals)
        shortcut = f"{name}.conv_shortcut"
        shorter = f"{shortcut}.kernel" in self.params
        groups = self.config.norm_num_groups
        gates = groups * min(1, self.probes)
        most = min(SIGNALS, width - groups - 4 * self.probes if shorter else before)
        # Each has a unit with a gate and, where the resnet skips to its input, another one.
        most = min(most, (width - groups - gates) // (2 - shorter))
        signals, first, second = self.signals.divided(axis, most)
        count = len(signals)
        if not self.probes:
            first = (first + second) / 2
        units = [gates, min(gates, 1) * count, 0 if shorter else count]
        deviations = np.sqrt(np.diag(self.signals.covariance)[: self.probes])
        unit = np.square(GATE * ALIKE * deviations.sum())
        inner = Stream(
            self.config, width, units, (units[0] + units[1]) * unit + units[2] * DIFFERENCE
        )
        probed = self.stream.parts[-2 if axis == 2 else -1]
        places = self.stream.parts[0][:before]
        if shorter:
            stream = Stream(
                self.config,
                width,
                [count, 4 * self.probes],
                signals.energy + 4 * self.probes * DIFFERENCE,
            )
            passed = np.zeros((before + 4 * self.probes, count + 4 * self.probes))
            passed[:before, :count] = first
            passed[before:, count:] = np.eye(4 * self.probes)
            inputs = np.concatenate([places, self.stream.parts[-1]])
            weights = self.params[f"{shortcut}.kernel"]
            found[f"{shortcut}.kernel"] = _into(stream, weights, passed, inputs)
            found[f"{shortcut}.bias"] = stream.with_constants(self.params[f"{shortcut}.bias"])
        else:
            stream = self.stream
        found |= _gated_resnet(
            {n: v for n, v in self.params.items() if n.startswith(f"{name}.")},
            name,
            (self.stream, inner),
            (places, probed, stream.parts[0][:count]),
            (second - first, None if shorter else first - np.eye(before, count)),
        )
        return _Halving(self.config, self.params, stream, signals, self.probes)


def _gated_resnet(
    params: Params,
    name: str,
    streams: tuple[Stream, Stream],
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    matrices: tuple[np.ndarray, np.ndarray | None],
) -> Params:
    """Parameters of a resnet that adds to signals: one sum where a gate is open, one anyway.

    Args:
      params: the resnet's.
      name: what its parameters' names begin with.
      streams: what comes in, and what lies between its convolutions.
      places: of incoming signals and differences, and of outgoing signals.
      matrices: [n, m] of both sums; None for none.
    """
    stream, inner = streams
    signals, probed, outputs = places
    gated, linear = matrices
    gates, gated_units, linear_units = inner.parts
    count = gated.shape[1]
    is_difference = ~np.isin(stream.used, [*stream.zeros, *signals])
    kernel = params[f"{name}.conv1.kernel"]
    # Nothing but gates reads differences, which norms leave far larger than all else.
    kernel = kernel.at[:, :, stream.used[is_difference]].set(0)
    kernel = tapped(kernel, np.zeros((1, len(inner.zeros))), outputs=inner.zeros)
    mixed = jnp.zeros_like(params[f"{name}.conv2.kernel"])
    middle = 1
    if len(gates):
        # Differences to the first neighbor close a gate, those to the second open it.
        gate = np.repeat([-1, 1], len(probed) // 2)[:, None] * GATE / STEEP
        kernel = tapped(kernel, np.tile(gate, len(gates)), probed, gates)
        read, taps = stream.against(signals, gated / SLOPE, stream.zeros)
        taps = np.concatenate([taps, np.tile(gate, count)])
        kernel = tapped(kernel, taps, np.concatenate([read, probed]), gated_units)
        # What passes is what a sum and its gate come to together, less the gate alone.
        read, taps = inner.against(gated_units, np.eye(count) / STEEP, gates)
        mixed = mixed.at[middle, middle, read[:, None], outputs[None]].add(taps)
    if linear is not None:
        read, taps = stream.against(signals, linear / SLOPE, stream.zeros)
        kernel = tapped(kernel, taps, read, linear_units)
        read, taps = inner.against(linear_units, np.eye(count) / SLOPE, inner.zeros)
        mixed = mixed.at[middle, middle, read[:, None], outputs[None]].add(taps)
    gating = np.isin(inner.used, [*gates, *gated_units])
    norms = stream.norm(
        f"{name}.norm1", np.where(is_difference, STEEP, 1), np.where(is_difference, 0, LINEAR_AT)
    ) | inner.norm(f"{name}.norm2", np.where(gating, STEEP, 1), np.where(gating, 0, LINEAR_AT))
    # Spare units do not begin with what SiLU adds to linear inputs.
    bias = -OFFSET * kernel[:, :, [*stream.zeros, *signals]].sum((0, 1, 2))
    return norms | {
        f"{name}.conv1.kernel": kernel,
        f"{name}.conv1.bias": inner.with_constants(bias),
        f"{name}.conv2.kernel": mixed,
    }


def _into(stream: Stream, kernel: jax.Array, taps: np.ndarray, inputs: np.ndarray) -> jax.Array:
    """A kernel that makes a stream's channels of a purpose, and zeros."""
    zeros = np.zeros((*taps.shape[:-1], len(stream.zeros)))
    return tapped(kernel, np.concatenate([zeros, taps], -1), inputs, stream.used)


def _differences(count: int, probes: int) -> np.ndarray:
    """Taps [3, 3, n, n + 8k] after an upsampling: signals, and differences of k to neighbors.

    For each axis k to the first neighbor and k to the second, each plus and minus.
    """
    taps = np.zeros((3, 3, count, count + 8 * probes))
    taps[1, 1, :, :count] = np.eye(count)
    column = count
    for axis in NEIGHBORS:
        for row, place in axis:
            for sign in (1, -1):
                for probe in range(probes):
                    taps[1, 1, probe, column] = sign
                    taps[row, place, probe, column] = -sign
                    column += 1
    return taps
