"""Reads the LoRA that a distillation trained."""

from pathlib import Path

import numpy as np

from instantid_jax.paths import utf8_path
from instantid_jax.runs.folder import RunFolder, is_run

# The part of the training state's names that a LoRA's factors have, and that files have instead.
LORA, FILE = "lora.", "unet."


def trains_lora(path: Path) -> bool:
    """Whether a folder is a run that trains a LoRA, not InstantID."""
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
