"""A model on its devices: its networks, their weights and tokenizers, and what they encode."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from instantid_jax.components import Component, Model
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.pipeline import conditioning, inputs, programs
from instantid_jax.placement import beside, place
from instantid_jax.prompt import PromptTokenizer, tokenize
from instantid_jax.sharding import SAMPLING_AXES, check_shares

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# Of both encoders, [B, L] each.
TokenIds = tuple[np.ndarray, np.ndarray]


class LoadedModel:
    """Reads a model's weights onto the devices.

    Attributes:
      schedule: of the checkpoint.
      tokenizers: of both text encoders.
      networks, params: by component.
      dtype, vae_dtype: what is computed in.
      mesh: of `sampling_mesh`, each device of which has all weights; None is one device.
    """

    def __init__(
        self,
        model: Model,
        *,
        dtype: jnp.dtype | str | None,
        vae_dtype: jnp.dtype | str | None,
        mesh: Mesh | None,
    ):
        """See `InstantIDPipeline.load` for the arguments."""
        if mesh is not None and mesh.axis_names != SAMPLING_AXES:
            raise InputError(
                f"mesh has the axes {', '.join(map(str, mesh.axis_names))}: expected one of "
                "instantid_jax.sampling_mesh"
            )
        on_cpu = jax.default_backend() == "cpu"
        self.dtype = compute_dtype("dtype", dtype, jnp.float32 if on_cpu else jnp.bfloat16)
        self.vae_dtype = compute_dtype("vae_dtype", vae_dtype, self.dtype)
        self.mesh = mesh
        self.schedule = ScheduleConfig.from_dict(model.scheduler)
        make_sampler(self.schedule, None, 1)
        self.force_zeros_for_empty_prompt = model.force_zeros_for_empty_prompt
        parts = model.components
        self.tokenizers = tuple(
            PromptTokenizer(
                folder,
                positions=parts[name].network.config.max_position_embeddings,
                vocabulary=parts[name].network.config.vocab_size,
            )
            for folder, name in zip(model.tokenizers, TEXT_ENCODERS, strict=True)
        )
        self.networks = programs.Networks(
            unet=parts["unet"].network,
            controlnets=tuple(parts[name].network for name in model.controlnets),
            image_proj=parts["image_proj"].network,
            vae=parts["vae"].network,
            text_encoder=parts["text_encoder"].network,
            text_encoder_2=parts["text_encoder_2"].network,
        )
        self.params: dict[str, Params | tuple[Params, ...]] = {
            name: self._read(parts[name], self.vae_dtype if name == "vae" else self.dtype)
            for name in ("image_proj", "vae", *TEXT_ENCODERS)
        }
        self.params["unet"] = self._read(parts["unet"], self.dtype) | self._read(
            parts["ip_adapter"], self.dtype
        )
        self.params["controlnets"] = tuple(
            self._read(parts[name], self.dtype) for name in model.controlnets
        )

    def _read(self, part: Component, dtype: jnp.dtype) -> Params:
        return place(part.load(dtype), self.mesh)

    @contextlib.contextmanager
    def on_devices(self, dtype: jnp.dtype) -> Iterator[None]:
        """Inside, programs run on the mesh; where float32 was chosen, so do matrix products.

        Accelerators would round the factors, to TensorFloat-32 or bfloat16, unless told.
        """
        chosen = jax.config.jax_default_matmul_precision
        with contextlib.ExitStack() as stack:
            if self.mesh is not None:
                stack.enter_context(jax.set_mesh(self.mesh))
            precision = chosen or ("highest" if dtype == jnp.float32 else None)
            stack.enter_context(jax.default_matmul_precision(precision))
            yield

    @property
    def denoiser_params(self) -> dict[str, Params | tuple[Params, ...]]:
        return {name: self.params[name] for name in ("unet", "controlnets")}

    @property
    def pictures_at_once(self) -> int:
        """Whole pictures that the devices work on."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    def check_mesh(self, size: tuple[int, int], batch: int, guidance: bool) -> None:
        """Refuses what cannot be shared out among the devices.

        Args:
          size: (height, width) of the pictures, of which there are `batch`.
        """
        if self.mesh is not None:
            levels = len(self.networks.unet.config.block_out_channels)
            check_shares(self.mesh, size, batch, guidance, levels)

    @functools.cached_property
    def empty_id(self) -> jax.Array:
        """ID tokens of nobody: the Resampler's, of an embedding of zeros. They never change."""
        return self.encode_id(
            np.zeros((1, self.networks.image_proj.config.embedding_dim), np.float32)
        )

    def encode_id(self, embeddings: np.ndarray) -> jax.Array:
        return programs.encode_id(self.networks.image_proj, self.params["image_proj"], embeddings)

    def prompts(
        self, count: int, prompts: tuple, embeds: tuple, what: str, clip_skip: int | None = None
    ) -> tuple[programs.Prompts | TokenIds | None, int]:
        """A prompt's token ids or, where they are given, its states; and which layers to skip."""
        configs = [getattr(self.networks, name).config for name in TEXT_ENCODERS]
        layers = min(config.num_hidden_layers for config in configs)
        skip = 0 if clip_skip is None else inputs.check_whole("clip_skip", clip_skip, 0, layers - 1)
        given = conditioning.prompts_given(
            prompts,
            embeds,
            count,
            what,
            (self.networks.unet.config.cross_attention_dim, configs[1].projection_dim),
            self.dtype,
        )
        if given is not None and not isinstance(given, programs.Prompts):
            given = tokenize(self.tokenizers, given)
        return given, skip

    def encode_text(self, given: programs.Prompts | TokenIds, clip_skip: int) -> programs.Prompts:
        if isinstance(given, programs.Prompts):
            return self._bound(given)
        params = (self.params["text_encoder"], self.params["text_encoder_2"])
        return programs.encode_text(self.networks, params, given, clip_skip)

    def _bound(self, prompts: programs.Prompts) -> programs.Prompts:
        """Given ones beside the weights, as encoded ones are, for which programs compile."""
        if self.mesh is not None:
            return prompts
        return jax.device_put(prompts, beside(self.params["unet"]))

    def encode_negative(
        self, given: programs.Prompts | TokenIds | None, positive: programs.Prompts
    ) -> programs.Prompts:
        """The negative prompts; zeros where there are none."""
        if given is None:
            zeros = (np.zeros(each.shape, each.dtype) for each in positive)
            return self._bound(programs.Prompts(*zeros))
        negative = self.encode_text(given, 0)
        if negative.text.shape != positive.text.shape:
            raise InputError(
                f"prompt and negative prompt have embeddings of shapes {positive.text.shape} and "
                f"{negative.text.shape}: expected the same"
            )
        return negative


def compute_dtype(name: str, value: jnp.dtype | str | None, default: jnp.dtype) -> jnp.dtype:
    """The dtype a program computes in: as given, else `default`."""
    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if value is None:
        return jnp.dtype(default)
    label = value if isinstance(value, str) else jnp.dtype(value).name
    if label not in known:
        raise InputError(f"{name}={label!r}: expected one of {', '.join(known)}, or None")
    return jnp.dtype(known[label])
