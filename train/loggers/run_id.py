"""The id under which a tracking service knows a run, kept in the run's folder."""

from instantid_jax.atomic import replacing_file
from instantid_jax.runs.folder import RunFolder


def stored_id(run: RunFolder, service: str) -> str | None:
    """The id that an earlier process of the run stored."""
    path = run.path / f"{service}_run_id"
    return path.read_text().strip() if path.is_file() else None


def store_id(run: RunFolder, service: str, run_id: str) -> None:
    with replacing_file(run.path / f"{service}_run_id") as temporary:
        temporary.write_text(f"{run_id}\n")
