"""The nodes' declarations, the extension, and the example workflows."""

import ast
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import comfyui
from comfyui.generate_node import Generate
from instantid_jax.diffusion.names import BASES
from tests.comfyui import comfy_stand_in

ROOT = Path(__file__).parents[2]
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
FOLDER = ROOT / "comfyui"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.json"))
SCHEMAS = {node: node.define_schema() for node in comfyui.NODES}
# ComfyUI's own nodes in the workflows: the types of their outputs, and of their inputs.
OWN = {
    "LoadImage": (["IMAGE", "MASK"], {}),
    "PreviewImage": ([], {"images": "IMAGE"}),
    "SaveImage": ([], {"images": "IMAGE"}),
    "PreviewAny": ([], {"source": "STRING"}),
}


@pytest.mark.parametrize("node", comfyui.NODES)
def test_declarations_are_complete(node):
    schema = SCHEMAS[node]
    assert schema.category == "InstantID/JAX" and schema.description and schema.outputs
    names = [each.id for each in schema.inputs]
    assert len(names) == len(set(names))
    for each in schema.inputs:
        widget = each.type in ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO")
        assert widget == ("default" in each.options), each.id
        assert not widget or each.accepts(each.options["default"]), each.id


def test_ids_are_our_own():
    ids = [schema.node_id for schema in SCHEMAS.values()]
    assert len(ids) == len(set(ids)) and all(name.startswith("InstantIDJAX") for name in ids)


def test_names_and_ranges_are_those_of_the_nodes_that_users_know():
    """ApplyInstantIDAdvanced of ComfyUI_InstantID, and ComfyUI's KSampler."""
    declared = {each.id: each for each in SCHEMAS[Generate].inputs}
    ranges = {
        name: tuple(declared[name].options[key] for key in ("default", "min", "max"))
        for name in ("ip_weight", "cn_strength", "start_at", "end_at", "noise", "denoise")
    }
    assert ranges == {
        "ip_weight": (0.8, 0.0, 3.0),
        "cn_strength": (0.8, 0.0, 10.0),
        "start_at": (0.0, 0.0, 1.0),
        "end_at": (1.0, 0.0, 1.0),
        "noise": (0.0, 0.0, 1.0),
        "denoise": (1.0, 0.0, 1.0),
    }
    assert {"seed", "steps", "cfg", "sampler_name", "scheduler", "combine_embeds"} <= set(declared)
    optional = {each.id for each in declared.values() if each.optional}
    assert {"image", "image_kps", "mask"} <= optional
    assert set(BASES) < set(declared["sampler_name"].options["options"])


def test_the_largest_seed_leaves_room_for_the_largest_batch():
    declared = {
        each.id: each.options["max"] for each in SCHEMAS[Generate].inputs if "max" in each.options
    }
    assert declared["seed"] + declared["batch_size"] == 2**32


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_fit_the_nodes(path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    ours = {schema.node_id: schema for schema in SCHEMAS.values()}

    def output(link) -> str:
        name = graph[link[0]]["class_type"]
        types = OWN[name][0] if name in OWN else [each.type for each in ours[name].outputs]
        return types[link[1]]

    for node in graph.values():
        inputs = node["inputs"]
        links = {name: value for name, value in inputs.items() if isinstance(value, list)}
        if node["class_type"] in OWN:
            taken = OWN[node["class_type"]][1]
            assert {name: output(link) for name, link in links.items()} == taken
            continue
        declared = {each.id: each for each in ours[node["class_type"]].inputs}
        assert {name for name, each in declared.items() if not each.optional} <= set(inputs)
        for name, value in inputs.items():
            if name in links:
                assert output(value) == declared[name].type
            else:
                assert declared[name].accepts(value), name


def test_there_is_a_workflow_for_both_kinds_of_model():
    used = {
        path.stem: {node["class_type"] for node in json.loads(path.read_text()).values()}
        for path in WORKFLOWS
    }
    assert "InstantIDJAXLoad" in used["in_process"] and "InstantIDJAXConnect" in used["service"]
    assert set.union(*used.values()) >= {schema.node_id for schema in SCHEMAS.values()}


@pytest.mark.parametrize("given, left", [(None, "false"), ("true", "true")])
def test_comfyui_imports_the_folder_under_any_name(given, left, monkeypatch):
    if given is None:
        monkeypatch.delenv(PREALLOCATE, raising=False)
    else:
        monkeypatch.setenv(PREALLOCATE, given)
    name = "/somewhere/custom_nodes/instantid_x_jax"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        extension = asyncio.run(module.comfy_entrypoint())
        nodes = asyncio.run(extension.get_node_list())
    finally:
        for each in [each for each in sys.modules if each.startswith(name)]:
            del sys.modules[each]
    assert isinstance(extension, comfy_stand_in.ComfyExtension)
    assert [node.__name__ for node in nodes] == [node.__name__ for node in comfyui.NODES]
    assert os.environ[PREALLOCATE] == left


CONNECT = """
import sys
from pathlib import Path
from tests.comfyui import comfy_stand_in
comfy_stand_in.install(Path("models"))
from comfyui.model_nodes import Connect
Connect.execute("http://127.0.0.1:1")
sys.exit("jax" in sys.modules)
"""


def test_a_client_of_a_service_does_not_import_jax():
    assert subprocess.run([sys.executable, "-c", CONNECT], cwd=ROOT).returncode == 0


def test_the_registrys_entry_names_what_the_nodes_import():
    entry = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = entry["project"], entry["tool"]["comfy"]
    # The folder is published by itself.
    assert project["license"] == {"file": "LICENSE"}
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project["name"] and {"PublisherId", "DisplayName"} <= set(comfy)
    imported = {
        name.split(".")[0]
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    of_comfyui = {"comfy", "comfy_api", "folder_paths", "torch", "numpy", "PIL"}
    needed = imported - of_comfyui - set(sys.stdlib_module_names)
    assert {name.replace("_", "-") for name in needed} == set(project["dependencies"])
