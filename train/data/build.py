"""`python -m train.data.build`: a folder of pictures with faces, or img2dataset tars, to a dataset.

Beside picture `a.jpg` lie `a.npz`, its face as `instantid embed` writes it, and if there are any
`a.txt`, its caption, and `a.json`, notes under img2dataset's names: `NSFW`, `LICENSE`,
`original_width`, `original_height`; also `identity`, and `captions`, more captions by source.
"""

import io
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.pictures import read_picture
from train.data.buckets import Size, aspect_buckets
from train.data.candidates import Candidate, Rejected, find_candidates
from train.data.faces import face_share, sharpness
from train.data.record import CorruptRecord, Record, is_whole_jpeg, picture_hash
from train.data.writing import write_dataset

_ORIENTATION = 0x0112  # the EXIF tag
_MAX_REFERENCES = 8


def build(
    input: Path,
    output: Path,
    faces: Path | None = None,
    shards: int = 1,
    caption_source: str = "alt",
    people: bool = False,
    resolution: int = 1024,
    embedding_size: int = 512,
) -> dict[str, Any]:
    """Writes a dataset that training reads, and returns its manifest.

    Args:
      input: a folder of pictures, a .tar of img2dataset, or a folder of these.
      output: a new folder for the dataset.
      faces: a folder with the faces' .npz, where they do not lie beside the pictures.
      shards: files the records are spread over.
      caption_source: what the .txt captions are called in the records.
      people: sub-folders are people: a picture's identity is its folder's name, and the faces of up
        to eight others of the folder are its references.
      resolution: of the buckets in the index; training may use others.
      embedding_size: numbers in an embedding, 512 for antelopev2.
    """
    rejected: Counter[str] = Counter()
    references = _references(input, faces) if people else {}
    records = _records(
        find_candidates(input, faces), caption_source, embedding_size, references, rejected
    )
    return write_dataset(
        output,
        records,
        shards=shards,
        embedding_size=embedding_size,
        buckets=aspect_buckets(resolution),
        rejected=rejected,
        notes={"input": input.name, "caption_source": caption_source, "people": people},
    )


def make_record(
    candidate: Candidate,
    *,
    caption_source: str = "alt",
    embedding_size: int = 512,
    identity: str = "",
    references: Sequence[np.ndarray] = (),
) -> tuple[Record, Size]:
    """A record of a picture, and the picture's (height, width) as stored.

    Raises:
      Rejected: with the reason.
    """
    image, pixels = upright_jpeg(candidate.picture)
    size = (pixels.shape[0], pixels.shape[1])
    kps, bbox, face = _measured(candidate.face, size)
    if face.embedding.size != embedding_size:
        raise Rejected("embedding of another size")
    notes = candidate.notes
    captions = {str(k): str(v) for k, v in dict(_mapping(notes.get("captions"))).items()}
    if candidate.caption is not None:
        captions[caption_source] = candidate.caption
    references = [vector for vector in references if vector.size == embedding_size]
    record = Record(
        image=image,
        captions=captions,
        embedding=face.embedding,
        kps=kps,
        bbox=bbox,
        det_score=float(face.det_score or 0.0),
        original_size=_original_size(notes, size),
        sharpness=sharpness(pixels, bbox),
        reference_embeddings=np.reshape(np.array(references, np.float32), (-1, embedding_size)),
        identity=identity or str(notes.get("identity") or ""),
        nsfw=str(notes.get("NSFW") or ""),
        license=str(notes.get("LICENSE") or ""),
        key=candidate.key,
        sha256=picture_hash(image),
    )
    try:
        record.check()
    except CorruptRecord as error:
        raise Rejected("unusable face") from error
    return record, size


def upright_jpeg(data: bytes) -> tuple[bytes, np.ndarray]:
    """A picture file as upright RGB JPEG bytes, and its pixels.

    A file that is one already is kept as it is; others are written at quality 95, without chroma
    subsampling.

    Raises:
      Rejected: if it is no picture, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = opened.getexif().get(_ORIENTATION, 1) == 1
            keep = opened.format == "JPEG" and opened.mode == "RGB" and upright
            pixels = read_picture(opened)
    except (InputError, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise Rejected("unreadable picture") from error
    if keep and is_whole_jpeg(data):
        return data, pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), pixels


def _records(
    candidates: Iterator[Candidate],
    caption_source: str,
    embedding_size: int,
    references: Mapping[str, Mapping[str, np.ndarray]],
    rejected: Counter[str],
) -> Iterator[tuple[Record, Size]]:
    from tqdm import tqdm

    keys = set()
    for candidate in tqdm(candidates, unit=" pictures", disable=None):
        person = Path(candidate.key).parent.as_posix() if references else ""
        others = {k: v for k, v in references.get(person, {}).items() if k != candidate.key}
        try:
            if candidate.key in keys:
                raise Rejected("second picture of the same name")
            keys.add(candidate.key)
            yield make_record(
                candidate,
                caption_source=caption_source,
                embedding_size=embedding_size,
                identity="" if person == "." else person,
                references=list(others.values())[:_MAX_REFERENCES],
            )
        except Rejected as reason:
            rejected[str(reason)] += 1


def _references(source: Path, faces: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """Embeddings by person and key."""
    folder = faces or source
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for path in sorted(folder.glob("*/**/*.npz")):
        key = path.relative_to(folder).with_suffix("")
        try:
            found[key.parent.as_posix()][key.as_posix()] = Face.load(path).embedding
        except InputError:
            continue  # its picture is rejected for it
    if not found:
        raise InputError(f"--people: {folder} has no sub-folders with faces in them")
    return dict(found)


def _measured(face: Face | Rejected, size: Size) -> tuple[np.ndarray, np.ndarray, Face]:
    """Keypoints and box in pixels of a picture of `size`."""
    if isinstance(face, Rejected):
        raise face
    if face.bbox is None:
        raise Rejected("face file without a box")
    if face.image_size not in (None, size):
        # The picture may have been resized since, but not cut.
        scale = np.array(size) / np.array(face.image_size)
        if abs(scale[0] / scale[1] - 1) > 0.01:
            raise Rejected("face of a picture of another shape")
        kps, bbox = face.kps * scale[::-1], face.bbox * np.tile(scale[::-1], 2)
    else:
        kps, bbox = face.kps, face.bbox
    if face_share(bbox, size) == 0:
        raise Rejected("face outside of the picture")
    return kps.astype(np.float32), bbox.astype(np.float32), face


def _original_size(notes: Mapping[str, Any], size: Size) -> Size:
    """As the downloader noted it; the picture's own where it did not."""
    height, width = notes.get("original_height"), notes.get("original_width")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        return size
    # It may have been noted before the picture was turned upright.
    turned = (height > width) != (size[0] > size[1]) and height != width and size[0] != size[1]
    return (width, height) if turned else (height, width)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the program. Bad input ends with one line and status 2."""
    logging.basicConfig(format="train.data.build: %(message)s", level=logging.WARNING)
    import tyro

    try:
        manifest = tyro.cli(build, args=args, prog="python -m train.data.build")
    except InputError as error:
        print(f"train.data.build: error: {error}", file=sys.stderr)
        sys.exit(2)
    buckets = ", ".join(f"{n} of {size}" for size, n in manifest["buckets"].items() if n)
    print(f"{manifest['kept']} of {manifest['seen']} pictures kept ({buckets})")
    for reason, count in manifest["rejected"].items():
        print(f"{count} rejected: {reason}")


if __name__ == "__main__":
    main()
