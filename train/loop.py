"""The training loop, from the start or the newest checkpoint to the last step."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.paths import utf8_path
from instantid_jax.request import Settings
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.recognizers import RECOGNIZER
from instantid_jax.runs.trained import read_networks
from instantid_jax.sharding import training_mesh
from train.batch import gather_ids, place_batch, process_rows
from train.changes import EVENT as CHANGED
from train.changes import changes_named
from train.compiled_step import compiled_step
from train.config import HIGHEST_IS_BEST, TrainConfig
from train.data.batches import Batches
from train.data.loader import Loader
from train.data.reading import find_datasets
from train.flops import StepFlops
from train.loggers.names import check_loggers
from train.metrics import MetricsWriter
from train.model import BaseModel, check_prediction_type, find_base
from train.profile import Profile
from train.progress import DivergedError, Progress
from train.recognizers import check_recognizers
from train.remote.run import RemoteRun
from train.remote.uploads import uploading
from train.runs.json_lines import append_event
from train.runs.lock import locked
from train.runs.saving import PREEMPTED_STATUS, Best, Saver
from train.start import Start, StartConfig, begin
from train.validation.validation import Validation

logger = logging.getLogger(__name__)


def train(config: TrainConfig, workdir: Path, start: StartConfig, profile: int = 0) -> int:
    """Trains until the last step or SIGTERM.

    Args:
      profile: number of steps to trace with JAX's profiler, into `workdir/profile/`.
    Returns:
      The exit status: 0, or `PREEMPTED_STATUS` after SIGTERM. The state is saved in both cases.
    Raises:
      InputError: before anything is written, if an input is unreadable or does not fit, or another
        process trains in `workdir`; during training, if the loss is not finite.
    """
    run, mesh = _checked(config, workdir, start, profile)
    remote = None
    if config.checkpoints.folder is not None:
        with locked(run):
            remote = RemoteRun(run, config.checkpoints)
            remote.fetch(start.allow_older)
    # A resumed run keeps its network sizes; the weights it started from may be gone.
    trained = read_networks(run)[0] if run.steps() else None
    base = find_base(config.model, trained, config.distillation, stacked=config.step.scan)
    check_prediction_type(base, config)
    batches = Batches(config.data, base.tokenizers, config.global_batch_size, config.seed)
    if batches.records < config.global_batch_size:
        logger.warning(
            "a batch of %d repeats the %d records that are in use",
            config.global_batch_size,
            batches.records,
        )
    wanted = base.networks.image_proj.config.embedding_dim
    if batches.embedding_size != wanted:
        raise InputError(
            f"the data has embeddings of size {batches.embedding_size}, but the Resampler expects "
            f"{wanted}: prepare the data with the model's face pack"
        )
    recognizer = check_recognizers(config.model, run, batches.recognizer)
    validation = None if config.validation is None else Validation(config, base, mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(run))
        begun = begin(config, start, run, base, batches, mesh)
        stack.enter_context(uploading(remote, begun.step))
        batches = batches.with_sizes(begun.batch_sizes)
        epochs, config = config.epochs, config.in_steps(batches.records, begun.batch_sizes)
        if begun.step >= config.last_step:
            source = workdir if begun.event == "resumed" else start.state
            logger.warning(
                "%s is already at step %d: nothing to do up to step %d; more steps continue it",
                source,
                begun.step,
                config.last_step,
            )
            return 0
        if jax.process_index() == 0:
            networks = {**base.settings, RECOGNIZER: recognizer, **base.frozen_source(config.model)}
            _note_start(config, run, networks, begun)
            logger.info(
                "%s at step %d: %d records, batches of %d on %s",
                begun.event,
                begun.step,
                batches.records,
                config.global_batch_size,
                " x ".join(f"{count} {axis}" for axis, count in mesh.shape.items()),
            )
            if epochs is not None:
                logger.info("%d epoch(s) are %d steps", epochs, config.last_step)
        return _loop(config, run, base, mesh, batches, begun, validation, profile)


def _checked(
    config: TrainConfig, workdir: Path, start: StartConfig, profile: int
) -> tuple[RunFolder, Mesh]:
    """The run's folder and mesh, after checking what is local: the model may be on the network.

    Raises:
      InputError: as `train`.
    """
    if profile < 0:
        raise InputError(f"profile={profile}: expected 0 steps or more")
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file: pass a folder as --workdir")
    run = RunFolder(utf8_path(workdir))
    mesh = training_mesh(config.mesh.shape)
    config.check_distillation()
    config.model.check_frozen()
    config.check_best()
    check_loggers(config.loggers)
    changes_named(config, start.change)
    config.check_devices(mesh.shape["data"], mesh.shape["fsdp"])
    for folder in config.dataset_folders:
        find_datasets(folder)
    return run, mesh


def _note_start(
    config: TrainConfig, run: RunFolder, networks: Mapping[str, Any], start: Start
) -> None:
    """Writes a run's settings and events; warns of a validation that takes place at no step."""
    for path, settings in ((run.config, config.to_dict()), (run.networks, networks)):
        with replacing_file(path) as temporary:
            write_json(temporary, settings)
    append_event(run, start.event, step=start.step)
    for change in start.changes:
        append_event(run, CHANGED, step=start.step, **change._asdict())
    if config.validation is not None and config.validation.every > config.last_step:
        logger.warning(
            "no step is validated: validation.every=%d is beyond the last step %d",
            config.validation.every,
            config.last_step,
        )


