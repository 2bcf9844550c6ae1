"""Reports the contents of a LoRA, compared with SDXL base."""

from collections import Counter
from collections.abc import Iterator

from convert.embedding_report import listed, sdxl_widths
from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.weights import sdxl_base
from instantid_jax.weights.embeddings import read_bundled
from instantid_jax.weights.lora.files import Layer, read_lora
from instantid_jax.weights.lora.spellings import PARTS, spellings
from instantid_jax.weights.torch_files import TensorFile

PLACES = {"unet": "the UNet", "text_encoder": "text encoder 1", "text_encoder_2": "text encoder 2"}
# Metadata by which trainers say what they made, and for which model.
NOTES = ("ss_network_module", "ss_base_model_version", "modelspec.architecture")
# Different ranks and scales to list.
LISTED = 4


def lora_checks(file: TensorFile) -> Iterator[tuple[str, bool]]:
    """Lines on a LoRA, each with whether it is a fault."""
    notes = [f"{name} {file.metadata[name]}" for name in NOTES if file.metadata.get(name)]
    if notes:
        yield f"says of itself: {', '.join(notes)}", False
    known = spellings({part: network(part, sdxl_base.SETTINGS[part]) for part in PARTS})
    try:
        layers = read_lora(file.path, known)
        embeddings = read_bundled(file.path, file.tensors, sdxl_widths())
    except InputError as error:
        yield str(error), True
        return
    places = Counter(layer.target.part for layer in layers)
    where = ", ".join(f"{places[part]} of {PLACES[part]}" for part in PARTS if places[part])
    yield f"changes {len(layers)} layers of SDXL base: {where}", False
    yield f"kinds: {_listed(Counter(map(_kind, layers)))}", False
    scaled = [layer for layer in layers if layer.form is not None and layer.form.rank is not None]
    if scaled:
        scales = Counter(f"{layer.scale:g}" for layer in scaled)
        yield f"alpha / rank: {_listed(scales)}", False
    if embeddings:
        yield f"textual inversions, by their names in prompts: {listed(embeddings)}", False


def _kind(layer: Layer) -> str:
    if layer.form is None:
        return "bias"
    rank = "" if layer.form.rank is None else f" of rank {layer.form.rank}"
    return f"{layer.form.name}{' with DoRA' if layer.magnitudes else ''}{rank}"


def _listed(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{what} ({count})" for what, count in ordered[:LISTED])
    return shown + (f" and {len(counts) - LISTED} more" if len(counts) > LISTED else "")
