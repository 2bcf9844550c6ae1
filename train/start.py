"""The initial state: the run's newest checkpoint, another run's, given weights or new ones."""

import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from instantid_jax.errors import InputError
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from train.changes import CHANGEABLE, Change, changes_made, changes_named
from train.compiled_step import state_shapes
from train.config import TrainConfig
from train.data.batch_sizes import BatchSizes
from train.data.batches import Batches
from train.distributed import check_same
from train.model import BaseModel, Frozen, constants, start_trainables
from train.state import TrainState, init_state
from train.step import Constants

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartConfig:
    """How to start or resume a run; not part of its configuration.

    Attributes:
      state: folder of another run whose newest checkpoint a new run starts from. If the
        configurations differ, it needs `ignore_fingerprint`.
      allow_older: if the newest checkpoint is damaged, use the newest intact one.
      ignore_fingerprint: resume although configuration, data or base weights differ from those of
        the checkpoint.
      change: names of settings that change on resume, such as optimizer.learning-rate; the other
        settings must be equal. Their values are those of this command.
    """

    state: Path | None = None
    allow_older: bool = False
    ignore_fingerprint: bool = False
    change: tuple[str, ...] = ()


class Start(NamedTuple):
    """The loop's initial values.

    Attributes:
      step: number of steps already taken.
      state, constants: on the mesh.
      fingerprint: settings and hashes that checkpoints of the run must match.
      event: "started" or "resumed".
      changes: settings that differ from the checkpoint's as `StartConfig.change` allows.
      batch_sizes: the global batch sizes of all steps.
    """

    step: int
    state: TrainState
    constants: Constants
    fingerprint: dict[str, str]
    event: str
    changes: list[Change]
    batch_sizes: BatchSizes


def begin(
    config: TrainConfig,
    start: StartConfig,
    run: RunFolder,
    base: BaseModel,
    batches: Batches,
    mesh: Mesh,
) -> Start:
    """Loads the initial state and the frozen parameters.

    Raises:
      InputError: if a file is damaged, or a checkpoint or cached latents belong to another
        configuration, model or dataset.
    """
    check_same(
        {
            "configuration": json.dumps(config.to_dict(), sort_keys=True),
            "start options": str(start),
            "list of checkpoints": str(run.steps()),
        }
    )
    source = run
    if not run.steps() and start.state is not None:
        source = RunFolder(start.state)
    fresh = source is run and not run.steps()
    names = changes_named(config, start.change)
    if names and fresh:
        raise InputError(
            f"--change {' '.join(names)}: {run.path} has no checkpoint, so this starts a new run "
            "with any settings: leave --change out"
        )
    # Before the frozen weights, because it temporarily loads the UNet in float32.
    params = start_trainables(base, config, mesh) if fresh else None
    frozen = Frozen(base, config, mesh)
    batches.check_vae(frozen.params["vae"])
    fingerprint = config.identity() | {
        "data": batches.fingerprint[:16],
        "base model": frozen.fingerprint,
        "networks": base.fingerprint,
    }
    check_same(fingerprint)
    template = state_shapes(config, base.networks, mesh)
    if params is not None:
        # Donated, so that no two arrays of the state share a buffer: the step donates each.
        init = jax.jit(
            functools.partial(init_state, config.optimizer),
            out_shardings=jax.tree.map(lambda leaf: leaf.sharding, template),
            donate_argnums=0,
        )
        step, state, changes = 0, init(params), []
        batch_sizes = BatchSizes.constant(config.global_batch_size)
    else:
        step, state, meta = restore(
            source,
            template,
            allow_older=start.allow_older,
            fingerprint=fingerprint,
            ignore_fingerprint=start.ignore_fingerprint,
            changes=names,
            changeable=CHANGEABLE,
        )
        changes = changes_made(names, meta.fingerprint, fingerprint, run)
        batch_sizes = _batch_sizes(meta).changed(step, config.global_batch_size)
    event = "started" if source is not run or fresh else "resumed"
    loaded = constants(base, frozen.params, mesh)
    return Start(step, state, loaded, fingerprint, event, changes, batch_sizes)


def _batch_sizes(meta: Meta) -> BatchSizes:
    """The global batch sizes until a checkpoint."""
    if meta.batch_sizes:
        return BatchSizes(meta.batch_sizes)
    # Older checkpoints name one, which has never changed.
    return BatchSizes.constant(json.loads(meta.fingerprint["global_batch_size"]))
