"""Draws examples into files, with several processes."""

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError

Arrays = dict[str, np.ndarray]


def drawn_in_chunks(
    folder: Path, draw: Callable[[int], Arrays], count: int, chunk: int, processes: int
) -> Arrays:
    """Arrays of all chunks, concatenated; draws the chunks whose files are missing.

    Args:
      draw: returns the arrays of chunk `i`; all chunks have the same names and shapes. Must be
        picklable.
      count: number of examples, a multiple of `chunk`.
      chunk: examples per chunk.
    Raises:
      InputError: if `count` is not a positive multiple of `chunk`, or `processes` is less than 1.
    """
    if processes < 1:
        raise InputError(f"--processes is {processes}: expected 1 or more")
    if count < chunk or count % chunk:
        raise InputError(f"{count} examples requested: expected a multiple of {chunk}")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:05}.npz" for i in range(count // chunk)]
    missing = [i for i, path in enumerate(files) if not path.exists()]
    write = functools.partial(_write, draw=draw, files=files)
    # Forked processes would inherit JAX's threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in tqdm(pool.imap_unordered(write, missing), total=len(missing), unit="chunk"):
            pass
    whole: Arrays = {}
    for i, path in enumerate(files):
        with np.load(path) as stored:
            for name, values in stored.items():
                if i == 0:
                    whole[name] = np.empty((count, *values.shape[1:]), values.dtype)
                whole[name][i * chunk : (i + 1) * chunk] = values
    return whole


def _write(chunk: int, *, draw: Callable[[int], Arrays], files: list[Path]) -> None:
    with replacing_file(files[chunk]) as path, path.open("wb") as file:
        np.savez(file, **draw(chunk))
