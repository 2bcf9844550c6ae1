"""`python -m train.data.build`: builds a dataset from images with analyzed faces.

The input is a folder or img2dataset tars. Image `a.jpg` comes with its face `a.npz`, as written by
`instantid embed`, and optionally with its caption `a.txt` and metadata `a.json`. Metadata has
img2dataset's names (`NSFW`, `LICENSE`, `original_width`, `original_height`), `identity`, and
`captions`, which maps sources to further captions.
"""

import dataclasses
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instantid_jax.cache import cache_folder
from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.paths import is_address
from train.data.buckets import Size, aspect_buckets
from train.data.candidates import Candidate, find_candidates
from train.data.faces import face_share
from train.data.folder import INFO
from train.data.record import Record
from train.data.record_builder import Rejected, captions_of, record_of, upright_jpeg
from train.data.upload import upload
from train.data.writing import print_outcome, write_dataset
from train.remote.store import Store

_MAX_REFERENCES = 8


def build(
    input: Path,
    output: str,
    faces: Path | None = None,
    shards: int = 1,
    caption_source: str = "alt",
    people: bool = False,
    resolution: int = 1024,
    embedding_size: int = 512,
) -> dict[str, Any]:
    """Writes a training dataset.

    Args:
      input: a folder of images, an img2dataset .tar, or a folder of .tar files.
      output: a new folder for the dataset, or an address, such as s3://bucket/faces.
      faces: folder of the faces' .npz files, if they are not next to the images.
      shards: number of files to write.
      caption_source: source name of the .txt captions in the records.
      people: treat each subfolder as one person. Its name becomes the images' identity, and the
        faces of up to eight other images in it become an image's references.
      resolution: resolution of the buckets in the index; training may use another.
      embedding_size: length of an embedding; 512 for antelopev2.
    Returns:
      The manifest.
    """
    rejected: Counter[str] = Counter()
    recognizers: set[str | None] = set()
    references = _references(input, faces) if people else {}
    candidates = find_candidates(input, faces, rejected)
    records = _records(
        candidates, caption_source, embedding_size, references, rejected, recognizers
    )
    return _write(
        output,
        records,
        shards=shards,
        embedding_size=embedding_size,
        buckets=aspect_buckets(resolution),
        rejected=rejected,
        recognizers=recognizers,
        notes={"input": input.name, "caption_source": caption_source, "people": people},
    )


def _write(output: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
    """As `write_dataset`, also to an address."""
    if not is_address(output):
        return write_dataset(output, *args, **options)
    if any(name.endswith(INFO) for name in Store(str(output)).files()):
        raise InputError(f"{output} has a dataset: pass a new address for the dataset")
    scratch = cache_folder() / "build"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        manifest = write_dataset(Path(folder) / "data", *args, **options)
        upload(Path(folder) / "data", str(output))
    return manifest


def make_record(
    candidate: Candidate,
    *,
    caption_source: str = "alt",
    embedding_size: int = 512,
    identity: str = "",
    references: Sequence[np.ndarray] = (),
) -> tuple[Record, Size]:
    """Makes the record of an image; returns it with the stored image's (height, width).

    Raises:
      Rejected: with the reason, if the image is unusable.
    """
    image = upright_jpeg(candidate.image)
    face = _measured(candidate.face, image.size)
    if face.embedding.size != embedding_size:
        raise Rejected("wrong embedding size")
    references = [vector for vector in references if vector.size == embedding_size]
    record = record_of(
        candidate.key,
        image,
        face,
        captions=captions_of(candidate.sidecars, caption_source),
        notes=candidate.sidecars.notes,
        identity=identity,
        references=np.reshape(np.array(references, np.float32), (-1, embedding_size)),
    )
    return record, image.size


def _records(
    candidates: Iterator[Candidate],
    caption_source: str,
    embedding_size: int,
    references: Mapping[str, Mapping[str, np.ndarray]],
    rejected: Counter[str],
    recognizers: set[str | None],
) -> Iterator[tuple[Record, Size]]:
    from tqdm import tqdm

    keys, first = set(), None
    for candidate in tqdm(candidates, unit=" images", disable=None):
        person = Path(candidate.key).parent.as_posix() if references else ""
        others = {k: v for k, v in references.get(person, {}).items() if k != candidate.key}
        try:
            if candidate.key in keys:
                raise Rejected("duplicate name")
            keys.add(candidate.key)
            if isinstance(candidate.face, Face):
                recognizers.add(candidate.face.recognizer)
                first = first or candidate.face
            if isinstance(candidate.face, Face) and not candidate.face.is_comparable(first):
                raise InputError(
                    f"the face of {candidate.key} was measured by another recognizer than earlier "
                    "ones: run `instantid embed` with one face pack for all photos"
                )
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
            continue  # its image is rejected later
    if not found:
        raise InputError(
            f"--people: {folder} has no subfolders with faces: put each person's photos in a "
            "folder of their own, and run `instantid embed` on the folder that has them all"
        )
    return dict(found)


def _measured(face: Face | Rejected, size: Size) -> Face:
    """The face with keypoints and box in pixels of an image of `size`."""
    if isinstance(face, Rejected):
        raise face
    if face.bbox is None:
        raise Rejected("no box in face file")
    kps, bbox = face.kps, face.bbox
    if face.image_size not in (None, size):
        # The image may have been resized since, but not cropped.
        scale = np.array(size) / np.array(face.image_size)
        if abs(scale[0] / scale[1] - 1) > 0.01:
            raise Rejected("face of an image with another aspect ratio")
        kps, bbox = kps * scale[::-1], bbox * np.tile(scale[::-1], 2)
    if face_share(bbox, size) == 0:
        raise Rejected("face outside the image")
    return dataclasses.replace(face, kps=kps, bbox=bbox, image_size=size)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the program. Exit status: 2 after bad input."""
    with entry("train.data.build"):
        import tyro

        manifest = tyro.cli(build, args=args, prog="python -m train.data.build")
        print_outcome(manifest)


if __name__ == "__main__":
    main()
