"""A model on its devices: networks, weights, tokenizers and schedule."""

import contextlib
import functools
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from instantid_jax.components import Component, ModelSource, component_shapes
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.pipeline import memory, programs
from instantid_jax.pipeline.offload import Offload, to_host
from instantid_jax.pipeline.placement import place, sharding_of
from instantid_jax.pipeline.step import DenoiserParams
from instantid_jax.pipeline.tiling import check_tiling
from instantid_jax.prompt import PromptTokenizer
from instantid_jax.sharding import SAMPLING_AXES, check_shares
from instantid_jax.weights.embeddings import (
    EmbeddingSource,
    find_embeddings,
    join_embeddings,
    vector_widths,
)
from instantid_jax.weights.lora.merging import Merge, find_merge
from instantid_jax.weights.lora.sources import Lora
from instantid_jax.weights.lora.spellings import PARTS

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
Arrays = TypeVar("Arrays")
# Guidance of SDXL in the official demos, where the weights name none of their own.
GUIDANCE_SCALE = 5.0
# Weights of each network, and of those that LoRAs change, that go into a model's hash: megabytes
# of gigabytes.
HASHED = 8


class ModelParams(DenoiserParams):
    """The weights of all networks."""

    image_proj: Params
    vae: Params
    text_encoder: Params
    text_encoder_2: Params
    refiner: NotRequired[Params]


