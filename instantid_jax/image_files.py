"""Image files that carry text: PNG, JPEG and WebP, written and read back.

A PNG has text chunks. JPEG and WebP have one text as EXIF's UserComment, in UTF-16 as
AUTOMATIC1111's web UI writes it, and the others as properties of XMP.
"""

import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError
from instantid_jax.images import DAMAGE, read_image
from instantid_jax.paths import local_path

logger = logging.getLogger(__name__)

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SUFFIXES = f"{', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}"
# Without visible loss, at a fifth of a PNG's size; JPEG's colors keep their resolution.
OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
# Pixels of a side, as far as the formats' encoders go.
LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
# Bytes that one segment of a JPEG holds, of EXIF and, after its name, of XMP.
LONGEST_EXIF, LONGEST_XMP = 65533, 65533 - len(b"http://ns.adobe.com/xap/1.0/\0")

# The keyword of the text in UserComment, and of the one that is XMP's description, too.
COMMENT, DESCRIPTION = "parameters", "prompt"
UNICODE = b"UNICODE\0"
NAMESPACE = "urn:instantid_jax:"
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    f'xmlns:instantid="{NAMESPACE}">%s</rdf:Description></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)
# Characters that XML cannot hold.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def format_of(path: Path) -> str:
    """Pillow's name of the format of a file.

    Raises:
      InputError: if its suffix is of no format that is written.
    """
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise InputError(f"{path}: expected a name ending in {SUFFIXES}")
    Image.init()
    if name not in Image.SAVE:
        raise InputError(f"{path}: Pillow was built without {name}; name a .png")
    return name


