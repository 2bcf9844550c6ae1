"""The layers of the library: a file imports only its own layer and the layers below."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "instantid_jax"
PROGRAMS = ("train", "convert", "miniature", "benchmarks", "configs", "comfyui", "tests")

# Bottom up; a name is a file, or all files of a folder that are not named themselves.
LAYERS = [
    {"errors"},
    {"arrays", "paths", "stacks", "text_files"},
    {"atomic", "json_files", "cache", "compilation", "params", "images", "sharding", "signatures"},
    {"image_files"},
    {"models.config", "models.freeu", "models.layers", "models.splash"},
    {"models.attention"},
    {"models.blocks", "models.vae", "models.clip", "models.pag", "models.resampler"},
    {"models.clip_vision"},
    {"models.unet"},
    {"models.controlnet"},
    {"models.instantid"},
    {"chunks", "components", "diffusion", "face", "inversion", "prompt"},
    {"request"},
    {"embedded", "weights"},
    {"checkpoint", "runs", "similarity"},
    {
        f"pipeline.{name}"
        for name in ("memory", "placement", "programs", "sources", "step", "tiling")
    },
    {"pipeline.offload"},
    {"pipeline.model"},
    {"pipeline.conditions"},
    {"pipeline.plan"},
    {"pipeline.observer", "pipeline.result"},
    {"pipeline.loop"},
    {"pipeline.refining"},
    {"pipeline.stages"},
    {"pipeline"},
    {f"serving.{name}" for name in ("access", "job", "packing", "pool", "sizes", "uploads")},
    {"serving.picture", "serving.status", "serving.waiting"},
    {"serving.group"},
    {"serving.stepper", "serving.warming"},
    {"serving.engine"},
    {"serving"},
    {f"serving.page.{name}" for name in ("guard", "notices", "progress", "sizes", "uploads")},
    {f"serving.page.{name}" for name in ("loras", "painting", "people")},
    {"serving.page.form"},
    {"serving.page.recorded", "serving.page.studio"},
    {"serving.http", "serving.page"},
    {"serving.ray"},
    {"cli"},
]
HTTP = {str(path.relative_to(ROOT)) for path in (LIBRARY / "serving" / "http").glob("*.py")}
RAY = {str(path.relative_to(ROOT)) for path in (LIBRARY / "serving" / "ray").glob("*.py")}
SOAKING = {f"benchmarks/soaking/{name}.py" for name in ("bodies", "crowds", "good", "rules")}
SOAKING |= {"benchmarks/soak.py", "benchmarks/soaking/server.py", "benchmarks/soaking/site.py"}
PAGE = {f"instantid_jax/serving/page/{name}.py" for name in ("handlers", "layout", "run")}
# Files that may import heavy packages.
BOUNDARIES = {
    "fastapi": HTTP | PAGE,
    "gradio": PAGE,
    "prometheus_client": HTTP | RAY,
    "ray": RAY | {"instantid_jax/cli/ray.py"},
    "sse_starlette": HTTP,
    "starlette": HTTP | RAY,
    "uvicorn": HTTP | PAGE,
    "transformers": {"instantid_jax/prompt.py", "benchmarks/sampling_torch.py"},
    "insightface": {"instantid_jax/face/analysis.py"},
    "onnxruntime": {"instantid_jax/face/analysis.py", "benchmarks/antelopev2.py"},
    "orbax": {
        "instantid_jax/checkpoint.py",
        "instantid_jax/runs/restoring.py",
        "train/runs/saving.py",
    },
    "huggingface_hub": {"instantid_jax/weights/hub.py", "miniature/base/published.py"},
    "torch": {
        "comfyui/images.py",
        "convert/torch_reference.py",
        "benchmarks/blocks.py",
        "benchmarks/sampling_torch.py",
    },
    "fsspec": {"train/remote/store.py"},
    "h11": {"instantid_jax/serving/http/connections.py"},
    "tensorboard": {"train/loggers/tensorboard.py"},
    "wandb": {"train/loggers/wandb.py"},
    "mlflow": {"train/loggers/mlflow.py"},
    "httpx": {"comfyui/client.py"} | SOAKING,
    "folder_paths": {"comfyui/folders.py"},
    "diffusers": {
        "convert/torch_reference.py",
        "benchmarks/blocks.py",
        "benchmarks/sampling_torch.py",
    },
}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, including those inside functions.

    Without relative imports, which only comfyui/ has, of its own modules.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module(path: Path) -> str:
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(name: str) -> int | None:
    """The layer of a module of the library, named without `instantid_jax.`."""
    found = [
        (len(member), i)
        for i, members in enumerate(LAYERS)
        for member in members
        if name == member or name.startswith(f"{member}.")
    ]
    return max(found)[1] if found else None


LIBRARY_FILES = [p for p in sorted(LIBRARY.rglob("*.py")) if module(p) not in ("", "models")]
PROJECT_FILES = [
    path
    for folder in ("instantid_jax", *PROGRAMS)
    if folder != "tests" and (ROOT / folder).is_dir()
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=module)
def test_file_imports_nothing_above_it(path):
    own = layer(module(path))
    assert own is not None, f"{module(path)} has no layer: add it to LAYERS"
    inside = {
        name.removeprefix("instantid_jax.")
        for name in imports(path)
        if name.startswith("instantid_jax.")
    }
    # Siblings are imported from their common folder.
    folders = {name for name in inside if module(path).startswith(f"{name}.")}
    above = {name for name in inside - folders if (layer(name) or 0) > own}
    assert not above, f"{module(path)} imports {sorted(above)} from above"
    programs = {name for name in imports(path) if name.split(".")[0] in PROGRAMS}
    assert not programs, f"{module(path)} imports a program: {sorted(programs)}"


@pytest.mark.parametrize("package", BOUNDARIES)
def test_package_is_imported_only_in_its_files(package):
    importers = {
        str(path.relative_to(ROOT))
        for path in PROJECT_FILES
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert importers <= BOUNDARIES[package]


def test_request_does_not_import_jax():
    for path in sorted((LIBRARY / "request").rglob("*.py")):
        assert not {"jax", "flax"} & {name.split(".")[0] for name in imports(path)}, path


def test_nnx_state_is_handled_in_one_file():
    handlers = {
        module(path)
        for path in LIBRARY_FILES
        for call in ("nnx.split(", "nnx.merge(", "nnx.eval_shape(")
        if call in path.read_text(encoding="utf-8")
    }
    assert handlers == {"params"}


def test_train_and_convert_do_not_import_each_other():
    for own, other in (("train", "convert"), ("convert", "train")):
        for path in sorted((ROOT / own).rglob("*.py")):
            assert not any(name.split(".")[0] == other for name in imports(path)), path


def test_comfyui_imports_the_library_alone():
    for path in sorted((ROOT / "comfyui").rglob("*.py")):
        assert not {name.split(".")[0] for name in imports(path)} & set(PROGRAMS), path


def test_train_runs_imports_nothing_else_of_train():
    """The miniature's trainings use it too."""
    for path in sorted((ROOT / "train" / "runs").rglob("*.py")):
        programs = {name for name in imports(path) if name.split(".")[0] in PROGRAMS}
        above = {name for name in programs if not f"{name}.".startswith("train.runs.")}
        assert not above, f"{path} imports {sorted(above)}"


def functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=module)
def test_functions_are_short_and_have_few_parameters(path):
    for function in functions(path):
        lines = function.end_lineno - function.lineno + 1
        taken = function.args
        count = len(taken.posonlyargs) + len(taken.args) + len(taken.kwonlyargs)
        assert lines <= 80, f"{function.name} has {lines} lines"
        assert count <= 12, f"{function.name} has {count} parameters"
