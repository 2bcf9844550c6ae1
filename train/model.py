"""Finds, checks and loads a run's base model and initial weights onto the mesh."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from instantid_jax.components import BaseSource, Component, check_fit, component_shapes, network
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.errors import InputError
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.params import Params, join_parts
from instantid_jax.pipeline.model import GUIDANCE_SCALE
from instantid_jax.prompt import PromptTokenizer
from instantid_jax.runs.contents import checksums
from instantid_jax.runs.trained import FROZEN as FROZEN_SOURCE
from instantid_jax.runs.trained import find_published_or_trained, frozen_source
from instantid_jax.sharding import replicated, shard_params
from instantid_jax.weights.layouts import find_sdxl
from train.config import ModelConfig, TrainConfig
from train.distillation.config import DistillationConfig, Student
from train.distillation.earlier import find_earlier
from train.distillation.factors import init_factors
from train.identity.onnx_network import OnnxNetwork, read_recognizer
from train.networks import FROZEN, INSTANTID, TRAINABLE, Networks, frozen_parts
from train.state import init_trainables, trainable_shapes
from train.step import Constants


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """A base model and the networks trained on it; weights are not loaded yet.

    Attributes:
      networks: all networks of training.
      frozen: components by the names of `Networks.frozen`.
      start: components by the names in `INSTANTID` with the initial weights; None initializes what
        is trained.
      settings: `config.json` of the trained networks "image_proj" and "controlnet".
      tokenizers: those of text encoders 1 and 2.
      base: SDXL as it was found.
    """

    networks: Networks
    frozen: Mapping[str, Component]
    start: Mapping[str, Component] | None
    settings: Mapping[str, Mapping[str, Any]]
    tokenizers: tuple[PromptTokenizer, PromptTokenizer]
    base: BaseSource

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that affects results besides weights: network settings and tokenizers."""
        networks = {
            field.name: dataclasses.asdict(getattr(self.networks, field.name).config)
            for field in dataclasses.fields(self.networks)
            if hasattr(getattr(self.networks, field.name), "config")
        }
        # A path, whose contents are in the fingerprint of the frozen parameters.
        networks.get("student", {}).pop("lora", None)
        facts = networks | {"schedule": dataclasses.asdict(self.schedule)}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for folder in self.base.tokenizers:
            for name in ("tokenizer.json", "vocab.json", "merges.txt"):
                if (folder / name).is_file():
                    digest.update((folder / name).read_bytes())
        return digest.hexdigest()[:16]

    def frozen_source(self, config: ModelConfig) -> dict[str, Any]:
        """The entry of networks.json for InstantID's parts that are frozen, if there are any.

        A student's run has no InstantID.
        """
        parts = [name for name in INSTANTID if name in self.networks.frozen]
        if config.instantid is None or self.networks.student is not None or not parts:
            return {}
        unet = self.frozen["unet"].settings
        return {FROZEN_SOURCE: frozen_source(config.instantid, parts, unet, config.variant)}

    def load_frozen(self, name: str, dtype: jnp.dtype) -> Params:
        """Reads a frozen component onto the default device, stacked as its network.

        Raises:
          InputError: if the file is damaged.
        """
        loaded, network = self.frozen[name].load(dtype), self.networks.frozen[name]
        return loaded if isinstance(network, OnnxNetwork) else network.arrange(loaded)

    @functools.cached_property
    def schedule(self) -> ScheduleConfig:
        return ScheduleConfig.from_dict(self.base.scheduler)