def save_image(
    image: Image.Image | np.ndarray,
    path: str | os.PathLike[str],
    *,
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes an image file with texts, atomically.

    A text that a JPEG has no room for is left out, with a warning.

    Args:
      image: a Pillow image, or uint8 [H, W, 3] RGB.
      path: ends in one of `FORMATS`; parent folders are created.
      text: texts by keyword; keywords are names in ASCII.
    Raises:
      InputError: if `path` has another suffix or is a folder, `image` cannot be read, or the format
        cannot hold it.
    """
    path = local_path(path)
    name = format_of(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass the name of a file to write")
    if not isinstance(image, Image.Image):
        image = Image.fromarray(read_image(image))
    carried = _carried(image, name, str(path), text or {})
    with replacing_file(path) as temporary:
        image.save(temporary, format=name, **OPTIONS[name], **carried)


def encode_image(
    image: Image.Image,
    name: str,
    *,
    text: Mapping[str, str] | None = None,
    quality: int | None = None,
) -> bytes:
    """The bytes of an image file with texts, as `save_image` writes it.

    Args:
      name: Pillow's name of the format, one of `OPTIONS`.
      quality: of JPEG and WebP, 0 to 100; None is as `OPTIONS` say. PNG has none.
    Raises:
      InputError: if the format cannot hold the image.
    """
    options = dict(OPTIONS[name])
    if quality is not None and "quality" in options:
        options["quality"] = quality
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options, **_carried(image, name, "the image", text or {}))
    return buffer.getvalue()


def _carried(image: Image.Image, name: str, target: str, text: Mapping[str, str]) -> dict[str, Any]:
    """Pillow's options for the texts of an image, which the format must be able to hold.

    Args:
      target: what is written, for messages.
    """
    if max(image.size) > LARGEST_SIDE.get(name, max(image.size)):
        raise InputError(
            f"{target}: a side of {max(image.size)} pixels, and {name} has at most "
            f"{LARGEST_SIDE[name]}: name a .png"
        )
    if name == "JPEG" and image.mode not in ("L", "RGB"):
        raise InputError(f"{target}: JPEG holds no {image.mode}: convert the image, or name a .png")
    # Names of files may have bytes that are not UTF-8; their escapes are those of JSON, too.
    texts = {
        keyword: value.encode(errors="backslashreplace").decode() for keyword, value in text.items()
    }
    if name == "PNG":
        return _png_options(texts)
    return dict(_exif_and_xmp(texts, target, name == "JPEG"))


def read_text(path: Path) -> dict[str, str]:
    """The texts of an image file by keyword, after a look at all of its pixels.

    Reads UserComment in every encoding that is common, and what of `save_image`'s texts other
    programs kept.

    Raises:
      InputError: if it is not an image, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()  # A PNG's text may follow the pixels.
                comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
                texts = _of_xmp(image.info.get("xmp")) | _of_comment(comment)
                return texts | getattr(image, "text", {})
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (*DAMAGE, Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error


def _png_options(texts: Mapping[str, str]) -> dict[str, Any]:
    chunks = PngInfo()
    for keyword, value in texts.items():
        # Pillow writes tEXt for Latin-1 text and iTXt otherwise.
        chunks.add_text(keyword, value)
    return {"pnginfo": chunks}


def _exif_and_xmp(texts: Mapping[str, str], target: str, limited: bool) -> dict[str, bytes]:
    """Pillow's options for JPEG, whose segments are `limited`, and WebP."""
    options: dict[str, bytes] = {}
    if COMMENT in texts:
        options["exif"] = _exif(texts[COMMENT])
    others = {keyword: value for keyword, value in texts.items() if keyword != COMMENT}
    if others:
        options["xmp"] = _xmp(others)
    if not limited:
        return options
    if len(options.get("xmp", b"")) > LONGEST_XMP:
        others.pop(DESCRIPTION, None)
        options["xmp"] = _xmp(others)
    longest = {"exif": (LONGEST_EXIF, [COMMENT]), "xmp": (LONGEST_XMP, others)}
    for option, (most, keywords) in longest.items():
        if len(options.get(option, b"")) > most:
            del options[option]
            logger.warning(
                "%s does not record %s: it is longer than the 64 KB that a JPEG has room for; "
                "PNG and WebP have more",
                target,
                " and ".join(map(repr, keywords)),
            )
    return options


def _exif(text: str) -> bytes:
    """EXIF with a UserComment alone, which Pillow would write as BYTE instead of UNDEFINED."""
    comment = UNICODE + text.encode("utf-16-be")
    exif, user_comment = ExifTags.IFD.Exif, ExifTags.Base.UserComment
    # A directory is its number of entries, each tag, type, count and value, and a zero.
    first = struct.pack(">HHHIII", 1, exif, 4, 1, 26, 0)
    second = struct.pack(">HHHIII", 1, user_comment, 7, len(comment), 44, 0)
    return b"Exif\0\0" + b"MM\0*" + struct.pack(">I", 8) + first + second + comment


def _xmp(texts: Mapping[str, str]) -> bytes:
    properties = ""
    for keyword, value in texts.items():
        # In JSON, the escapes are the characters themselves.
        written = _UNWRITABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", escape(value))
        if keyword == DESCRIPTION:
            item = f'<rdf:li xml:lang="x-default">{written}</rdf:li>'
            properties += f"<dc:description><rdf:Alt>{item}</rdf:Alt></dc:description>"
        properties += f"<instantid:{keyword}>{written}</instantid:{keyword}>"
    return (XMP % properties).encode()


def _of_xmp(packet: Any) -> dict[str, str]:
    """Our properties of an XMP packet, which other programs may have written anew."""
    # A document type is not part of XMP, and may be a bomb.
    if not isinstance(packet, bytes) or b"<!DOCTYPE" in packet:
        return {}
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \r\n"))
    except (ElementTree.ParseError, LookupError, ValueError):
        return {}
    found: dict[str, str] = {}
    for element in root.iter():
        for name, value in ((element.tag, element.text), *element.attrib.items()):
            if name.startswith(f"{{{NAMESPACE}}}"):
                found[name.partition("}")[2]] = value or ""
    return found


def _of_comment(comment: Any) -> dict[str, str]:
    """UserComment: in UTF-16 of either order, or in UTF-8."""
    if not isinstance(comment, bytes):
        return {} if comment is None else {COMMENT: str(comment)}
    code, body = comment[: len(UNICODE)], comment[len(UNICODE) :]
    if code == UNICODE:
        # Its settings are ASCII: whatever the prompt, their high bytes are zeros.
        little = body[1::2].count(0) > body[::2].count(0)
        text = body.decode("utf-16-le" if little else "utf-16-be", errors="replace")
    else:
        named = code in (b"ASCII\0\0\0", bytes(len(code)))
        text = (body if named else comment).decode(errors="replace")
    return {COMMENT: text.strip("\ufeff\0")}
