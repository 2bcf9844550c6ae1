"""A killable run in its own process, which counts in an array sharded over all devices."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from instantid_jax.sharding import training_mesh
from train.runs.saving import PREEMPTED_STATUS, Saver

META = Meta(fingerprint={"config": "counting"}, seed=0, position=0)


def count(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """One step. The sum synchronizes the processes, as gradients do."""
    total = jnp.sum(state["params"])
    return {"params": state["params"] + 1 + 0 * total, "step": state["step"] + 1}


def train(run: RunFolder, stop: int, every: int, pause: float) -> int:
    mesh = training_mesh((-1, 1, 1))
    shardings = {
        "params": NamedSharding(mesh, PartitionSpec("data")),
        "step": NamedSharding(mesh, PartitionSpec()),
    }
    shapes = {"params": (64, 256), "step": ()}
    if run.steps():
        template = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=shardings[name])
            for name, shape in shapes.items()
        }
        step, state, _ = restore(run, template, allow_older=True)
        print("resumed", step, flush=True)
    else:
        step = 0
        start = jax.jit(
            lambda: {name: jnp.zeros(shape) for name, shape in shapes.items()},
            out_shardings=shardings,
        )
        state = start()
    advance = jax.jit(count, out_shardings=shardings, donate_argnums=0)
    preempted = False
    with Saver(run, start=step, every=every) as saver:
        saver.warm_up(state)
        while step < stop and not preempted:
            state = advance(state)
            step += 1
            time.sleep(pause)
            preempted = saver.reached_preemption(step)
            saver.save(step, state, META, force=preempted or step == stop)
            print("step", step, flush=True)
    return PREEMPTED_STATUS if preempted else 0


def die_while_saving(run: RunFolder) -> None:
    """Saves step 1, and exits in the middle of saving step 2."""
    with Saver(run, start=0, every=1) as saver:
        saver.save(1, {"params": {"x": jnp.ones((8,))}}, META)
        saver.wait()
        saver.save(2, {"params": {"x": jnp.ones((16, 1024, 1024))}}, META)
        while not list(run.checkpoints.glob("2*")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--stop", type=int, default=10**6)
    parser.add_argument("--every", type=int, default=10**6)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--address")
    parser.add_argument("--process", type=int)
    args = parser.parse_args()
    if args.address:
        jax.distributed.initialize(args.address, 2, args.process)
    if args.die:
        die_while_saving(RunFolder(args.folder))
    sys.exit(train(RunFolder(args.folder), args.stop, args.every, args.pause))