def find_base(
    config: ModelConfig,
    trained: Mapping[str, Mapping[str, Any]] | None = None,
    distillation: DistillationConfig | None = None,
    *,
    stacked: bool = False,
) -> BaseModel:
    """Finds the model's files; reads configurations and tensor names, not weights.

    Args:
      stacked: whether the networks' stacks of blocks are held as one array per parameter.
      trained: `BaseModel.settings` of a run that is being resumed, which needs no initial weights.
      distillation: trains a student of the model, which then needs `config.instantid`.
    Raises:
      InputError: if a file is missing, damaged or of the wrong kind, or the networks do not fit.
    """
    base = find_sdxl(
        config.sdxl, tokenizers=config.tokenizers, vae=config.vae, variant=config.variant
    )
    parts = dict(base.components)
    if config.recognizer is not None:
        parts["recognizer"] = find_recognizer(Path(config.recognizer))
    start, settings = None, trained
    trainable = TRAINABLE[config.trainable]
    frozen = frozen_parts(trainable, config.lora_rank, distillation is not None)
    if config.instantid is not None and (trained is None or frozen):
        start = find_published_or_trained(
            config.instantid, parts["unet"].network, variant=config.variant
        )
        settings = {name: start[name].settings for name in ("image_proj", "controlnet")}
    elif trained is None:
        settings = {
            "image_proj": vars(config.resampler),
            "controlnet": settings_like_unet(parts["unet"].settings, config.conditioning_channels),
        }
    if start is not None:
        parts |= {name: start[name] for name in frozen}
    student = None
    if distillation is not None:
        # InstantID's parts are the teacher's.
        student = _student(distillation, base)
        if distillation.lora is not None:
            parts["lora"] = find_earlier(distillation, parts["unet"].network)
    if student is not None or config.lora_rank is not None:
        # What is trained starts new, or from the teacher's LoRA.
        start = None
    networks = Networks(
        **{name: parts[name].network for name in FROZEN},
        **{name: network(name, each) for name, each in settings.items()},
        recognizer=None if config.recognizer is None else parts["recognizer"].network,
        student=student,
        trainable=trainable,
        lora_rank=config.lora_rank,
    )
    check_fit({name: getattr(networks, name) for name in (*FROZEN, *settings)})
    if networks.unet.config.in_channels != networks.unet.config.out_channels:
        raise InputError(
            f"{config.sdxl} is for inpainting: InstantID is trained on SDXL base or a model like it"
        )
    check_recognizer(networks)
    if stacked:
        networks = networks.stacked()
    first, second = (
        PromptTokenizer(
            folder,
            positions=getattr(networks, name).config.max_position_embeddings,
            vocabulary=getattr(networks, name).config.vocab_size,
        )
        for folder, name in zip(base.tokenizers, ("text_encoder", "text_encoder_2"), strict=True)
    )
    return BaseModel(networks, parts, start, settings, (first, second), base)


def _student(distillation: DistillationConfig, base: BaseSource) -> Student:
    # An earlier distillation's LoRA has its teacher's guidance in it.
    own = GUIDANCE_SCALE if base.guidance_scale is None else base.guidance_scale
    usual = own if distillation.lora is None else 1.0
    guidance = usual if distillation.guidance_scale is None else distillation.guidance_scale
    return Student(distillation, guidance, base.force_zeros_for_empty_prompt)


def find_recognizer(path: Path) -> Component:
    """Reads a face pack's recognizer."""
    recognizer, load = read_recognizer(path)
    return Component(recognizer, {}, load, str(path))


def check_recognizer(networks: Networks) -> None:
    """Raises InputError unless the recognizer's embeddings fit the Resampler."""
    if networks.recognizer is None:
        return
    side = networks.recognizer.config.side
    found = jax.eval_shape(
        lambda params, pixels: networks.recognizer.bind(params)(pixels),
        networks.recognizer.shapes,
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    )
    wanted = (1, networks.image_proj.config.embedding_dim)
    if found.shape != wanted:
        raise InputError(
            f"the recognizer returns {list(found.shape)}, but the Resampler expects "
            f"{list(wanted)}: use the recognizer of the face pack that prepared the data"
        )


class Frozen:
    """The frozen parameters on the mesh.

    Attributes:
      params: parameters by the names of `Networks.frozen`, in `frozen_dtype`.
      fingerprint: hash of their bits.
    """

    def __init__(self, base: BaseModel, config: TrainConfig, mesh: Mesh):
        """Loads one component at a time.

        Raises:
          InputError: if a file is damaged.
        """
        self.params: dict[str, Params] = {}
        sums: dict[str, int] = {}
        for name, sharding in frozen_sharding(base.networks, config, mesh).items():
            loaded = base.load_frozen(name, frozen_dtype(name, config))
            self.params[name] = place(loaded, sharding)
            sums |= {f"{name}.{k}": v for k, v in checksums(self.params[name]).items()}
        text = json.dumps(sums, sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]


