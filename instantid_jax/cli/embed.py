"""`instantid embed`: photos in, face files out."""

import collections
import logging
import sys
from pathlib import Path

import tyro
from tqdm import tqdm

from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.outputs import check_folder
from instantid_jax.errors import InputError
from instantid_jax.images import find_images

logger = logging.getLogger(__name__)

# Exit status if some photos gave no face; those of the others are written.
PARTLY_FAILED = 1


def embed(
    photos: tyro.conf.Positional[Path],
    output: Path,
    face_pack: FacePack = FacePack(),
) -> None:
    """Writes the largest face of every photo as .npz, for `instantid generate --face`.

    Ends with status 1 if some of the photos gave no face.

    Args:
      photos: a photo, or a folder of photos.
      output: a folder; photo a/b.jpg becomes a/b.npz in it.
    """
    check_folder(output)
    found = find_images(photos)
    base = photos if photos.is_dir() else photos.parent
    targets = {path: (output / path.relative_to(base)).with_suffix(".npz") for path in found}
    sources = collections.defaultdict(list)
    for path, target in targets.items():
        sources[target].append(str(path))
    clashes = [(target, paths) for target, paths in sources.items() if len(paths) > 1]
    if clashes:
        target, paths = clashes[0]
        more = f", and so on for {len(clashes) - 1} more" if clashes[1:] else ""
        raise InputError(
            f"{' and '.join(paths)} would all become {target}{more}: rename or remove photos"
        )
    failed = 0
    analyzer = face_pack.analyzer()
    for path, face in tqdm(analyzer.analyze_each(found), total=len(found), disable=None):
        if isinstance(face, InputError):
            failed += 1
            logger.warning("%s", face)
        else:
            face.save(targets[path])
    print(f"{len(found) - failed} of {len(found)} photos written to {output}", file=sys.stdout)
    if failed == len(found):
        raise InputError(f"no photo of {photos} gave a face")
    if failed:
        sys.exit(PARTLY_FAILED)