class LoadedModel:
    """Reads a model's weights onto the devices.

    Attributes:
      schedule: the checkpoint's noise schedule.
      guidance_scale: the default for requests that give none.
      sides: the least and the largest side that it was trained on; None is unknown.
      tokenizers: of both text encoders.
      embeddings: textual inversions, those in LoRAs included.
      networks, params: by component.
      refiner: the network of SDXL's refiner; None if none is loaded.
      dtype, vae_dtype: computed in.
      mesh: of `sampling_mesh`, each device of which has all weights; None is one device.
      vae_tiling: side of the VAE's tiles in pixels; False is none, None is what memory allows.
      offload: whether weights wait on the host while no stage uses them.
    """

    def __init__(
        self,
        model: ModelSource,
        *,
        dtype: jnp.dtype | str | None,
        vae_dtype: jnp.dtype | str | None,
        mesh: Mesh | None,
        vae_tiling: bool | int | None = None,
        offload: bool = False,
        loras: Sequence[Lora] = (),
        embeddings: Sequence[EmbeddingSource] = (),
    ):
        """See `InstantIDPipeline.load` for the arguments."""
        if not isinstance(mesh, Mesh | None):
            raise InputError(f"mesh={mesh!r}: expected a mesh of instantid_jax.sampling_mesh")
        if mesh is not None and mesh.axis_names != SAMPLING_AXES:
            raise InputError(
                f"mesh has the axes {', '.join(map(str, mesh.axis_names))}: expected one of "
                "instantid_jax.sampling_mesh"
            )
        on_cpu = jax.default_backend() == "cpu"
        self.dtype = compute_dtype("dtype", dtype, jnp.float32 if on_cpu else jnp.bfloat16)
        self.vae_dtype = compute_dtype("vae_dtype", vae_dtype, self.dtype)
        self.mesh = mesh
        self.vae_tiling = check_tiling(vae_tiling)
        self._offload = Offload(offload)
        self._tiles: dict[tuple[int, int], int | None] = {}
        self.schedule = ScheduleConfig.from_dict(model.scheduler)
        make_sampler(self.schedule, None, 1)
        self.force_zeros_for_empty_prompt = model.force_zeros_for_empty_prompt
        usual = model.guidance_scale
        self.guidance_scale = GUIDANCE_SCALE if usual is None else usual
        self.sides = model.sides
        parts = model.components
        first, second = (
            PromptTokenizer(
                folder,
                positions=parts[name].network.config.max_position_embeddings,
                vocabulary=parts[name].network.config.vocab_size,
            )
            for folder, name in zip(model.tokenizers, TEXT_ENCODERS, strict=True)
        )
        self.tokenizers = (first, second)
        self.networks = programs.Networks(
            unet=parts["unet"].network,
            controlnets=tuple(parts[name].network for name in model.controlnets),
            image_proj=parts["image_proj"].network,
            vae=parts["vae"].network,
            text_encoder=parts["text_encoder"].network,
            text_encoder_2=parts["text_encoder_2"].network,
        )
        self.refiner = parts["refiner"].network if "refiner" in parts else None
        self._base = {part: parts[part] for part in PARTS}
        self._widths = vector_widths(self._base)
        # Before gigabytes are read.
        self._chosen = find_embeddings(embeddings, self._widths)
        self._merge = find_merge(loras, self._base)
        self.embeddings = join_embeddings(self._widths, self._chosen, self._merge.embeddings)
        self.params = ModelParams(
            image_proj=self._read("image_proj", parts["image_proj"]),
            vae=self._read("vae", parts["vae"], self.vae_dtype),
            text_encoder={},
            text_encoder_2={},
            unet=self._read("unet", parts["ip_adapter"]),
            controlnets=tuple(self._read("controlnets", parts[n]) for n in model.controlnets),
        )
        if "refiner" in parts:
            self.params["refiner"] = self._read("refiner", parts["refiner"])
        own = {part: component_shapes(part, self._base[part].network) for part in PARTS}
        self._apply(self._merge, own)

    def _read(self, name: str, part: Component, dtype: jnp.dtype | None = None) -> Params:
        return self._put(name, part.load(self.dtype if dtype is None else dtype))

    def _put(self, name: str, params: Params) -> Params:
        """Puts weights where they wait for a stage that uses them."""
        return to_host(params) if name in self._offload.parts else place(params, self.mesh)

    def _read_merged(self, part: str, merge: Merge, names: Collection[str]) -> Iterator[Params]:
        for params in merge.load(self._base[part], part, self.dtype, sorted(names)):
            yield self._put(part, params)

    def set_loras(self, loras: Sequence[Lora]) -> None:
        """Merges LoRAs into the weights, instead of those that were merged before.

        Weights that change are read from their files again. Compiles nothing.

        Raises:
          InputError: if one is missing, damaged or belongs to another model; then nothing changes.
        """
        before, after = self._merge, find_merge(loras, self._base)
        names = {part: {*before.names(part), *after.names(part)} for part in PARTS}
        try:
            self._apply(after, names)
        except BaseException:  # An interrupt, too, must not leave a mixture.
            self._apply(before, names)
            raise
        self._merge = after
        self.embeddings = join_embeddings(self._widths, self._chosen, after.embeddings)
        self.__dict__.pop("weights_hash", None)

    def set_embeddings(self, embeddings: Sequence[EmbeddingSource]) -> None:
        """Reads textual inversions, instead of those before. Compiles nothing.

        Raises:
          InputError: if one is missing, damaged or belongs to another model; then nothing changes.
        """
        self._chosen = find_embeddings(embeddings, self._widths)
        self.embeddings = join_embeddings(self._widths, self._chosen, self._merge.embeddings)
        self.__dict__.pop("weights_hash", None)

    def _apply(self, merge: Merge, names: Mapping[str, Collection[str]]) -> None:
        for part, chosen in names.items():
            params = self._by_part[part]
            for group in self._read_merged(part, merge, chosen):
                params.update(group)

    @contextlib.contextmanager
    def on_devices(self, dtype: jnp.dtype) -> Iterator[None]:
        """Inside, programs run on the mesh, and for float32 matrix products use float32.

        Accelerators round the factors to TensorFloat-32 or bfloat16 by default.
        """
        chosen = jax.default_matmul_precision.value
        with contextlib.ExitStack() as stack:
            if self.mesh is not None:
                stack.enter_context(jax.set_mesh(self.mesh))
            precision = chosen or ("highest" if dtype == jnp.float32 else None)
            stack.enter_context(jax.default_matmul_precision(precision))
            yield

    @property
    def offload(self) -> bool:
        return bool(self._offload.parts)

    def resident(self, *parts: str) -> contextlib.AbstractContextManager[None]:
        """Inside, these parts' weights are on the devices, even if they wait on the host."""
        return self._offload.resident(self._by_part, parts, sharding_of(self.params["unet"]))

    def keeping(self, *parts: str) -> contextlib.AbstractContextManager[None]:
        """Inside, these parts' weights stay on the devices from their first use on."""
        return self._offload.keeping(self._by_part, parts)

    def release(self, *parts: str) -> None:
        """Takes these parts' weights back to the host before `keeping` ends."""
        self._offload.release(self._by_part, parts)

    @property
    def _by_part(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.params)

    @property
    def denoiser_params(self) -> DenoiserParams:
        return DenoiserParams(unet=self.params["unet"], controlnets=self.params["controlnets"])

    @property
    def refiner_params(self) -> DenoiserParams:
        """The refiner's weights as those of a step.

        Raises:
          KeyError: if no refiner is loaded.
        """
        return DenoiserParams(unet=self._by_part["refiner"], controlnets=())

    @property
    def long_side(self) -> int:
        """The long side of the images that the model was trained for, in pixels."""
        return 8 * self.networks.unet.config.sample_size

    @property
    def images_at_once(self) -> int:
        """How many whole images the devices decode at a time."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    def check_mesh(self, size: tuple[int, int], batch: int, guidance: bool) -> None:
        """Raises an InputError for what the mesh's devices cannot share evenly.

        Args:
          size: (height, width) of the `batch` images.
        """
        if self.mesh is not None:
            unets = (self.networks.unet, self.refiner)
            levels = max(len(unet.config.block_out_channels) for unet in unets if unet is not None)
            check_shares(self.mesh, size, batch, guidance, levels)

    def vae_tile(self, size: tuple[int, int]) -> int | None:
        """The side in pixels of the tiles that the VAE takes; None takes the image whole.

        Decided once for a size, so that it does not change from call to call.

        Args:
          size: (height, width) of the image, in pixels.
        """
        if size not in self._tiles:
            devices, rows = sharding_of(self.params["unet"]).device_set, 1
            if self.mesh is not None:
                devices, rows = self.mesh.local_devices, self.mesh.shape["rows"]
            vae = self.networks.vae.config
            self._tiles[size] = memory.find_tile(
                self.vae_tiling, vae, size, self.vae_dtype, devices, rows
            )
        return self._tiles[size]

    def check_memory(self, size: tuple[int, int]) -> None:
        """Raises an InputError for images that a CPU's memory cannot decode.

        Args:
          size: (height, width) of the images.
        """
        if jax.devices()[0].platform != "cpu":
            return
        tile = self.vae_tile(size)
        taken = size if tile is None else (min(size[0], tile), min(size[1], tile))
        memory.check_host(self.networks.vae.config, taken, self.vae_dtype)

    @functools.cached_property
    def nobody(self) -> jax.Array:
        """[1, N, D], ID tokens of nobody: the Resampler's for an embedding of zeros."""
        network = self.networks.image_proj
        zeros = np.zeros((1, network.config.embedding_dim), np.float32)
        with self.on_devices(self.dtype):
            return programs.encode_id(network, self.params["image_proj"], zeros)

    @functools.cached_property
    def rgb_of_latents(self) -> np.ndarray:
        """[C + 1, 3] float32: an affine map from scaled latents to RGB in [0, 1], for previews.

        Fitted by least squares to what the VAE's encoder makes of solid colors.
        """
        levels = np.linspace(-1, 1, 5, dtype=np.float32)
        colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
        with self.resident("vae"), self.on_devices(self.vae_dtype):
            latents = programs.encode_colors(self.networks.vae, self.params["vae"], colors)
        latents = np.asarray(latents, np.float64)
        affine = np.concatenate([latents, np.ones((len(latents), 1))], axis=1)
        fitted, *_ = np.linalg.lstsq(affine, colors / 2 + 0.5, rcond=None)
        return fitted.astype(np.float32)

    @functools.cached_property
    def weights_hash(self) -> str:
        """Hash of some weights of each network, and of embeddings.

        Tells models apart, does not detect tampering.
        """
        digest = hashlib.sha256()
        single = ("image_proj", "vae", "text_encoder", "text_encoder_2", "unet")
        networks = [(name, self.params[name]) for name in single]
        if self.refiner is not None:
            networks.append(("refiner", self._by_part["refiner"]))
        networks += [("controlnets", params) for params in self.params["controlnets"]]
        for name, params in networks:
            kernels = [key for key, value in params.items() if value.ndim > 1]
            merged = self._merge.names(name) if name in PARTS else ()
            for key in [*_sample(kernels), *_sample(merged)]:
                digest.update(f"{name}.{key}".encode())
                digest.update(np.asarray(params[key]).tobytes())
        for embedding in sorted(self.embeddings.all, key=lambda each: each.name):
            digest.update(f"embeddings.{embedding.name}".encode())
            for vectors in embedding.vectors:
                digest.update(vectors.tobytes())
        return digest.hexdigest()[:16]

    def place(self, arrays: Arrays) -> Arrays:
        """Puts arrays next to the weights, where the programs' own results are."""
        if self.mesh is not None:
            return arrays
        return jax.device_put(arrays, sharding_of(self.params["unet"]))


def _sample(names: Collection[str]) -> list[str]:
    return sorted(names)[:: max(1, -(-len(names) // HASHED))]


def compute_dtype(name: str, value: Any, default: jnp.dtype) -> jnp.dtype:
    """The dtype a program computes in: as given, else `default`.

    Args:
      value: a dtype of JAX, NumPy or torch, or its name.
    Raises:
      InputError: for other dtypes, and for float16 on a CPU: XLA cannot sum its products in float32
        there.
    """
    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if value is None:
        return jnp.dtype(default)
    try:
        label = value if isinstance(value, str) else jnp.dtype(value).name
    except TypeError:
        label = str(value).removeprefix("torch.")
    if label not in known:
        raise InputError(f"{name}={label!r}: expected one of {', '.join(known)}, or None")
    if label == "float16" and jax.default_backend() == "cpu":
        raise InputError(f"{name}=float16 is not supported on a CPU: use float32 or bfloat16")
    return jnp.dtype(known[label])
