"""Reads the LoRAs that runs trained, and adds them to weights.

A run trains a LoRA of the UNet, as a distillation does, or of parts of InstantID.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import component_shapes
from instantid_jax.params import Network, Params
from instantid_jax.paths import utf8_path
from instantid_jax.runs.folder import RunFolder, is_run
from instantid_jax.stacks import in_stack, is_stacked, unstack_shapes
from instantid_jax.weights.lora.spellings import Target, targets

# The part of the training state's names that a LoRA's factors have, and that files have instead.
LORA, FILE = "lora.", "unet."
# The factors of a layer, as PEFT names them.
DOWN, UP = "lora_A", "lora_B"


def trains_lora(path: Path) -> bool:
    """Whether a folder is a run that trains a LoRA of the UNet, not InstantID."""
    from instantid_jax.runs.restoring import stored_weights  # Orbax is slow to import

    run = RunFolder(utf8_path(path))
    if not (is_run(path) and run.steps()):
        return False
    return all(name.startswith(LORA) for name in stored_weights(run).shapes)


def read_trained_lora(
    path: Path, *, raw: bool = False, step: int | None = None
) -> dict[str, np.ndarray]:
    """The factors of a run's LoRA in PEFT's form, by the names that diffusers gives them.

    Args:
      raw, step: as for `open_trained`.
    Raises:
      InputError: if the checkpoint is damaged or missing.
    """
    from instantid_jax.runs.restoring import restore_weights  # Orbax is slow to import

    factors = restore_weights(RunFolder(utf8_path(path)), raw=raw, prefix=LORA, step=step)
    return {
        f"{FILE}{name.removeprefix(LORA)}.weight": np.asarray(value)
        for name, value in factors.items()
    }


def lora_layers(network: Network, component: str) -> dict[str, Target]:
    """The layers of a component that have factors, its matrices and convolutions.

    By the part of the training state's names before `.lora_A` and `.lora_B`, of separate blocks.

    Args:
      component: "unet" for the base model's own weights, or a part of InstantID.
    """
    prefix = LORA if component == "unet" else f"{component}."
    found = targets(component, unstack_shapes(component_shapes(component, network)))
    return {f"{prefix}{name}": target for name, target in found.items() if not target.is_norm}


def merged(network: Network, weights: Params, factors: Params, component: str = "unet") -> Params:
    """A component's weights with a LoRA's differences added, in the weights' dtype.

    Args:
      weights: the component's; the UNet's are without the ID branch.
      factors: A [R, in, ...] and B [out, R] of each of `lora_layers`, stacked as the weights.
    """
    layers = lora_layers(network, component)
    if network.stacked:
        # The blocks of a stack have one shape.
        layers = {
            in_stack(layer): dataclasses.replace(target, weight=in_stack(target.weight))
            for layer, target in layers.items()
        }
    changed = dict(weights)
    for layer, target in layers.items():
        add = functools.partial(_add, target)
        given = (weights[target.weight], factors[f"{layer}.{DOWN}"], factors[f"{layer}.{UP}"])
        changed[target.weight] = (jax.vmap(add) if is_stacked(layer) else add)(*given)
    return changed


def _add(target: Target, weight: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    """A weight with the difference of two factors added."""
    down, up = down.astype(jnp.float32), up.astype(jnp.float32)
    difference = (up @ down.reshape(len(down), -1)).reshape(target.shape)
    total = weight.astype(jnp.float32) + difference.transpose(target.axes)
    return total.astype(weight.dtype)
