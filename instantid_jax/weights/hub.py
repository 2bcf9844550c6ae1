"""Fetches the needed files of Hugging Face Hub repositories.

Files go to huggingface_hub's cache. Its settings apply: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN.
"""

import functools
import glob
import logging
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import validate_repo_id

from instantid_jax.errors import InputError
from instantid_jax.paths import local_path, utf8_path
from instantid_jax.weights.selection import PEFT_CONFIG, list_folder
from instantid_jax.weights.torch_files import SUFFIXES

logger = logging.getLogger(__name__)

LISTING_TIMEOUT_SECONDS = 20
# Settings that may lie next to a weights file.
SETTINGS = ("config.json", PEFT_CONFIG)

# Selects from relative paths; raises InputError if something is missing. See selection.py.
Select = Callable[[Sequence[str]], list[str]]


def folder_of(source: str | Path, select: Select) -> Path:
    """A local folder, or the snapshot of a hub id, with the files that `select` requires.

    Raises:
      InputError: if it is neither, or something is missing.
    """
    folder = Path(source)
    if folder.is_dir():
        utf8_path(folder)
        _select(str(folder), select, list_folder(folder))
        return folder
    return fetch(str(source), select)


def file_of(source: str, select: Select) -> Path:
    """A weights file, fetched if it is not on this machine.

    Args:
      source: a file; a folder or hub id, in which `select` picks the file, its first; or a hub id
        and the file's path in it, owner/name/file.
    Raises:
      InputError: if there is none.
    """
    path = local_path(source)
    if path.is_file():
        return path
    repository, inside = split_id(source)
    if inside and not path.exists() and not source.startswith(("/", ".", "~")):
        return fetch(repository, functools.partial(_named, inside)) / inside
    folder = folder_of(source, select)
    return folder / select(list_folder(folder))[0]


def split_id(source: str) -> tuple[str, str]:
    """The hub id of owner/name/file, and the path of the file in it, which may be empty."""
    parts = source.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _named(wanted: str, files: Sequence[str]) -> list[str]:
    """A file, and the settings next to it."""
    if wanted not in files:
        held = [file for file in files if file.endswith(SUFFIXES)]
        raise InputError(f"no {wanted}; it has {', '.join(held[:8]) or 'no weights'}")
    settings = {str(PurePosixPath(wanted).with_name(name)) for name in SETTINGS}
    return [wanted, *(file for file in files if file in settings)]


def fetch(repository: str, select: Select) -> Path:
    """Fetches the files of a repository that `select` picks and that are not cached yet.

    Falls back to cached files if the hub cannot be reached (offline, no network, no access).

    Args:
      repository: "owner/name" or "owner/name@revision", a branch, tag or commit.

    Returns:
      The snapshot's folder in the cache; it may contain other files of the repository too.

    Raises:
      InputError: if there is no such repository or revision, a file is missing, or the hub is
        unreachable and the cache incomplete.
    """
    name, revision = check_id(repository), repository.partition("@")[2]
    try:
        info = huggingface_hub.HfApi().model_info(
            name, revision=revision or None, files_metadata=True, timeout=LISTING_TIMEOUT_SECONDS
        )
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{repository}: the repository has no revision {revision!r}; "
            "name a branch, tag or commit of it"
        ) from error
    except Exception as error:  # the HTTP library differs between huggingface_hub 1 and 2
        return _cached(repository, select, error)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    chosen = _select(repository, select, list(sizes))
    held = _snapshot(name, info.sha)
    missing = [file for file in chosen if held is None or not (held / file).is_file()]
    if missing:
        total = _size(sum(sizes[file] for file in missing))
        logger.info("fetching %d files, %s, from %s", len(missing), total, repository)
    elif held is not None and held == _snapshot(name, revision):
        return held
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[glob.escape(file) for file in chosen]
        )
    except Exception as error:
        raise InputError(
            f"{repository}: the download stopped ({_first_line(error)}); "
            "run again, cached files are kept"
        ) from error
    absent = [file for file in chosen if not (Path(folder) / file).is_file()]
    if absent:
        raise InputError(f"{repository}: the download lacks {', '.join(absent[:4])}; run again")
    return Path(folder)


def cached_file(repository: str, name: str) -> Path | None:
    """A file that was fetched from a repository before; None if there is none, or no such id."""
    try:
        owner_and_name = check_id(repository)
    except InputError:
        return None
    revision = repository.partition("@")[2] or None
    found = huggingface_hub.try_to_load_from_cache(owner_and_name, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def check_id(repository: str) -> str:
    """The "owner/name" of a hub id, which may have a revision.

    Raises:
      InputError: if it is not a hub id.
    """
    name = str(repository).partition("@")[0]
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise InputError(
            f"{repository}: no such folder here, and not a hub id "
            "(owner/name or owner/name@revision); pass either"
        )
    return name


def _cached(repository: str, select: Select, error: Exception) -> Path:
    """The cached snapshot's folder, if complete; `error` is why the hub gave no listing."""
    reason, remedy = _reason(repository, error)
    name, _, revision = repository.partition("@")
    folder = _snapshot(name, revision)
    if folder is None:
        raise InputError(
            f"{repository}: {reason}, and the cache {constants.HF_HUB_CACHE} does not contain it; "
            f"{remedy}"
        ) from error
    try:
        # The repository's files, if an earlier fetch recorded them; the folder may lack some.
        tree = huggingface_hub.get_cached_repo_tree(name, revision=revision or None)
        files = [file.path for file in tree]
    except errors.CachedRepoTreeNotFoundError:
        files = list_folder(folder)
    prefix = f"{repository}: {reason}, and its cached files are incomplete"
    chosen = _select(prefix, select, files)
    missing = [file for file in chosen if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{repository}: {reason}, and the cache {constants.HF_HUB_CACHE} lacks "
            f"{len(missing)} of {len(chosen)} files ({', '.join(missing[:3])}); {remedy}"
        ) from error
    if not isinstance(error, errors.OfflineModeIsEnabled):
        logger.warning("%s: %s; using its cached files", repository, reason)
    return folder


def _reason(repository: str, error: Exception) -> tuple[str, str]:
    """Why the hub gave no listing, and how to fix it."""
    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set", "run once without it, with a network"
        case errors.GatedRepoError():
            page = f"{constants.ENDPOINT}/{repository.partition('@')[0]}"
            return (
                "it is gated",
                f"accept its terms at {page}, then run `hf auth login` or set HF_TOKEN",
            )
        case errors.RepositoryNotFoundError():
            return (
                f"no such folder here, and no such public repository at {constants.ENDPOINT}",
                "check the name; for a private one run `hf auth login` or set HF_TOKEN",
            )
        case errors.HfHubHTTPError():
            status = error.response.status_code
            remedy = "check HF_TOKEN" if status in (401, 403) else "try again later"
            return f"{constants.ENDPOINT} answered {status}", remedy
        case _:
            return (
                f"{constants.ENDPOINT} cannot be reached ({_first_line(error)})",
                "check the network, or pass a local folder",
            )


def _select(prefix: str, select: Select, files: Sequence[str]) -> list[str]:
    try:
        return select(files)
    except InputError as error:
        raise InputError(f"{prefix}: {error}") from error


def _snapshot(name: str, revision: str | None) -> Path | None:
    """The cached folder of a revision, which may be incomplete."""
    try:
        # No pattern: no file is requested.
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, local_files_only=True, allow_patterns=[]
            )
        )
    except errors.LocalEntryNotFoundError:
        return None


def _size(count: int) -> str:
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} bytes"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
