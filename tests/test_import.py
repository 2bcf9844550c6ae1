"""Importing the package imports no heavy packages; it costs little more than `import jax`."""

import json
import subprocess
import sys

import pytest

LOADED = "import json, sys\n{}\nprint(json.dumps(sorted(sys.modules)))"
HEAVY = ("cv2", "flax", "huggingface_hub", "insightface", "onnxruntime", "orbax", "skimage")
HEAVY += ("safetensors", "torch", "tqdm", "transformers", "tyro", "PIL", "optax", "tensorflow")


def modules_after(statement: str) -> set[str]:
    command = [sys.executable, "-c", LOADED.format(statement)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(json.loads(output))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_importing_the_package_imports_only_itself():
    added = modules_after("import jax, instantid_jax") - modules_after("import jax")
    assert packages(added) == {"instantid_jax"}
    assert added == {"instantid_jax"}


def test_names_are_imported_on_demand():
    face = packages(modules_after("from instantid_jax import Face, InputError"))
    assert not face & {"jax", *HEAVY} - {"PIL"}


def test_the_pipeline_imports_optional_packages_on_demand():
    loaded = packages(modules_after("from instantid_jax import InstantIDPipeline"))
    assert not loaded & {"insightface", "onnxruntime", "orbax", "skimage", "torch", "transformers"}


def test_unknown_names_raise_an_attribute_error():
    import instantid_jax

    with pytest.raises(AttributeError, match="has no attribute 'Pipeline'"):
        instantid_jax.Pipeline  # noqa: B018
    public = {"Face", "InputError", "InstantIDPipeline", "Request", "sampling_mesh"}
    assert set(instantid_jax.__all__) == public