def frozen_dtype(name: str, config: TrainConfig) -> jnp.dtype:
    """The dtype of a frozen component.

    The VAE and the recognizer stay in float32: SDXL's VAE overflows in half precision, and the
    recognizer is sensitive to small differences. So do the factors of a LoRA, as in training.
    """
    whole = ("vae", "recognizer", "lora")
    return jnp.dtype("float32" if name in whole else config.step.dtype)


def frozen_sharding(
    networks: Networks, config: TrainConfig, mesh: Mesh
) -> dict[str, dict[str, Sharding]]:
    """The sharding of each frozen parameter."""
    shardings: dict[str, dict[str, Sharding]] = {}
    for name, each in networks.frozen.items():
        shapes = component_shapes(name, each)
        if config.mesh.frozen == "sharded":
            shardings[name] = shard_params(shapes, mesh)
        else:
            shardings[name] = dict.fromkeys(shapes, replicated(mesh))
    return shardings


def place(params: Params, shardings: Mapping[str, Sharding]) -> Params:
    """Moves parameters onto a mesh, emptying `params`; each process must hold them in full."""
    placed = {}
    for name in list(params):
        value = params.pop(name)
        if shardings[name].is_fully_addressable:
            placed[name] = jax.device_put(value, shardings[name])
        else:
            whole = np.asarray(value)
            placed[name] = jax.make_array_from_callback(
                whole.shape, shardings[name], whole.__getitem__
            )
    return placed


def start_trainables(base: BaseModel, config: TrainConfig, mesh: Mesh) -> Params:
    """The trainables before the first step, float32, on the mesh.

    Call it before loading the frozen parameters: initialization temporarily loads the UNet in
    float32, so that copies of its weights are not rounded to the step's dtype.
    """
    shardings = shard_params(trainable_shapes(base.networks), mesh)
    if base.start is not None:
        params: Params = {}
        for name in base.networks.trainable:
            loaded = base.networks.of(name).arrange(base.start[name].load(jnp.dtype("float32")))
            params |= place(join_parts({name: loaded}), shardings)
        return params
    # Steps fold in their number, which stays below 2**32 - 1.
    key = jax.random.fold_in(jax.random.key(config.seed), 2**32 - 1)
    networks = base.networks
    if "lora" in networks.frozen:
        return place(base.load_frozen("lora", jnp.dtype("float32")), shardings)
    if networks.student is not None:
        rank = networks.student.config.rank
        return jax.jit(
            functools.partial(init_factors, networks.unet, rank), out_shardings=shardings
        )(key)
    if networks.lora_rank is not None:
        return jax.jit(functools.partial(_init_lora, networks), out_shardings=shardings)(key)
    fresh = functools.partial(
        init_trainables, base.networks, zero_id_values=config.model.zero_id_values
    )
    own = component_shapes("unet", base.networks.unet)
    unet = place(base.load_frozen("unet", jnp.dtype("float32")), shard_params(own, mesh))
    return jax.jit(fresh, out_shardings=shardings)(unet, key)


def _init_lora(networks: Networks, key: jax.Array) -> Params:
    params: Params = {}
    for number, name in enumerate(networks.trainable):
        own = jax.random.fold_in(key, number)
        params |= init_factors(networks.of(name), networks.lora_rank, own, name)
    return params


def constants(base: BaseModel, frozen: Mapping[str, Params], mesh: Mesh) -> Constants:
    """The arrays that no step changes, on the mesh."""
    first, second = (tokenizer([""])[0] for tokenizer in base.tokenizers)
    small = {"alphas": alphas_cumprod(base.schedule), "first": first, "second": second}
    small = place(small, dict.fromkeys(small, replicated(mesh)))
    return Constants(dict(frozen), small["alphas"], (small["first"], small["second"]))


def check_prediction_type(base: BaseModel, config: TrainConfig) -> None:
    """Raises InputError unless the objective has the base model's prediction type."""
    wanted, got = base.schedule.prediction_type, config.objective.prediction_type
    if wanted != got:
        raise InputError(
            f"objective.prediction_type={got}, but {config.model.sdxl} was trained with {wanted}: "
            f"set it to {wanted}"
        )
