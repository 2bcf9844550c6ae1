"""The loss of validation records at fixed timesteps and noise."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from instantid_jax.compilation import compiler_options
from instantid_jax.params import Params
from instantid_jax.sharding import replicated
from train.batch import place_batch, process_rows
from train.compiled_step import frozen_specs, gathers_in_loops, loss_maker
from train.config import TrainConfig
from train.networks import Networks
from train.objective import draw, image_moments
from train.parallel import losses_on_mesh
from train.state import trainable_shapes
from train.step import Constants, latent_shape_of

# Number of equal ranges of timesteps.
BINS = 4


class ValidationLoss:
    """The objective's mean loss on the same records, timesteps and noise at every step.

    Each record is measured once in each range of timesteps, within which the records are spread
    evenly, and with nothing dropped.
    """

    def __init__(
        self,
        config: TrainConfig,
        networks: Networks,
        mesh: Mesh,
        records: Mapping[str, np.ndarray],
    ):
        """Args:
        records: arrays [L, ...] of a batch of `train.data`, the same in every process.
        """
        self._records = records
        self._count = len(records["time_ids"])
        self._mesh = mesh
        self._seed = np.uint32(config.validation.seed % 2**32)
        devices = mesh.shape["data"] * mesh.shape["fsdp"]
        # No more at a time than in training.
        most = config.global_batch_size // (devices * config.step.micro_batches)
        self._rows = devices * min(max(most, 1), -(-self._count // devices))
        losses_of = losses_on_mesh(
            functools.partial(_losses, config, networks, self._count),
            mesh,
            params=trainable_shapes(networks),
            frozen=frozen_specs(config, networks, mesh),
            in_loops=gathers_in_loops(networks),
        )
        self._losses = jax.jit(
            lambda params, constants, batch, examples, seed: losses_of(
                params, constants, batch, examples, jax.random.key(seed)
            ),
            out_shardings=replicated(mesh),
            compiler_options=compiler_options(mesh.devices.flat[0].platform),
        )

    def measure(self, params: Params, constants: Constants) -> dict[str, float]:
        """The mean loss, and that of each range of timesteps; all processes must call it.

        Args:
          params: float32 trainables, on the mesh.
        """
        parts = []
        for start in range(0, self._count, self._rows):
            # The last record repeats, so that one shape is compiled.
            numbers = np.minimum(np.arange(start, start + self._rows), self._count - 1)
            held = process_rows(self._rows, self._mesh)
            arrays = {name: values[numbers[held]] for name, values in self._records.items()}
            arrays["example_index"] = numbers[held].astype(np.uint32)
            batch = place_batch(arrays, held, self._rows, self._mesh)
            examples = batch.pop("example_index")
            parts.append(self._losses(params, constants, batch, examples, self._seed))
        losses = np.concatenate([np.asarray(part) for part in parts])[: self._count]
        timesteps = constants.alphas_cumprod.shape[0]
        by_bin = {
            f"loss_t_to_{(i + 1) * timesteps // BINS}": float(mean)
            for i, mean in enumerate(losses.mean(0, dtype=np.float64))
        }
        return {"loss": float(np.mean(list(by_bin.values())))} | by_bin


def _losses(
    config: TrainConfig,
    networks: Networks,
    count: int,
    params: Params,
    constants: Constants,
    batch: dict[str, jax.Array],
    examples: jax.Array,
    key: jax.Array,
    whole: Callable[[Params], Params],
) -> jax.Array:
    """The loss of each example in each range of timesteps, [B, BINS] float32.

    Args:
      count: number of records.
      examples: [B] uint32, the records' numbers.
    """
    objective = dataclasses.replace(config.objective, drop_id=0.0, drop_text=0.0, drop_both=0.0)
    alphas = constants.alphas_cumprod
    shape = latent_shape_of(networks, batch)
    moments = image_moments(networks.vae, constants.frozen["vae"], batch["images"])
    encoded = {n: v for n, v in batch.items() if n != "images"} | {"latent_moments": moments}
    within = (examples.astype(jnp.float32) + 0.5) / count

    def of_bin(number: jax.Array) -> jax.Array:
        draws = draw(objective, jax.random.fold_in(key, number), examples, shape, alphas)
        place = (number.astype(jnp.float32) + within) * (len(alphas) / BINS)
        draws = draws._replace(timesteps=place.astype(jnp.int32))
        loss_of = loss_maker(networks)(
            networks, config.objective, config.step, constants, encoded, draws, whole
        )
        return loss_of(params)[1]["loss"]

    return jax.lax.map(of_bin, jnp.arange(BINS)).T
