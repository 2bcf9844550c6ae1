"""Turns images into records: decodes, detects the face, and embeds faces in batches."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from instantid_jax.face.analysis import BATCH, FaceAnalyzer, FoundFace
from train.data.buckets import Size
from train.data.record import Record
from train.data.record_builder import Rejected, StoredImage, captions_of, record_of, upright_jpeg
from train.prepare.filtering import Filter
from train.prepare.inputs import Entry


class _Found(NamedTuple):
    """An image whose face is detected but not yet embedded."""

    entry: Entry
    image: StoredImage
    face: FoundFace


def measured_records(
    entries: Iterable[Entry],
    analyzer: FaceAnalyzer,
    filter: Filter,
    caption_source: str,
    rejected: Counter[str],
) -> Iterator[tuple[Record, Size]]:
    """Yields the records of usable images in order, each with the image's (height, width).

    Args:
      caption_source: source name of the images' captions in the records.
      rejected: counts the other images by reason.
    """
    waiting: list[_Found] = []
    keys = set()
    for entry in entries:
        try:
            if entry.key in keys:
                raise Rejected("duplicate name")
            keys.add(entry.key)
            waiting.append(_find(entry, analyzer, filter))
        except Rejected as reason:
            rejected[str(reason)] += 1
        if len(waiting) == BATCH:
            yield from _recognized(waiting, analyzer, caption_source, rejected)
            waiting = []
    if waiting:
        yield from _recognized(waiting, analyzer, caption_source, rejected)


def _find(entry: Entry, analyzer: FaceAnalyzer, filter: Filter) -> _Found:
    image = upright_jpeg(entry.image)
    filter.check_size(image.size)
    boxes, kps = analyzer.find(image.pixels)
    row = filter.only_face(boxes, image)
    return _Found(entry, image, analyzer.crop(image.pixels, boxes[row], kps[row]))


def _recognized(
    waiting: list[_Found],
    analyzer: FaceAnalyzer,
    caption_source: str,
    rejected: Counter[str],
) -> Iterator[tuple[Record, Size]]:
    faces = analyzer.measured([found.face for found in waiting])
    for (entry, image, _), face in zip(waiting, faces, strict=True):
        try:
            record = record_of(
                entry.key,
                image,
                face,
                captions=captions_of(entry.sidecars, caption_source),
                notes=entry.sidecars.notes,
                references=np.zeros((0, face.embedding.size), np.float32),
            )
        except Rejected as reason:
            rejected[str(reason)] += 1
        else:
            yield record, image.size
