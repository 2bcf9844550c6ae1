"""Converts in a process of its own; prints the peak memory as a share of the largest network."""

import sys

import jax  # noqa: F401  (what is measured is beyond the imports)

# The imports, before the first measurement.
from convert.__main__ import main  # isort: skip
import convert.to_jax
import convert.verify  # noqa: F401
from tests.memory import peak_of

if __name__ == "__main__":
    largest = int(sys.argv[1])
    print(f"{peak_of(lambda: main(sys.argv[2:])) / largest:.3f}")
