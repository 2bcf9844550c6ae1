"""Writing the checkpoints of a run: asynchronously, by Orbax; and noticing preemption."""

import logging
import signal
import threading
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from instantid_jax.runs.contents import Meta, describe, named_arrays
from instantid_jax.runs.folder import RunFolder

logger = logging.getLogger(__name__)

# Exit status of a run that SIGTERM ended after it saved: start it again (EX_TEMPFAIL).
PREEMPTED_STATUS = 75
META_FILE = "meta.json"


class Saver:
    """Saves a run's state every so many steps, and when the machine is taken away.

    A context manager; every process of the run opens it and makes the same calls. Leaving it waits
    for the save under way.

        with Saver(run, start=step, every=1000) as saver:
            while step < stop:
                state = train_step(state)
                step += 1
                preempted = saver.reached_preemption(step)
                saver.save(step, state, meta, force=preempted or step == stop)
                if preempted:
                    break
        sys.exit(PREEMPTED_STATUS if preempted else 0)
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        start: int,
        every: int,
        keep: int = 3,
        keep_every: int | None = None,
    ):
        """Opens a run's checkpoints for writing; what killed saves left is removed.

        Args:
          start: the step the run goes on from, 0 for a new one. Newer checkpoints, from which it
            does not go on, are set aside in `superseded`.
          every: steps between saves.
          keep: how many of the newest stay.
          keep_every: checkpoints of these steps' multiples stay for ever.
        """
        if jax.process_index() == 0:
            _set_aside_after(run, start)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("instantid_jax.runs: newer checkpoints set aside")
        kept: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(keep)]
        if keep_every is not None:
            kept.append(checkpoint_managers.EveryNSteps(keep_every))
        self._every = every
        self._terminated = False
        self._handler_before: Any = None
        self._manager = ocp.CheckpointManager(
            run.checkpoints.absolute(),
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                save_root_metadata=False,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
            ),
            item_handlers={
                # Weights hardly compress.
                "state": ocp.PyTreeCheckpointHandler(use_compression=False),
                "meta": ocp.JsonCheckpointHandler(META_FILE),
            },
        )

    def __enter__(self) -> Self:
        # Several processes agree on a step through JAX's service, which also catches the signal.
        # A lone one needs no service, hence no port.
        if not jax.distributed.is_initialized() and _in_main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._manager.close()
        finally:
            if self._handler_before is not None:
                signal.signal(signal.SIGTERM, self._handler_before)

    def reached_preemption(self, step: int) -> bool:
        """Whether SIGTERM has come and this is the step to save and to end at.

        Every process asks once after each step, with steps that grow by one. All get the same
        answer, though the signal may have come to one of them alone.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._terminated

    def save(self, step: int, state: Any, meta: Meta, *, force: bool = False) -> bool:
        """Saves if the step is due or `force`; returns whether it did.

        Returns once the arrays are copied from the devices, so the caller may donate them; they
        are written in the background. Waits for the save before.

        Args:
          state: any pytree of arrays, none of them empty.
        Raises:
          Exception: Orbax's, if the save before failed.
        """
        if not (force or step % self._every == 0) or step == self._manager.latest_step():
            return False
        arrays = named_arrays(state)
        return self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(arrays),
                meta=ocp.args.JsonSave(describe(step, arrays, meta)),
            ),
            force=True,
        )

    def wait(self) -> None:
        """Waits until what was saved lies in the folder; raises if that failed."""
        self._manager.wait_until_finished()

    def _terminate(self, *_: Any) -> None:
        self._terminated = True


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _set_aside_after(run: RunFolder, start: int) -> None:
    for step in run.steps():
        if step > start:
            place = run.superseded / str(step)
            count = 1
            while place.exists():
                count += 1
                place = run.superseded / f"{step}.{count}"
            place.parent.mkdir(parents=True, exist_ok=True)
            (run.checkpoints / str(step)).rename(place)
            logger.warning("the run goes on from step %d: step %d is now %s", start, step, place)
