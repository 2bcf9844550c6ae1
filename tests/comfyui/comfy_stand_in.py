"""Stand-in for ComfyUI: the little of its API that the nodes use, written from its documentation.

They show that the nodes run, not that ComfyUI takes them; comfyui/README.md says how to see that.
"""

import dataclasses
import enum
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self


class Interrupted(Exception):
    """Raised when the user has canceled."""


@dataclasses.dataclass
class Host:
    """The state of ComfyUI that tests see and set."""

    interrupted: bool = False
    unloaded: int = 0
    progress: list[tuple] = dataclasses.field(default_factory=list)

    def reset(self) -> Self:
        self.interrupted, self.unloaded, self.progress = False, 0, []
        return self

    def check(self) -> None:
        if self.interrupted:
            self.interrupted = False
            raise Interrupted


HOST = Host()


class PreviewMethod(enum.Enum):
    NONE = "none"
    AUTO = "auto"


class ProgressBar:
    def __init__(self, total: int):
        self.total = total

    def update_absolute(self, value: int, total: int | None = None, preview=None) -> None:
        HOST.progress.append((value, total or self.total, preview))


@dataclasses.dataclass
class Input:
    """An input of any type, with whatever options it was declared with."""

    id: str
    type: str
    optional: bool
    options: dict[str, Any]

    def accepts(self, value: Any) -> bool:
        """As ComfyUI checks the values of widgets in a workflow."""
        if "options" in self.options:
            return value in self.options["options"]
        low, high = self.options.get("min"), self.options.get("max")
        return (low is None or value >= low) and (high is None or value <= high)


def socket(name: str) -> SimpleNamespace:
    def declare(id: str, *, optional: bool = False, **options: Any) -> Input:
        return Input(id, name, optional, options)

    def output(*, display_name: str, tooltip: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(type=name, display_name=display_name)

    return SimpleNamespace(Input=declare, Output=output)


@dataclasses.dataclass(kw_only=True)
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Input]
    outputs: list[SimpleNamespace]


class NodeOutput:
    def __init__(self, *args: Any):
        self.args = args


class ComfyNode:
    """Has no state: ComfyUI calls the methods of the class."""


class ComfyExtension:
    async def on_load(self) -> None: ...


def install(models: Path) -> None:
    """Puts the modules where imports find them.

    Args:
      models: ComfyUI's folder of weights.
    """
    types = ("Image", "Mask", "String", "Int", "Float", "Boolean", "Combo")
    io = module(
        "comfy_api.latest.io",
        **{name: socket(name.upper()) for name in types},
        Custom=socket,
        Input=Input,
        Schema=Schema,
        NodeOutput=NodeOutput,
        ComfyNode=ComfyNode,
    )
    latest = module("comfy_api.latest", ComfyExtension=ComfyExtension, io=io)
    module("comfy_api", latest=latest)

    def unload_all_models() -> None:
        HOST.unloaded += 1

    management = module(
        "comfy.model_management",
        throw_exception_if_processing_interrupted=HOST.check,
        unload_all_models=unload_all_models,
        soft_empty_cache=lambda: None,
    )
    utils = module("comfy.utils", ProgressBar=ProgressBar)
    cli_args = module("comfy.cli_args", args=SimpleNamespace(preview_method=PreviewMethod.NONE))
    module("comfy", model_management=management, utils=utils, cli_args=cli_args)
    known = {kind: ([str(models / kind)], set()) for kind in ("checkpoints", "loras", "vae")}
    module(
        "folder_paths",
        models_dir=str(models),
        folder_names_and_paths=known,
        get_folder_paths=lambda kind: known[kind][0],
    )


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    sys.modules[name] = made
    return made
