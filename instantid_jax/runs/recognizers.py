"""The recognizer with whose faces InstantID weights were trained."""

from pathlib import Path

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.face.packs import ANTELOPEV2_RECOGNIZER, recognizer_hash
from instantid_jax.json_files import read_json
from instantid_jax.runs.folder import RunFolder, is_run
from instantid_jax.weights.hub import cached_file

# Key of its SHA-256: in a run's networks.json, in the config.json next to an adapter's file, and in
# the index of a converted model.
RECOGNIZER = "recognizer"


def recognizer_of(source: str) -> str | None:
    """How the SHA-256 of the recognizer begins with whose faces InstantID weights were trained.

    Weights that name none are taken to be of antelopev2's.

    Args:
      source: a training run, a folder or hub id of InstantID weights, or a converted model.
    Returns:
      None for a training run whose data did not say it.
    """
    path = Path(source)
    if is_run(path):
        run = RunFolder(path)
        return read_json(run.networks).get(RECOGNIZER) if run.networks.is_file() else None
    if path.resolve() == embedded.INSTANTID.resolve():
        return recognizer_hash(embedded.FACE_PACK / "recogniser.onnx")
    from instantid_jax.checkpoint import INDEX  # Orbax is slow to import

    places = [path / INDEX, path / "config.json", cached_file(source, "config.json")]
    found = next((place for place in places if place is not None and place.is_file()), None)
    return ANTELOPEV2_RECOGNIZER if found is None else _named(found) or ANTELOPEV2_RECOGNIZER


def named_recognizer(source: str) -> dict[str, str]:
    """The entry that names it in what is converted from a source; empty for antelopev2's."""
    found = recognizer_of(source)
    if found is None or found.startswith(ANTELOPEV2_RECOGNIZER):
        return {}
    return {RECOGNIZER: found}


def _named(settings: Path) -> str | None:
    found = read_json(settings).get(RECOGNIZER)
    if not isinstance(found, str | None):
        raise InputError(f"{settings} has recognizer={found!r}: expected a SHA-256 or nothing")
    return found
