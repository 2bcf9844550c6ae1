"""Reading images as upright RGB."""

import collections
import contextlib
import functools
import io
import logging
import mimetypes
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.paths import local_path

try:
    from pillow_heif import register_heif_opener
except ImportError:  # It is optional.
    pass
else:
    register_heif_opener()

logger = logging.getLogger(__name__)

# An input image: a file path, a Pillow image, or a uint8 [H, W, 3] RGB array.
ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray

# Suffixes of images, if Pillow and its plugins read their formats; a file passed directly may have
# any name.
_SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png"}
_SUFFIXES |= {".tif", ".tiff", ".webp"}
# Suffixes of camera formats that `mimetypes` may not know.
_HEIC = {".heic", ".heif"}
_RAW = {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".nef", ".orf", ".raf", ".rw2"}

# Characters of a path in a message.
_SHOWN = 120
# Pillow's decoders raise all of these for damaged files.
DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError)
DAMAGE += (SyntaxError, TypeError, ValueError, struct.error, zlib.error)


def read_image(image: ImageInput) -> np.ndarray:
    """Reads an image upright, as uint8 [H, W, 3] RGB.

    Applies EXIF rotation, composites transparency on white, takes the first frame of an animation
    and converts every other color mode to 8-bit RGB. Ignores color profiles. Checks arrays and
    returns them unchanged.

    Raises:
      InputError: no such file, not an image, damaged, empty, or of more pixels than Pillow takes
        (twice `PIL.Image.MAX_IMAGE_PIXELS`, about 179 million).
    """
    name = image_name(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"{name} is {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3], RGB"
            )
        if not image.size:
            raise InputError(f"{name} is empty: its shape is {list(image.shape)}")
        return image
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise InputError(
            f"an image cannot be a {type(image).__name__}: "
            "pass a file path, a Pillow image, or a uint8 [H, W, 3] array"
        )
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            # Pillow warns from half of the size that it rejects; such images are accepted here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if isinstance(image, Image.Image):
                result = _upright_rgb(image, name)
            else:
                with _opened(local_path(image)) as opened:
                    result = _upright_rgb(opened, name)
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; pass the path of an image") from error
    except IsADirectoryError as error:
        raise InputError(f"{name} is a folder: pass the path of one image") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{name} has more than {limit:,} pixels: make it smaller") from error
    except UnidentifiedImageError as error:
        heic = Path(name).suffix.lower() in _HEIC
        remedy = "pip install 'instantid-jax[heic]', or " if heic else ""
        raise InputError(
            f"{name} is not an image in a supported format: {remedy}save it as JPEG or PNG"
        ) from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{name} cannot be opened: {error.strerror}") from error
        if isinstance(image, Image.Image) and "closed" in str(error):
            raise InputError(
                f"{name} cannot be read ({error}): pass an image that is open"
            ) from error
        raise InputError(
            f"{name} is damaged ({str(error).strip() or type(error).__name__}): "
            "get an intact copy, or save it again as JPEG or PNG"
        ) from error
    for remark in remarks:
        logger.warning("%s is used despite Pillow's warning: %s", name, remark.message)
    return result


def image_name(image: object) -> str:
    """Name of an image in messages: its path, if it has one."""
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    # Pillow keeps the path on images it opened from a file.
    return str(getattr(image, "filename", "") or "the image")


def find_images(path: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder and its subfolders, sorted; for a file, that file.

    Skips hidden files and folders: these include macOS's `._*` files and the partial outputs of
    interrupted programs. Logs how many images of other formats it skips. Reads HEIC if the package
    pillow-heif is installed.

    Raises:
      InputError: if `path` does not exist, or is a folder without images.
    """
    path = local_path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; pass an image or a folder of images")
    if not path.is_dir():
        return [path]
    readable = image_suffixes()
    files = [f for f in sorted(path.rglob("*")) if not is_hidden(f, path) and f.is_file()]
    found = [file for file in files if file.suffix.lower() in readable]
    skipped = collections.Counter(
        file.suffix.lower()
        for file in files
        if file.suffix.lower() not in readable and _is_photo(file)
    )
    if skipped:
        kinds = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(skipped.items()))
        logger.warning(
            "%s: skipped images of formats that are not read: %s; save them as JPEG or PNG%s",
            path,
            kinds,
            ", or install pillow-heif for HEIC" if _HEIC & set(skipped) else "",
        )
    if not found:
        kinds = ", ".join(sorted(readable))
        raise InputError(f"{path} holds no images: expected files ending in {kinds}")
    return found


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of image files that are read in a folder or an archive, in lower case."""
    registered = Image.registered_extensions()
    return frozenset(suffix for suffix in _SUFFIXES if registered.get(suffix) in Image.OPEN)


def _is_photo(file: Path) -> bool:
    kind = mimetypes.guess_type(file.name)[0] or ""
    return kind.startswith("image/") or file.suffix.lower() in _RAW


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, or what comes out of a pipe."""
    with path.open("rb") as file:
        with Image.open(file if file.seekable() else io.BytesIO(file.read())) as image:
            yield image


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
    """16-bit grayscale [H, W], which Pillow may hold in 32 bits, as uint8.

    Values of at most 255 are of 8 bits, as in images that were converted.
    """
    if gray.min() < 0 or gray.max() > 65535:
        raise InputError(f"{name} has 32-bit pixels: save it with 8 or 16 bits per channel")
    return (gray >> 8 if gray.max() > 255 else gray).astype(np.uint8)
