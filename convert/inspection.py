"""`python -m convert inspect`: identifies weights, checks them, and lists their uses."""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from convert.embedding_report import embedding_checks
from convert.lora_report import lora_checks
from instantid_jax.checkpoint import INDEX, check_values, open_model, stored_params
from instantid_jax.components import component_shapes, network
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.params import Network, Params, mismatches
from instantid_jax.runs.folder import is_run
from instantid_jax.runs.trained import PARTS, open_trained
from instantid_jax.weights import adapters, layouts, original, parts, sdxl_base, selection
from instantid_jax.weights.identify import kind_of
from instantid_jax.weights.tensors import FLOAT8, FLOATS
from instantid_jax.weights.torch_files import SUFFIXES, TensorFile, open_tensors

USES = {
    "sdxl": "--sdxl",
    "lora": "--lora",
    "embedding": "--embedding",
    "instantid": "the adapter in the folder of --instantid",
    "unet": "--unet, or in unet/ in the folder of --sdxl",
    "refiner": "--refiner",
    "vae": "--vae, or in vae/ in the folder of --sdxl",
    "text_encoder": "text_encoder/ in the folder of --sdxl",
    "text_encoder_2": "text_encoder_2/ in the folder of --sdxl",
    "controlnet": "one of --controlnets, or in ControlNetModel/ in the folder of --instantid",
}
# model-00001-of-00002.safetensors, or with a variant before the suffix.
SHARD = re.compile(r"-\d{5}-of-\d{5}\.([^.]+\.)?(safetensors|bin)$")


def inspect(path: tyro.conf.Positional[Path], headers_only: bool = False) -> None:
    """Reports the contents of weights: a file, a folder, a converted model or a training run.

    Args:
      path: a weights file, an index of shards, a folder, a folder made by to-jax, or a run's.
      headers_only: skip reading all values, which is slow; does not detect non-finite values or
        damage inside a converted model or a training run.
    """
    if path.is_file():
        lines = report_file(path, values=not headers_only)
    elif (path / INDEX).is_file():
        lines = report_converted(path, values=not headers_only)
    elif is_run(path):
        lines = report_run(path, values=not headers_only)
    elif path.is_dir():
        lines = report_folder(path, values=not headers_only)
    else:
        raise InputError(f"{path}: no such file or folder; pass weights on this machine")
    for line in lines:
        print(line, flush=True)


# -- files ----------------------------------------------------------------------------------------


def report_file(path: Path, *, values: bool) -> Iterator[str]:
    """Reports the kind of a file, whether it is complete, and its use."""
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    yield f"{path}: {kind.phrase}"
    yield f"  {summary(file.tensors)}"
    faults = []
    for line, fault in _checks(kind.part, file):
        yield f"  {line}"
        faults += [line] * fault
    if values:
        line, fault = _finite({name: tensor.read for name, tensor in file.tensors.items()})
        yield f"  {line}"
        faults += [line] * fault
    if kind.part is None:
        yield (
            "  not usable here: not SDXL, InstantID, an SDXL ControlNet, a VAE, a LoRA or a "
            "textual inversion"
        )
    elif faults:
        yield "  not usable as it is"
    else:
        yield f"  usable as {USES[kind.part]}"


def summary(tensors: Mapping[str, Any]) -> str:
    """Counts, dtypes and total size of tensors."""
    sizes = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    dtypes = Counter(str(tensor.dtype) for tensor in tensors.values())
    line = ", ".join(
        dtype if len(dtypes) == 1 else f"{count} in {dtype}"
        for dtype, count in dtypes.most_common()
    )
    count = sum(sizes[name] * tensor.dtype.itemsize for name, tensor in tensors.items())
    return f"{len(tensors)} tensors, {sum(sizes.values()):,} parameters, {line}, {_size(count)}"


def _size(count: int) -> str:
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6)):
        if count >= bytes_each:
            return f"{count / bytes_each:.2f} {unit}"
    return f"{count / 1000:.1f} kB"


def _checks(part: str | None, file: TensorFile) -> Iterator[tuple[str, bool]]:
    """Results of loading a file strictly, each with whether it is a fault."""
    if part == "sdxl":
        yield from _single_file_checks(file)
    elif part == "instantid":
        unet, line = _unet_for(file)
        yield _fits(line, lambda: adapters.adapter_parts(file.path, unet))
    elif part == "lora":
        yield from lora_checks(file)
    elif part == "embedding":
        yield from embedding_checks(file)
    elif part is not None:
        own = parts.settings_beside(file.path, part) is not None
        published = "SDXL's refiner" if part == "refiner" else "SDXL base"
        line = "its config.json" if own else f"{published} (no config.json next to it)"
        yield _fits(f"complete, by {line}", lambda: parts.file_part(part, file))


def _single_file_checks(file: TensorFile) -> Iterator[tuple[str, bool]]:
    for name in layouts.SDXL_PARTS:
        if name == "vae" and original.prefix_of(name, file.tensors) is None:
            yield "vae: none; give one as --vae", False
            continue
        settings = parts.fitted_to(name, sdxl_base.SETTINGS[name], file)
        yield _fits(
            f"{name}: complete",
            lambda name=name, settings=settings: parts.original_part(name, settings, file),
        )
    try:
        yield _prediction(original.prediction_settings(file.tensors, file.metadata)), False
    except InputError as error:
        yield str(error), True
    known = tuple(original.PREFIXES.values())
    others = Counter(name.partition(".")[0] for name in file.tensors if not name.startswith(known))
    if others:
        line = ", ".join(f"{name} ({count})" for name, count in others.most_common(6))
        yield f"besides the networks: {line}", False


