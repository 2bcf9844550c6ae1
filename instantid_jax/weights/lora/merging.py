"""Adds the differences of LoRAs to weights.

The weights are read from their files again and rounded once, so that no trace of other LoRAs is
left, and none of these once they are taken off.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from instantid_jax.components import Component
from instantid_jax.inversion import Embedding
from instantid_jax.params import Params
from instantid_jax.weights.embeddings import read_bundled, vector_widths
from instantid_jax.weights.lora.files import Layer, read_lora
from instantid_jax.weights.lora.sources import Lora
from instantid_jax.weights.lora.spellings import PARTS, spellings
from instantid_jax.weights.reading import read_params
from instantid_jax.weights.tensors import LazyTensor
from instantid_jax.weights.torch_files import open_tensors

# Parameters to read at a time.
AT_ONCE = 32

Changes = dict[str, list[tuple[Layer, float]]]


@dataclasses.dataclass(frozen=True)
class Merge:
    """The changes of LoRAs to a model.

    Attributes:
      changes: for each of `PARTS`, the layers that change a parameter of ours, with strengths.
      embeddings: textual inversions in the same files.
    """

    changes: Mapping[str, Changes]
    embeddings: Sequence[Embedding]

    def names(self, part: str) -> Collection[str]:
        """Parameters of a network that change."""
        return self.changes[part].keys()

    def load(
        self, component: Component, part: str, dtype: jnp.dtype | None, names: Sequence[str]
    ) -> Iterator[Params]:
        """Reads the named parameters of a network, merged, some at a time.

        Args:
          dtype: dtype of the result; None keeps each tensor's dtype.
        Raises:
          InputError: if a weight or a LoRA cannot be read.
        """
        changes = self.changes[part]
        yield component.load(dtype, [name for name in names if name not in changes])
        changing = [name for name in names if name in changes]
        for start in range(0, len(changing), AT_ONCE):
            group = changing[start : start + AT_ONCE]
            stored = component.load(None, group)
            tensors = {
                name: _merged(name, np.asarray(stored[name]), changes[name], dtype)
                for name in group
            }
            yield read_params(tensors, dtype)


def find_merge(loras: Sequence[Lora], components: Mapping[str, Component]) -> Merge:
    """Finds and checks LoRAs; reads names and shapes, no factors.

    Args:
      components: at least `PARTS`.
    Raises:
      InputError: if one is missing, damaged, or belongs to another model.
    """
    changes: dict[str, Changes] = {part: defaultdict(list) for part in PARTS}
    embeddings: list[Embedding] = []
    if loras:
        widths = vector_widths(components)
        known = spellings({part: components[part].network for part in PARTS})
        for lora in loras:
            path = lora.find()
            embeddings += read_bundled(path, open_tensors(path).tensors, widths)
            for layer in read_lora(path, known):
                target = layer.target
                strength = lora.strength(target.part)
                if layer.form is not None:
                    changes[target.part][target.weight].append((layer, strength))
                if layer.bias and target.bias is not None:
                    changes[target.part][target.bias].append((layer, strength))
    return Merge(changes, embeddings)


def _merged(
    name: str, stored: np.ndarray, changes: Sequence[tuple[Layer, float]], dtype: jnp.dtype | None
) -> LazyTensor:
    final = stored.dtype if dtype is None else np.dtype(dtype)
    # A wider type, so that the sum is rounded once.
    wide = np.dtype(np.float64 if final == np.float32 else np.float32)

    def read() -> np.ndarray:
        target = changes[0][0].target
        if name == target.bias:
            value = stored.astype(wide)
            for layer, strength in changes:
                value += strength * layer.bias_difference(wide)
            return value
        value = stored.astype(wide).transpose(np.argsort(target.axes))
        for layer, strength in changes:
            if layer.magnitudes is None:
                value += layer.difference(wide, strength)
        # After the others, as listed: these depend on the weight.
        for layer, strength in changes:
            if layer.magnitudes is not None:
                value += strength * (layer.decomposed(value) - value)
        return value.transpose(target.axes)

    return LazyTensor(stored.shape, final, read)
