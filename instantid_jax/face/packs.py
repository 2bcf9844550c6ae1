"""Finds face packs: folders of `.onnx` files with a detector and a recognizer."""

import hashlib
import os
from pathlib import Path

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.paths import local_path, utf8_path

# insightface has no environment variable for it.
INSIGHTFACE_ROOT = "~/.insightface"

# How the SHA-256 of antelopev2's recognizer, glintr100.onnx, begins.
ANTELOPEV2_RECOGNIZER = "4ab1d643"

LICENSE = (
    "insightface's face packs, antelopev2 among them, are for non-commercial research only; "
    "the license of insightface's code (MIT) does not extend to them. "
    "See https://github.com/deepinsight/insightface#license"
)


class PackNotFoundError(InputError):
    """The folder of a face pack was not found."""


def find_pack(
    pack: str | os.PathLike[str], root: str | os.PathLike[str] = INSIGHTFACE_ROOT
) -> Path:
    """The folder with a pack's `.onnx` files.

    Args:
      pack: a folder, or the name of one in `root`/models. May contain the pack in one inner folder,
        as `antelopev2.zip` unpacks.
      root: insightface's download folder.

    Raises:
      PackNotFoundError: if there is no such folder; lists the folders tried.
      InputError: if the folder has no `.onnx` files.
    """
    places = [_expanded(local_path(pack)), pack_folder(pack, root)]
    for folder in places:
        if folder.is_dir():
            utf8_path(folder)  # as onnxruntime needs
            return _folder_of_onnx(folder)
    if places[0].is_file():
        raise InputError(f"face pack {pack} is a file: pass a folder of .onnx files")
    raise PackNotFoundError(
        f"face pack {pack} not found: looked for the folders "
        f"{' and '.join(str(place) for place in dict.fromkeys(places))}; download it with "
        "`instantid embed --download-face-pack` (in Python: FaceAnalyzer(download=True)), or unzip "
        "its .onnx files into one of them, or name another folder"
    )


def pack_folder(
    pack: str | os.PathLike[str], root: str | os.PathLike[str] = INSIGHTFACE_ROOT
) -> Path:
    """insightface's folder for the pack of that name."""
    return _expanded(Path(root)) / "models" / pack


def recognizer_hash(file: str | os.PathLike[str]) -> str:
    """SHA-256 of a recognizer's `.onnx` file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def onnx_files(folder: Path) -> list[Path]:
    """The models in a folder, sorted. Skips hidden files, which macOS adds to archives."""
    return sorted(path for path in folder.glob("*.onnx") if not is_hidden(path, folder))


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # The user or the home folder is unknown.
        return path


def _folder_of_onnx(folder: Path) -> Path:
    if onnx_files(folder):
        return folder
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and onnx_files(path))
    if len(inner) == 1:
        return inner[0]
    if inner:
        names = ", ".join(str(path) for path in inner)
        raise InputError(f"face pack {folder} holds several packs, {names}: name one of them")
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise InputError(
        f"face pack {folder} has no .onnx files (it holds {held}): "
        "unzip the pack's files into it, or remove it"
    )