def _loop(
    config: TrainConfig,
    run: RunFolder,
    base: BaseModel,
    mesh: Mesh,
    batches: Batches,
    start: Start,
    validation: Validation | None,
    profile: int,
) -> int:
    step, state, constants = start.step, start.state, start.constants
    rows = process_rows(config.global_batch_size, mesh)
    take_step = compiled_step(config, base.networks, mesh)
    flops = StepFlops(config, base.networks, mesh)
    seed = np.uint32(config.seed)
    saves, preempted = config.checkpoints, False
    with contextlib.ExitStack() as stack:
        writer = None
        if jax.process_index() == 0:
            writer = MetricsWriter(run, step, config.loggers, config.to_dict())
            stack.enter_context(writer)
        saver = stack.enter_context(_saver(config, run, step))
        progress = stack.enter_context(Progress(config, writer, step, flops))
        loader = Loader(batches, start_step=step, rows=rows, threads=config.loader_threads)
        stack.callback(loader.close)
        tracing = stack.enter_context(Profile(run.path / "profile", step, profile))
        stack.enter_context(_noting_divergence(run))
        saver.warm_up(state)
        while step < config.last_step and not preempted:
            began = time.perf_counter()
            _, batch = next(loader)
            waited = time.perf_counter() - began
            ids = batch.pop("example_ids")
            batch = place_batch(batch, rows, config.global_batch_size, mesh)
            state, metrics = take_step(state, constants, batch, seed)
            size = batches.bucket(step)
            step += 1
            tracing.after(step, metrics)
            details = {
                "epoch": batches.epoch(step - 1),
                "bucket": list(size),
                "corrupt_records": batches.corruption.corrupt,
            }
            if config.log_example_ids:
                details["example_ids"] = gather_ids(ids, rows)
            preempted = saver.reached_preemption(step)
            saved = preempted or step == config.last_step or step % saves.every == 0
            progress.take(step, metrics, details, waited=waited, size=size)
            if saved:
                # A diverged state must not replace good checkpoints.
                progress.flush()
            meta = Meta(
                fingerprint=start.fingerprint,
                seed=config.seed,
                position=step,
                batch_sizes=start.batch_sizes.changes,
            )
            save = functools.partial(saver.save, step, state, meta, force=saved)
            # A checkpoint's rank is saved with it, after the validation; others do not wait for it.
            if saves.best is None:
                save()
            numbers = {}
            # SIGTERM leaves no time for it.
            if validation is not None and validation.is_due(step) and not preempted:
                progress.flush()
                path = run.samples / f"{step:08d}.png"
                numbers = validation.measure(step, state, constants, path)
                if writer is not None:
                    writer.validation(step, numbers, path)
                progress.restart_clock()
            if saves.best is not None:
                save(numbers=numbers)
            if saves.wait:
                saver.wait()
        best = saver.best_step()
        if writer is not None and preempted:
            writer.outcome = "preempted"
    if jax.process_index() == 0:
        _note_end(config, run, step, preempted, best)
    return PREEMPTED_STATUS if preempted else 0


def _saver(config: TrainConfig, run: RunFolder, start: int) -> Saver:
    saves = config.checkpoints
    return Saver(
        run,
        start=start,
        every=saves.every,
        keep=saves.keep,
        keep_every=saves.keep_every,
        best=saves.best and Best(saves.best, HIGHEST_IS_BEST[saves.best]),
    )


def _note_end(
    config: TrainConfig, run: RunFolder, step: int, preempted: bool, best: int | None
) -> None:
    append_event(run, "preempted" if preempted else "finished", step=step)
    if preempted:
        logger.info("stopped: saved step %d; the same command resumes from there", step)
    else:
        logger.info("finished at step %d: %s", step, how_to_use(config, run))
    if best is not None:
        logger.info(
            "the best checkpoint by %s is that of step %d: `python -m convert to-torch %s "
            "--step %d --output DIR` converts it",
            *(config.checkpoints.best, best, run.path, best),
        )


def how_to_use(config: TrainConfig, run: RunFolder) -> str:
    """How to use what was trained."""
    convert = f"`python -m convert to-torch {run.path} --output DIR`"
    if config.distillation is not None:
        options = " ".join(
            f"--{name.replace('_', '-')} {value}"
            for name, value in config.distillation.sampling.items()
            if value != getattr(Settings, name)
        )
        return (
            f"{convert} writes the LoRA, for `instantid generate --sdxl {config.model.sdxl} "
            f"--instantid {config.model.instantid} --lora DIR {options}`"
        )
    return (
        f"`instantid generate --sdxl {config.model.sdxl} --instantid {run.path}` uses the weights, "
        f"and {convert} converts them"
    )


@contextlib.contextmanager
def _noting_divergence(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        if jax.process_index() == 0:
            append_event(run, "diverged", step=error.step)
        raise
