"""Weights by their names in ComfyUI's folder of models."""

import dataclasses
from pathlib import Path

import folder_paths

from instantid_jax.weights.lora.sources import Lora


def find_weights(kind: str, name: str) -> str | None:
    """The path of a file or folder in ComfyUI's models, or the name as it is; None without one.

    Args:
      kind: of ComfyUI's folders, such as checkpoints.
      name: as ComfyUI's own loaders list it; or a path, or a hub id.
    """
    if not name or Path(name).exists():
        return name or None
    for folder in _folders(kind):
        if (folder / name).exists():
            return str(folder / name)
    return name


def find_lora(line: str) -> str:
    """The same for a LoRA, which may be followed by its strength, as in detail.safetensors:0.8."""
    lora = Lora.parse(line)
    found = find_weights("loras", lora.source)
    return str(dataclasses.replace(lora, source=found))


def find_face_pack(name: str) -> str | None:
    """The folder of a face pack where other nodes for InstantID keep it; None if there is none.

    Args:
      name: a pack's name, or the path of its folder, which is returned.
    """
    folder = Path(folder_paths.models_dir, "insightface", "models", name)
    return str(folder) if folder.is_dir() else None


def _folders(kind: str) -> list[Path]:
    # ComfyUI itself does not know every kind; InstantID's folder is registered by other nodes.
    if kind in folder_paths.folder_names_and_paths:
        return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    return [Path(folder_paths.models_dir, kind)]