def _prediction(settings: Mapping[str, Any]) -> str:
    config = ScheduleConfig.from_dict(settings)
    snr = ", zero terminal SNR" if config.rescale_betas_zero_snr else ""
    return f"prediction type: {config.prediction_type}{snr}"


def _fits(line: str, find: Callable[[], object]) -> tuple[str, bool]:
    try:
        find()
    except InputError as error:
        return str(error), True
    return line, False


def _unet_for(adapter: TensorFile) -> tuple[Network | None, str]:
    """The UNet to compare an adapter with, if any, and the line for a match."""
    config = adapter.path.parent / "unet" / "config.json"
    if config.is_file():
        return network("unet", read_json(config)), "complete, for the UNet next to it"
    base = network("unet", sdxl_base.SETTINGS["unet"])
    width = next(iter(adapter.tensors["image_proj.proj_out.weight"].shape), None)
    if width == base.config.cross_attention_dim:
        return base, "complete, for SDXL base's UNet"
    return None, f"its Resampler is complete; made for a UNet of cross_attention_dim={width}"


def _finite(reads: Mapping[str, Callable[[], np.ndarray]]) -> tuple[str, bool]:
    """Reads one tensor at a time; reports those with non-finite values."""
    bad = []
    for name, read in reads.items():
        value = read()
        if value.dtype in (*FLOATS, *FLOAT8, np.float64) and not np.isfinite(value).all():
            bad.append(name)
    if bad:
        line = ", ".join(bad[:4]) + ", ..." * (len(bad) > 4)
        return f"{len(bad)} tensors have non-finite values: {line}", True
    return "all values are finite", False


# -- folders --------------------------------------------------------------------------------------


def report_folder(folder: Path, *, values: bool) -> Iterator[str]:
    """Reports each weights file in a folder, and the uses of the folder."""
    listed = selection.list_folder(folder)
    files = _weights_files(listed)
    if not files:
        held = ", ".join(listed[:4]) or "nothing"
        raise InputError(f"{folder} holds no weights (it holds {held}): expected weights files")
    damaged = []
    for name in files:
        try:
            yield from report_file(folder / name, values=values)
        except InputError as error:
            yield f"{folder / name}: damaged, or not weights"
            damaged.append(str(error))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        settings = read_json(scheduler)
        yield f"{scheduler}: {settings.get('_class_name')}, {_prediction(settings)}"
    for what, find in _uses(folder, listed):
        line, fault = _fits("yes", find)
        yield f"usable as {what}: {f'no ({line})' if fault else line}"
    if damaged:
        raise InputError("; ".join(damaged))


def _weights_files(listed: list[str]) -> list[str]:
    """Whole files and indices; in subfolders, only those with published names."""
    stems = (*selection.STEMS, "ip-adapter")
    found = []
    for name in listed:
        parent, _, file = name.rpartition("/")
        if not file.endswith(SUFFIXES) and ".safetensors.index." not in file:
            continue
        if SHARD.search(file) or (parent and not file.startswith(stems)):
            continue
        found.append(name)
    return found


def _uses(folder: Path, listed: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Possible uses of a folder, by its file names."""
    source = str(folder)
    if any(name.startswith(("model_index.json", "unet/")) for name in listed):
        yield "--sdxl", lambda: layouts.find_sdxl(source)
    if any(name.startswith(("ip-adapter.", "ControlNetModel/")) for name in listed):
        yield "--instantid", lambda: layouts.find_instantid(source, _unet_of(folder))
    if "config.json" in listed:
        said = read_json(folder / "config.json").get("_class_name")
        for option, part in (("--controlnets", "controlnet"), ("--vae", "vae")):
            if said in parts.CLASSES[part]:
                yield option, lambda part=part: layouts.find_network(source, part)


def _unet_of(folder: Path) -> Network | None:
    adapter = open_tensors(adapters.adapter_file(folder))
    return _unet_for(adapter)[0] if kind_of(adapter.tensors).part == "instantid" else None


# -- converted models -----------------------------------------------------------------------------


def report_converted(path: Path, *, values: bool) -> Iterator[str]:
    """Reports the components of a folder made by to-jax."""
    model = open_model(path)
    yield f"{path}: a model converted by to-jax"
    if values:
        check_values(path)
    for name, component in model.components.items():
        stored = stored_params(Path(component.source) / "params")
        yield f"{name}: {component.network.module.__name__}"
        yield f"  {summary(stored)}"
        wanted = component_shapes(name, component.network)
        shapes = ({n: tuple(a.shape) for n, a in each.items()} for each in (wanted, stored))
        yield f"  {'; '.join(mismatches(*shapes)) or 'complete, by its config.json'}"
        if values:
            yield f"  {_finite_params(component.load(None))}"
    yield _prediction(model.scheduler)
    yield "usable as --model"


# -- training runs --------------------------------------------------------------------------------


def report_run(path: Path, *, values: bool) -> Iterator[str]:
    """Reports what `--instantid` and to-torch take of a run: its newest checkpoint."""
    trained = open_trained(path)
    weights = "the moving average" if trained.averaged else "the raw parameters"
    yield f"{path}: a training run, step {trained.step}, {weights}"
    for part in PARTS:
        yield f"{part}: {summary(trained.shapes[part])}"
        if part in trained.frozen:
            how = "a LoRA of" if part in trained.lora else "not trained, from"
            yield f"  {how} {trained.frozen[part].source}"
        if values:
            yield f"  {_finite_params(trained.load(part))}"
    yield "usable as --instantid; to-torch writes it as PyTorch files"


def _finite_params(params: Params) -> str:
    line, _ = _finite({name: functools.partial(np.asarray, a) for name, a in params.items()})
    return line
