"""Asynchronous checkpointing with Orbax, and detection of preemption."""

import contextlib
import logging
import math
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from instantid_jax.errors import InputError
from instantid_jax.runs.contents import META_FILE, Meta, checksums, describe, named_arrays
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.orbax_logging import let_tasks_end, quiet_orbax, silence_abandoned_tasks

logger = logging.getLogger(__name__)

# Exit status after SIGTERM and a successful save: rerun to resume (EX_TEMPFAIL).
PREEMPTED_STATUS = 75


class Best(NamedTuple):
    """Which number ranks checkpoints, and whether the highest or the lowest is best."""

    name: str
    highest: bool

    def number_of(self, numbers: Mapping[str, float]) -> float:
        """The number; the worst if a checkpoint was ranked by another one."""
        return numbers.get(self.name, -math.inf if self.highest else math.inf)


class Saver:
    """Saves a run's state at regular steps and on preemption.

    A context manager. Every process of the run must open it and make the same calls. Exiting waits
    for the pending save.

        with Saver(run, start=step, every=1000) as saver:
            saver.warm_up(state)
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
        best: Best | None = None,
    ):
        """Opens a run's checkpoints for writing, removing the remnants of killed saves.

        Args:
          start: the step the run resumes from, 0 for a new run. Newer checkpoints are moved to
            `superseded`.
          every: steps between saves.
          keep: number of newest checkpoints to keep.
          keep_every: also keep checkpoints whose step is a multiple of this.
          best: also keep the best checkpoint of those saved with this number.
        """
        if jax.process_index() == 0:
            _set_aside_after(run, start)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("instantid_jax.runs: newer checkpoints set aside")
        kept: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(keep)]
        if keep_every is not None:
            kept.append(checkpoint_managers.EveryNSteps(keep_every))
        ranked = {}
        if best is not None:
            ranked = {"best_fn": best.number_of, "best_mode": "max" if best.highest else "min"}
            kept.append(
                checkpoint_managers.BestN(
                    get_metric_fn=best.number_of,
                    reverse=not best.highest,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._run = run
        self._best = best
        self._every = every
        self._terminated = False
        self._failed = False
        self._entered = contextlib.ExitStack()
        self._manager = ocp.CheckpointManager(
            run.checkpoints.absolute(),
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                save_root_metadata=False,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
                **ranked,
            ),
            item_handlers={
                # Weights are nearly incompressible.
                "state": ocp.PyTreeCheckpointHandler(use_compression=False),
                "meta": ocp.JsonCheckpointHandler(META_FILE),
            },
        )

    def __enter__(self) -> Self:
        self._entered.callback(self._silence)
        self._entered.enter_context(quiet_orbax())
        # With several processes, JAX's distributed service catches the signal and agrees on a step.
        # A single process has no such service.
        if not jax.distributed.is_initialized() and _in_main_thread():
            before = signal.signal(signal.SIGTERM, self._terminate)
            self._entered.callback(signal.signal, signal.SIGTERM, before)
        if _in_main_thread():
            before = signal.signal(signal.SIGINT, self._interrupt)
            self._entered.callback(signal.signal, signal.SIGINT, before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Keeps a second SIGTERM from interrupting the last save.
        with self._entered:
            try:
                with self._writable():
                    self._manager.close()
            finally:
                if self._failed:
                    self._discard_remnants()

    def reached_preemption(self, step: int) -> bool:
        """Whether to save and stop after this step because of SIGTERM.

        Every process must ask once after each step. All get the same answer, even if only one of
        them received the signal.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._terminated

    def _interrupt(self, _number: int, _frame: object) -> None:
        """Saves as after SIGTERM; another interrupt ends the run at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.warning("interrupted: saving; interrupt again to end without")
        signal.raise_signal(signal.SIGTERM)

    def warm_up(self, state: Any) -> None:
        """Compiles `save`'s device code, since SIGTERM may leave only seconds for the first save.

        Args:
          state: as it will be saved; not modified.
        """
        checksums(named_arrays(state))

    def save(
        self,
        step: int,
        state: Any,
        meta: Meta,
        *,
        numbers: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Saves if the step is due or `force` is set; returns whether it did.

        Waits for the previous save, then returns once the arrays are copied from the devices, so
        the caller may donate them. They are written in the background.

        Args:
          state: any pytree of non-empty arrays.
          numbers: what was measured of this state; `best` ranks the checkpoint if they include its
            number. The same in all processes.
        Raises:
          InputError: if this save or the previous one failed, for example on a full disk.
        """
        if not (force or step % self._every == 0) or step == self._manager.latest_step():
            return False
        arrays = named_arrays(state)
        contents = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays),
            meta=ocp.args.JsonSave(describe(step, arrays, meta)),
        )
        with self._writable():
            return self._manager.save(
                step, args=contents, metrics=self._metrics(numbers), force=True
            )

    def best_step(self) -> int | None:
        """The step of the best checkpoint; None if none is ranked."""
        return None if self._best is None else self._manager.best_step()

    def _metrics(self, numbers: Mapping[str, float] | None) -> dict[str, float] | None:
        """The finite numbers, for Orbax, if they rank a checkpoint."""
        finite = {name: each for name, each in (numbers or {}).items() if math.isfinite(each)}
        return finite if self._best is not None and self._best.name in finite else None

    def wait(self) -> None:
        """Waits for the pending save; raises InputError if it failed."""
        with self._writable():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turns Orbax's errors on failed writes, which may come late, into one-line errors."""
        reason = None
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _reason(error)
        if reason is not None:
            self._failed = True
            raise InputError(
                f"{self._run.checkpoints} cannot be written ({reason}); existing checkpoints are "
                "intact: mend that, then rerun the same command"
            )

    def _discard_remnants(self) -> None:
        """Removes what a failed save has written, and Orbax's tasks while they are silenced."""
        self._manager = None
        let_tasks_end()
        # Other processes may still write.
        if jax.process_count() == 1:
            for remnant in self._run.checkpoints.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(remnant, ignore_errors=True)

    def _silence(self) -> None:
        if self._failed:
            silence_abandoned_tasks()

    def _terminate(self, *_: Any) -> None:
        self._terminated = True


def _reason(error: OSError | ValueError) -> str:
    """Why a write failed; TensorStore says it last."""
    reason = error.strerror if isinstance(error, OSError) else None
    message, *details = " ".join(str(reason or error).split()).split(" [")
    from_tensorstore = any(part.startswith("os_error_code") for part in details)
    return message.rpartition(": ")[2] if from_tensorstore else message[-200:]


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
            logger.warning("resuming from step %d: moved checkpoint %d to %s", start, step, place)
