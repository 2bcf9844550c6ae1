"""Extras: packages that one command needs and the others do not."""

import importlib.util
from collections.abc import Sequence

from instantid_jax.errors import InputError


def check_extra(extra: str, packages: Sequence[str]) -> None:
    """Refuses to run without the packages of an extra.

    Args:
      packages: by the names that are imported.
    Raises:
      InputError: naming those that are missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"packages that this command needs are missing ({', '.join(missing)}): pip install "
            f"'instantid-jax[{extra}]'"
        )
