"""Selects the files that are needed from a repository or folder; one rule for both.

Names follow diffusers and transformers. Files are relative paths with forward slashes.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from instantid_jax.errors import InputError

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
# In order of preference.
FORMATS = ("safetensors", "bin")

# The adapter of InstantID, IdentityNet where it lies next to it, and states of training programs.
ADAPTER = "ip-adapter"
IDENTITYNET = "diffusion_pytorch_model"
STATES = ("optimizer", "scheduler", "scaler", "sampler", "random_states", "training_args")

# Names of LoRAs in diffusers and PEFT, and the latter's settings.
LORA_STEMS = ("pytorch_lora_weights.", "adapter_model.")
LORA_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# In order of preference.
ADAPTER_SUFFIXES = (*LORA_SUFFIXES, ".ckpt")
PEFT_CONFIG = "adapter_config.json"

# model.safetensors, model.fp16.safetensors, and two spellings of a variant's shards:
# model.fp16-00001-of-00002.safetensors, model-00001-of-00002.fp16.safetensors.
WEIGHTS = (
    r"(?P<stem>{stems})(\.(?P<before>[^.]+?))?(-(?P<number>\d{{5}})-of-(?P<count>\d{{5}}))?"
    r"(\.(?P<after>[^.]+))?\.(?P<format>safetensors|bin)"
)
# model.safetensors.index.json, and with a variant model.safetensors.index.fp16.json or
# model.fp16.safetensors.index.json.
INDEX = (
    r"(?P<stem>{stems})(\.(?P<before>[^.]+))?\.(?P<format>safetensors|bin)\.index"
    r"(\.(?P<after>[^.]+))?\.json"
)


def weights_in(
    files: Iterable[str],
    folder: str,
    variant: str | None = None,
    stems: Sequence[str] = STEMS,
) -> list[str]:
    """One complete set of weights in `folder` ('' is the root); the first is the one to open.

    Prefers safetensors to torch's pickles and one file to shards. With shards the index is first.

    Raises:
      InputError: if there is none of `variant`; lists the available variants.
    """
    names = _names_in(files, folder)
    sets = _weight_sets(names, stems)
    for form in FORMATS:
        for stem in stems:
            chosen = sets.get((variant, form, stem), _WeightSet()).files()
            if chosen:
                return [_join(folder, name) for name in chosen]
    where = f"{folder}/" if folder else "its top folder"
    partial = [found for key, found in sets.items() if key[0] == variant]
    if partial:
        raise InputError(f"the shards in {where} are incomplete: {partial[0].lack()} is missing")
    present = sorted({_shown(key[0]) for key, found in sets.items() if found.files()})
    if present:
        raise InputError(
            f"no {_shown(variant)} in {where}; it has {' and '.join(present)}: use these"
        )
    held = ", ".join(sorted(names)[:4]) or "nothing"
    raise InputError(
        f"no weights in {where}; expected {stems[0]}.safetensors, its shards, or a .bin, "
        f"found {held}"
    )


def weights_preferring(
    files: Iterable[str],
    folder: str,
    variant: str | None = None,
    stems: Sequence[str] = STEMS,
) -> list[str]:
    """As `weights_in`, but takes weights without a variant where there are none of `variant`.

    Repositories often have a variant of their large networks alone.

    Raises:
      InputError: if there are neither, or some shards of `variant` are missing.
    """
    names = list(files)
    sets = _weight_sets(_names_in(names, folder), stems)
    plain = {key[0] for key, found in sets.items() if found.files()}
    if not has_variant(names, folder, variant, stems) and None in plain:
        variant = None
    return weights_in(names, folder, variant, stems)


def has_variant(
    files: Iterable[str], folder: str, variant: str | None, stems: Sequence[str] = STEMS
) -> bool:
    """Whether a folder has weights, or some of the shards, of a variant."""
    return any(key[0] == variant for key in _weight_sets(_names_in(files, folder), stems))


def model_files(files: Iterable[str], folder: str = "", variant: str | None = None) -> list[str]:
    """A network's `config.json` and weights, by default at the root; prefers `variant`.

    Raises:
      InputError: if either is missing.
    """
    files = set(files)
    _require(files, [_join(folder, "config.json")], "a diffusers model")
    return [_join(folder, "config.json"), *weights_preferring(files, folder, variant)]


def refiner_files(files: Iterable[str], variant: str | None = None) -> list[str]:
    """The refiner's UNet, in unet/ or at the root.

    Raises:
      InputError: if either is missing.
    """
    files = set(files)
    return model_files(files, "unet" if _names_in(files, "unet") else "", variant)


def sdxl_files(
    files: Iterable[str],
    variant: str | None = None,
    *,
    networks: Sequence[str] = NETWORKS,
    tokenizers: bool = True,
) -> list[str]:
    """The files of an SDXL checkpoint in diffusers' layout.

    Args:
      variant: prefer weights with this infix, part by part.
      networks: those needed; of the others, takes the settings if there are any.
      tokenizers: whether they are needed.
    Raises:
      InputError: if a part is missing, or no part has weights of `variant`.
    """
    files = set(files)
    required = [_join(network, "config.json") for network in networks]
    required.append("scheduler/scheduler_config.json")
    lacks_vae = set(required) - files == {"vae/config.json"}
    instead = ", or another VAE as vae=" if lacks_vae else ""
    _require(files, required, f"SDXL in diffusers' layout{instead}")
    others = [_join(network, "config.json") for network in NETWORKS if network not in networks]
    chosen = sorted(files & {"model_index.json", *others})
    chosen += [_join("scheduler", name) for name in sorted(_names_in(files, "scheduler"))]
    if tokenizers:
        chosen += tokenizer_files(files)
    if variant and not any(has_variant(files, network, variant) for network in networks):
        _refuse_variant(files, variant, networks)
    for network in networks:
        chosen += model_files(files, network, variant)
    return chosen


def _refuse_variant(files: set[str], variant: str, networks: Sequence[str]) -> None:
    shown = {
        _shown(key[0])
        for network in networks
        for key, found in _weight_sets(_names_in(files, network), STEMS).items()
        if found.files()
    }
    held = (
        f"there are {' and '.join(sorted(shown))}: use these" if shown else "there are no weights"
    )
    raise InputError(f"no {_shown(variant)} in any part; {held}")


def tokenizer_files(files: Iterable[str]) -> list[str]:
    """SDXL's two tokenizers.

    Raises:
      InputError: if one is missing.
    """
    files = set(files)
    chosen = []
    for folder in TOKENIZERS:
        names = _names_in(files, folder)
        if "tokenizer.json" not in names:
            vocabulary = [_join(folder, name) for name in ("vocab.json", "merges.txt")]
            _require(files, vocabulary, "a CLIP tokenizer, or others as tokenizers=")
        chosen += [_join(folder, name) for name in sorted(names)]
    return chosen


def instantid_files(files: Iterable[str], variant: str | None = None) -> list[str]:
    """The Image Adapter, with its `config.json` if there is one, and IdentityNet.

    Raises:
      InputError: if either is missing.
    """
    files = set(files)
    adapter = adapter_files(files, variant)
    return list(
        dict.fromkeys(
            [*adapter, *sorted(files & {"config.json"}), *identitynet_files(files, variant)]
        )
    )


def adapter_files(files: Iterable[str], variant: str | None = None) -> list[str]:
    """The Image Adapter's weights: ip-adapter, or the only weights at the root.

    Training programs name them otherwise; IdentityNet and the rest of a training state may lie next
    to them.

    Raises:
      InputError: if there are none, or several.
    """
    files = set(files)
    try:
        return weights_preferring(files, "", variant, (ADAPTER,))
    except InputError as error:
        if any(name.startswith(f"{ADAPTER}.") for name in _names_in(files, "")):
            raise
        others = sorted(
            (
                name
                for name in _names_in(files, "")
                if name.endswith(ADAPTER_SUFFIXES) and not name.startswith((IDENTITYNET, *STATES))
            ),
            key=lambda name: ADAPTER_SUFFIXES.index("." + name.rpartition(".")[2]),
        )
        if len({name.rpartition(".")[0] for name in others}) > 1:
            raise InputError(
                f"no {ADAPTER}.bin or {ADAPTER}.safetensors, and which of {', '.join(others[:8])} "
                f"is the adapter is not clear; rename it to {ADAPTER}"
            ) from error
        if not others:
            raise
        return others[:1]


def identitynet_files(files: Iterable[str], variant: str | None = None) -> list[str]:
    """IdentityNet's weights in ControlNetModel/ or at the root, and `config.json` if there is one.

    Raises:
      InputError: if there are no weights.
    """
    files = set(files)
    at_root = not _names_in(files, "ControlNetModel") and any(
        name.startswith(IDENTITYNET) for name in _names_in(files, "")
    )
    folder, stems = ("", (IDENTITYNET,)) if at_root else ("ControlNetModel", STEMS)
    if not at_root and not _names_in(files, folder):
        raise InputError(
            f"no {folder}/{IDENTITYNET}.safetensors; expected IdentityNet, as in InstantX/InstantID"
        )
    settings = _join(folder, "config.json")
    return [
        *sorted(files & {settings}),
        *weights_preferring(files, folder, variant, stems),
    ]


def lora_files(files: Iterable[str]) -> list[str]:
    """A LoRA's file at the root, with PEFT's settings if there are any.

    Raises:
      InputError: if there is none, or several under names that say nothing.
    """
    files = set(files)
    held = sorted(name for name in _names_in(files, "") if name.endswith(LORA_SUFFIXES))
    named = [name for name in held if name.startswith(LORA_STEMS)]
    chosen = named[-1:] or held
    if len(chosen) != 1:
        listed = ", ".join(held[:8]) or "no weights"
        remedy = "name one of them, as in FOLDER/FILE" if held else "name a LoRA's file"
        raise InputError(f"it has {listed}: {remedy}")
    return [*chosen, *sorted(files & {PEFT_CONFIG})]


def list_folder(folder: Path) -> list[str]:
    """The files of a folder and its direct subfolders; no layout is deeper."""
    found = []
    for entry in os.scandir(folder):
        if entry.is_dir():
            found += [
                _join(entry.name, inner.name) for inner in os.scandir(entry) if inner.is_file()
            ]
        elif entry.is_file():
            found.append(entry.name)
    return sorted(found)


@dataclasses.dataclass
class _WeightSet:
    """The files of one variant in one format: a whole file, or (some) shards and an index.

    Shards are keyed by their total count, then number: a folder may contain two shardings.
    """

    whole: str | None = None
    index: str | None = None
    shards: dict[int, dict[int, str]] = dataclasses.field(default_factory=dict)

    def files(self) -> list[str]:
        """The complete set of files, or an empty list."""
        if self.whole:
            return [self.whole]
        for count, shards in sorted(self.shards.items()):
            if self.index and set(shards) == set(range(1, count + 1)):
                return [self.index, *(name for _, name in sorted(shards.items()))]
        return []

    def lack(self) -> str:
        if not self.index:
            return "the index"
        for count, shards in sorted(self.shards.items()):
            return f"shard {min(set(range(1, count + 1)) - set(shards))} of {count}"
        return "every shard"


def _weight_sets(
    names: Iterable[str], stems: Sequence[str]
) -> dict[tuple[str | None, str, str], _WeightSet]:
    """Weight sets by (variant, format, stem)."""
    either = "|".join(map(re.escape, stems))
    sets: dict[tuple[str | None, str, str], _WeightSet] = {}
    for name in sorted(names):
        index = re.fullmatch(INDEX.format(stems=either), name)
        match = index or re.fullmatch(WEIGHTS.format(stems=either), name)
        if match is None or (match["before"] and match["after"]):
            continue
        variant = match["before"] or match["after"]
        found = sets.setdefault((variant, match["format"], match["stem"]), _WeightSet())
        if index:
            found.index = name
        elif match["number"]:
            found.shards.setdefault(int(match["count"]), {})[int(match["number"])] = name
        else:
            found.whole = name
    return sets


def _require(files: set[str], required: Sequence[str], what: str) -> None:
    missing = [name for name in required if name not in files]
    if missing:
        raise InputError(f"no {', '.join(missing)}; expected {what}")


def _names_in(files: Iterable[str], folder: str) -> set[str]:
    """Names of the files directly in `folder`."""
    return {
        name for parent, _, name in (file.rpartition("/") for file in files) if parent == folder
    }


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _shown(variant: str | None) -> str:
    return "weights without a variant" if variant is None else f"weights of the variant {variant}"
