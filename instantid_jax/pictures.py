"""Reading pictures as upright RGB, and writing PNGs."""

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from instantid_jax.atomic import is_hidden, replacing_file
from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)

# An input picture: a file path, a Pillow image, or a uint8 [H, W, 3] RGB array.
Picture = str | os.PathLike[str] | Image.Image | np.ndarray

# Suffixes that `find_pictures` accepts in a folder; a file passed directly may have any name.
_SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

# Pillow's decoders raise all of these for damaged files.
_DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError)
_DAMAGE += (SyntaxError, TypeError, ValueError, struct.error, zlib.error)


def read_picture(picture: Picture) -> np.ndarray:
    """Reads a picture upright, as uint8 [H, W, 3] RGB.

    Applies EXIF rotation, composites transparency on white, takes the first frame of an animation
    and converts every other color mode to 8-bit RGB. Ignores color profiles. Checks arrays and
    returns them unchanged.

    Raises:
      InputError: no such file, not a picture, damaged, empty, or of more pixels than Pillow takes
        (twice `PIL.Image.MAX_IMAGE_PIXELS`, about 179 million).
    """
    name = picture_name(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(
                f"{name} is {picture.dtype} {list(picture.shape)}: expected uint8 [H, W, 3], RGB"
            )
        if not picture.size:
            raise InputError(f"{name} is empty: its shape is {list(picture.shape)}")
        return picture
    if not isinstance(picture, (str, os.PathLike, Image.Image)):
        raise InputError(
            f"a picture cannot be a {type(picture).__name__}: "
            "pass a file path, a Pillow image, or a uint8 [H, W, 3] array"
        )
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            # Pillow warns from half of the size that it rejects; such pictures are accepted here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if isinstance(picture, Image.Image):
                result = _upright_rgb(picture, name)
            else:
                with Image.open(picture) as image:
                    result = _upright_rgb(image, name)
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; pass the path of a picture") from error
    except IsADirectoryError as error:
        raise InputError(f"{name} is a folder: pass the path of one picture") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{name} has more than {limit:,} pixels: make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} is not a picture in a supported format: save it as JPEG or PNG"
        ) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{name} cannot be opened: {error.strerror}") from error
        raise InputError(
            f"{name} is damaged ({str(error).strip() or type(error).__name__}): "
            "get an intact copy, or save it again as JPEG or PNG"
        ) from error
    for remark in remarks:
        logger.warning("%s is used despite Pillow's warning: %s", name, remark.message)
    return result


def picture_name(picture: object) -> str:
    """Name of a picture in messages: its path, if it has one."""
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    # Pillow keeps the path on images it opened from a file.
    return str(getattr(picture, "filename", "") or "the picture")


def find_pictures(path: str | os.PathLike[str]) -> list[Path]:
    """The picture files in a folder and its subfolders, sorted; for a file, that file.

    Skips hidden files and folders: these include macOS's `._*` files and the partial outputs of
    interrupted programs.

    Raises:
      InputError: if `path` does not exist, or is a folder without pictures.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; pass a picture or a folder of pictures")
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in _SUFFIXES and not is_hidden(file, path) and file.is_file()
    )
    if not found:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise InputError(f"{path} holds no pictures: expected files ending in {kinds}")
    return found


def save_png(
    picture: Image.Image | np.ndarray,
    path: str | os.PathLike[str],
    *,
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes a PNG with text chunks, atomically.

    Args:
      picture: a Pillow image, or uint8 [H, W, 3] RGB.
      path: must end in `.png`; parent folders are created.
      text: the file's text chunks, by keyword.

    Raises:
      InputError: if `path` does not end in `.png` or is a folder, or `picture` cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(
            f"{path}: pictures are written as PNG; name it {path.with_suffix('.png').name}"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass the name of a file to write")
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(read_picture(picture))
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        # Pillow writes tEXt for Latin-1 text and iTXt otherwise.
        chunks.add_text(keyword, value)
    with replacing_file(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks)


def _upright_rgb(image: Image.Image, name: str) -> np.ndarray:
    if not image.width or not image.height:
        raise InputError(f"{name} is empty: its size is {image.width} x {image.height}")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{name} has floating-point pixels: save it with 8 bits per channel")
    if image.mode.startswith("I"):  # Pillow's convert() clips these at 255.
        return np.repeat(_eight_bits(np.asarray(image), name)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _eight_bits(gray: np.ndarray, name: str) -> np.ndarray:
    """16-bit grayscale [H, W], which Pillow may hold in 32 bits, as uint8."""
    if gray.min() < 0 or gray.max() > 65535:
        raise InputError(f"{name} has 32-bit pixels: save it with 8 or 16 bits per channel")
    return (gray >> 8).astype(np.uint8)
