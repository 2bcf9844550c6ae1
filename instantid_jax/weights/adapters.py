"""InstantID's adapter: one file with the Resampler and the Image Adapter's keys and values."""

from pathlib import Path

from instantid_jax.components import Component, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import Network
from instantid_jax.weights import names, selection
from instantid_jax.weights.identify import kind_of
from instantid_jax.weights.parts import component, wrong_kind
from instantid_jax.weights.torch_files import open_tensors


def adapter_file(folder: Path, variant: str | None = None) -> Path:
    """The adapter's file in a folder, or the index of its shards."""
    return folder / selection.adapter_files(selection.list_folder(folder), variant)[0]


def adapter_parts(path: Path, unet: Network | None) -> dict[str, Component]:
    """The Resampler and, if `unet` is given, its adapter keys and values, from one file.

    Raises:
      InputError: if the file holds something else, or does not fit the UNet.
    """
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    tensors = names.adapter_names(names.without_averages(file.tensors))
    halves = {
        half: {
            name.removeprefix(f"{half}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{half}.")
        }
        for half in ("image_proj", "ip_adapter")
    }
    if kind.part != "instantid":
        raise wrong_kind(path, kind, "an InstantID adapter")
    others = [name for name in tensors if not name.startswith(tuple(f"{h}." for h in halves))]
    if others:
        raise InputError(
            f"{path} is an InstantID adapter with other tensors ({', '.join(others[:4])}): "
            "expected only image_proj and ip_adapter; save these alone"
        )
    config = path.parent / "config.json"
    dim_head = read_json(config).get("dim_head", 64) if config.is_file() else 64
    shapes = {name: tensor.shape for name, tensor in halves["image_proj"].items()}
    try:
        resampler = ResamplerConfig.from_shapes(shapes, dim_head)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    settings = vars(resampler)
    net = network("image_proj", settings)
    source = str(path)
    parts = {"image_proj": component("image_proj", net, settings, halves["image_proj"], source)}
    if unet is not None:
        parts["ip_adapter"] = component("ip_adapter", unet, {}, halves["ip_adapter"], source)
    return parts
