"""`instantid --version`: the facts a bug report needs."""

import platform
from collections import Counter
from importlib.metadata import version

PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def print_versions() -> None:
    """Prints the versions of the library and what it runs on, then the devices JAX finds.

    The devices come last, because finding them takes seconds and fails on a machine with a broken
    driver; the versions are then on the screen already.
    """
    print(f"instantid-jax {version('instantid-jax')}")
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES))
    print(f"Python {platform.python_version()}, {platform.platform()}", flush=True)

    import jax

    kinds = Counter(device.device_kind for device in jax.devices())
    devices = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    print(f"{jax.default_backend()}: {devices}")
