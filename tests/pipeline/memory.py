"""Loads a model in a process of its own; prints the peak memory and the weights' bytes."""

import sys

import jax

from instantid_jax import InstantIDPipeline
from tests.memory import peak_of

if __name__ == "__main__":
    folder, dtype = sys.argv[1:]
    loaded = []
    # Excludes the memory of the backend itself.
    jax.block_until_ready(jax.numpy.zeros(()))

    def load() -> None:
        pipe = InstantIDPipeline.load(sdxl=folder, instantid=folder, dtype=dtype)
        jax.block_until_ready(pipe.model.params)
        loaded.append(pipe)

    peak = peak_of(load)
    print(peak, sum(leaf.nbytes for leaf in jax.tree.leaves(loaded[0].model.params)))
