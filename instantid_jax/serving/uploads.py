"""Uploaded images: nobody vouches for them, so they are checked before they are decoded."""

import threading
import warnings
from typing import IO

from PIL import Image, UnidentifiedImageError

from instantid_jax.errors import InputError
from instantid_jax.images import DAMAGE

# Other formats have decoders that are better kept away from strangers' files.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
# Held while images are read: that changes the filters of warnings, which Python keeps for the whole
# process.
reading = threading.Lock()


class UploadError(InputError):
    """An upload that cannot be used.

    Attributes:
      code: "invalid_image" or "image_too_large".
    """

    def __init__(self, message: str, code: str = "invalid_image"):
        super().__init__(message)
        self.code = code


def open_upload(file: str | IO[bytes], name: str, pixels: int) -> Image.Image:
    """Reads an image's header, and decodes nothing; call it while `reading` is held.

    Args:
      file: its path or content.
      name: names it in messages.
      pixels: the most that it may have.
    Raises:
      UploadError: for other formats than `FORMATS`, damage, and more pixels.
    """
    Image.init()
    known = [each for each in FORMATS if each in Image.OPEN]
    too_large = UploadError(
        f"{name} has more than {pixels:,} pixels: make it smaller", "image_too_large"
    )
    try:
        with warnings.catch_warnings():
            # What it warns of is checked below, or allowed.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=known)
    except Image.DecompressionBombError as error:
        raise too_large from error
    except UnidentifiedImageError as error:
        raise UploadError(
            f"{name} is not an image in a format that is read: expected one of {', '.join(known)}"
        ) from error
    except DAMAGE as error:
        raise damaged(name, error) from error
    if image.width * image.height > pixels:
        image.close()
        raise too_large
    return image


def damaged(name: str, error: Exception) -> UploadError:
    """The error of an upload that cannot be decoded."""
    reason = str(error).strip() or type(error).__name__
    return UploadError(
        f"{name} is damaged ({reason}): get an intact copy, or save it again as JPEG or PNG"
    )
