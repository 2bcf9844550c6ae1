"""`python -m benchmarks.step`: times one denoising step here and in PyTorch, on a CPU.

Runs SDXL's UNet and IdentityNet at full width on a 256-pixel image with guidance, in float32. The
sides take turns in new processes, because memory holds the weights of only one. Here the keys and
values of text and ID and the embeddings of keypoints and pooled text are precomputed, as in
sampling; diffusers recomputes all of these in every step, except the UNet's keys and values of the
ID.
"""

import functools
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

import tyro

from benchmarks import recording
from benchmarks.recording import command, environment

RESULTS = recording.RESULTS / "step.json"
SIZE = 256
SIDES = ("jax", "torch")


def main(
    turns: int = 3,
    repeats: int = 5,
    side: Literal["jax", "torch"] | None = None,
    record: bool = False,
) -> None:
    """Times the step.

    Args:
      turns: number of processes of each side, in alternation.
      repeats: timed steps per process, after one warm-up step.
      side: measure only this side, in this process; the parent runs its children with it.
      record: write the result to benchmarks/results/step.json.
    """
    if side is not None:
        step = {"jax": _jax_step, "torch": _torch_step}[side]()
        print(json.dumps([_seconds(step) for _ in range(repeats + 1)][1:]))
        return
    about = environment("jax", "jaxlib", "flax", "torch", "diffusers")
    measured: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for _, each in itertools.product(range(turns), SIDES):
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.step", "--side", each, "--repeats", str(repeats)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        measured[each].append([round(seconds, 3) for seconds in json.loads(output)])
    medians = {
        side: statistics.median(itertools.chain(*processes)) for side, processes in measured.items()
    }
    result = {
        "ratio": round(medians["jax"] / medians["torch"], 3),
        "median_seconds": medians,
        "seconds": measured,
        **about,
        "command": command("benchmarks.step"),
    }
    print(json.dumps(result, indent=1))
    if record:
        recording.write(RESULTS, result)


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _jax_step() -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    from benchmarks.compiled_sampling import sdxl_networks, step_arguments
    from benchmarks.random_pipeline import draw_all
    from instantid_jax.pipeline.step import denoise

    arguments = step_arguments(sdxl_networks(), 1, (SIZE, SIZE), True, jnp.dtype("float32"))
    program, params, *shapes = arguments
    params = {
        "unet": draw_all(params["unet"], jnp.dtype("float32")),
        "controlnets": tuple(
            draw_all(each, jnp.dtype("float32")) for each in params["controlnets"]
        ),
    }
    state, *others = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)

    def step() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(denoise(program, params, state, *others))

    return step


def _torch_step() -> Callable[[], object]:
    from benchmarks.cases import TOKENS, Case, Job
    from benchmarks.sampling_torch import Peer

    case = Case(size=SIZE, batch=1, steps=1, guidance=True)
    job = Job(cases=(), small=False, dtype="float32", vae_dtype="float32", repeats=0)
    peer = Peer(job)
    peer.install_id_attention(2)
    text = peer.random(2, TOKENS, peer.unet.config.cross_attention_dim)
    pooled = peer.random(2, peer.settings["text_encoder_2"]["projection_dim"])
    return functools.partial(peer.denoise, case, text, pooled)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.step")
