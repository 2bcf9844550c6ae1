"""The training program and its data preparation, run from a checkout: `python -m train ...`."""

import importlib.util
import sys

# Packages of the extra `train`.
_NEEDED = ("array_record", "grain", "onnx", "optax", "tensorflow_datasets")

# Python imports the packages of a program before the program itself.
if sys.argv[:1] == ["-m"]:
    _missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if _missing:
        print(
            f"train: error: {', '.join(_missing)} not installed: pip install -e '.[train]'",
            file=sys.stderr,
        )
        sys.exit(2)
