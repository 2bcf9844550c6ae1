"""`python -m convert to-jax`: converts PyTorch files to a folder in Orbax's format."""

import sys
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from instantid_jax.checkpoint import save_model
from instantid_jax.cli.outputs import check_folder
from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
from instantid_jax.runs.recognizers import named_recognizer

Dtype = Literal["float32", "bfloat16", "float16"]


def to_jax(
    sdxl: str,
    instantid: str,
    output: Path,
    controlnets: tuple[str, ...] = (),
    vae: str | None = None,
    unet: str | None = None,
    refiner: str | None = None,
    tokenizers: str | None = None,
    variant: str | None = None,
    dtype: Dtype | None = None,
) -> None:
    """Converts SDXL and InstantID into one folder, for --model of `instantid generate`.

    Args:
      sdxl: SDXL base: a diffusers folder, a single file in the original layout, a hub id, or a hub
        id and the path of a file in it.
      instantid: InstantID's adapter and ControlNetModel/: a folder or a hub id; or the folder of a
        training run: takes its newest checkpoint, and the moving average if there is one.
      output: the folder to create.
      controlnets: additional ControlNets, each a file, a folder, a hub id, or a hub id and the path
        of a file in it.
      vae: a VAE to use instead of SDXL's: the same, or a whole SDXL checkpoint in one file.
      unet: a UNet to use instead of SDXL's: the same.
      refiner: SDXL's refiner: a diffusers folder, its UNet's folder, a file, a hub id, or a hub id
        and the path of a file in it.
      tokenizers: a folder or hub id with tokenizer/ and tokenizer_2/; None uses the folder's own,
        or SDXL base's for a single file.
      variant: variant of the weights files, such as fp16, for parts that have it.
      dtype: dtype of all weights; None keeps each tensor's dtype.
    """
    check_new(output)
    model = Sources(
        sdxl=sdxl,
        instantid=instantid,
        controlnets=controlnets,
        vae=vae,
        unet=unet,
        refiner=refiner,
        tokenizers=tokenizers,
        variant=variant,
    ).find()
    components = model.components
    kept = None if dtype is None else jnp.dtype(dtype)
    more = named_recognizer(instantid)
    for i, name in enumerate(save_model(model, output, kept, more), start=1):
        progress = f"{i}/{len(components)} {name} from {components[name].source}"
        print(progress, file=sys.stderr, flush=True)
    print(output)


def check_new(output: Path) -> None:
    """Refuses an output that exists or cannot be created, before reading anything."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output} exists: name a new folder, or remove it first")
    check_folder(output.parent)
