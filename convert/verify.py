"""`python -m convert verify`: compares one denoising step in PyTorch and in JAX."""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from convert.to_torch import write_torch
from convert.verification_step import Inputs, Outputs, draw_inputs, jax_step
from instantid_jax.checkpoint import open_model
from instantid_jax.components import ModelSource
from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
from instantid_jax.runs.folder import is_run

TOLERANCE = 1e-4
INSTALL = "pip install torch==2.13.0 diffusers==0.42.1"


def verify(
    sdxl: str,
    instantid: str,
    model: Path | None = None,
    tokenizers: str | None = None,
    variant: str | None = None,
    height: int = 256,
    width: int = 256,
    seed: int = 0,
) -> None:
    """Compares one guided denoising step in PyTorch and in JAX; needs torch and diffusers.

    Prints ||ours - torch|| / ||torch|| of each result. Exits with status 0 if all are within 1e-4,
    else 1. Both sides compute in float32, one network at a time, which limits memory.

    Args:
      sdxl: SDXL base: a diffusers folder, a single file in the original layout, a hub id, or a hub
        id and the path of a file in it.
      instantid: InstantID's adapter and ControlNetModel/: a folder or a hub id; or the folder of a
        training run, which PyTorch reads as to-torch writes it.
      model: a folder made by to-jax from these files, to compare instead of them.
      tokenizers: a folder or hub id with tokenizer/ and tokenizer_2/; None uses the folder's own,
        or SDXL base's for a single file.
      variant: variant of the weights files, such as fp16, for parts that have it.
      height: image height in pixels, a multiple of 8.
      width: image width in pixels, a multiple of 8.
      seed: seed of the random inputs.
    """
    for name, value in (("height", height), ("width", width)):
        if value < 8 or value % 8:
            raise InputError(f"--{name} {value}: expected a multiple of 8")
    named = Sources(sdxl=sdxl, instantid=instantid, tokenizers=tokenizers, variant=variant)
    found = named.find()
    ours = found if model is None else open_model(model)
    inputs = draw_inputs(found, height, width, seed)
    with _as_files(named) as files:
        theirs = _torch_step(files.find(), inputs)
    with jax.default_matmul_precision("highest"):
        differences = compare(jax_step(ours, inputs), theirs)
    for what, difference in differences.items():
        print(f"{what:24}{difference:.1e}")
    agree = all(difference <= TOLERANCE for difference in differences.values())
    print(f"{'within' if agree else 'NOT within'} {TOLERANCE:.0e}")
    if not agree:
        sys.exit(1)


@contextlib.contextmanager
def _as_files(named: Sources) -> Iterator[Sources]:
    """The same sources; a training run as the PyTorch files of to-torch, in a temporary folder."""
    if named.instantid is None or not is_run(Path(named.instantid)):
        yield named
        return
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "instantid"
        write_torch(Path(named.instantid), written)
        yield dataclasses.replace(named, instantid=str(written))


def _torch_step(model: ModelSource, inputs: Inputs) -> Outputs:
    try:
        from convert.torch_reference import torch_step
    except ImportError as error:
        raise InputError(f"verify needs torch and diffusers ({error}): {INSTALL}") from error
    return torch_step(model, inputs)


def compare(ours: Outputs, theirs: Outputs) -> dict[str, float]:
    """Relative L2 differences; for IdentityNet's residuals, the largest."""
    return {
        "Resampler tokens": relative(ours.id_tokens, theirs.id_tokens),
        "IdentityNet residuals": max(
            relative(a, b) for a, b in zip(ours.residuals, theirs.residuals, strict=True)
        ),
        "UNet output": relative(ours.prediction, theirs.prediction),
        "next latents": relative(ours.latents, theirs.latents),
    }


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """||ours - theirs|| / ||theirs||; infinite for different shapes and non-finite values."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all() or not np.isfinite(theirs).all():
        return float("inf")
    difference = np.linalg.norm((ours.astype(np.float64) - theirs).ravel())
    size = np.linalg.norm(theirs.astype(np.float64).ravel())
    if size == 0:  # as for a fresh ControlNet
        return 0.0 if difference == 0 else float("inf")
    return float(difference / size)
