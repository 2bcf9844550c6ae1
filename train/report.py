"""`python -m train.report RUN`: plots a run's metrics, validation numbers and events as one PNG."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from instantid_jax.atomic import replacing_file
from instantid_jax.cli.entry import entry
from instantid_jax.cli.outputs import check_folder
from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from train.metrics import VALIDATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Metrics of steps that have a panel, and its title.
SHOWN = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "images_per_second": "images/s",
}
# Ranges of timesteps share a panel with the whole loss.
RANGE = "_t_to_"
# Colors and line styles of the events to mark.
EVENTS = {
    "preempted": ("tab:orange", "-"),
    "resumed": ("tab:green", ":"),
    "diverged": ("tab:red", "--"),
}
COLUMNS = 2
# A smoothed curve averages about this share of the steps.
SMOOTHED = 0.02
# Steps that it reaches back at least.
FEWEST_SMOOTHED = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Report settings.

    Attributes:
      run: the run's folder.
      output: PNG file to write; by default `report.png` in the run's folder.
    """

    run: tyro.conf.Positional[Path]
    output: Path | None = None


def main(args: Sequence[str] | None = None) -> None:
    with entry("report"):
        options = tyro.cli(Options, args=args, description=__doc__)
        run = RunFolder(options.run)
        output = run.path / "report.png" if options.output is None else options.output
        report(run, output)
        print(output)


def report(run: RunFolder, output: Path) -> None:
    """Plots a run into a PNG file.

    Raises:
      InputError: if the run has no metrics, or the file cannot be written.
    """
    if output.suffix.lower() != ".png":
        raise InputError(f"--output {output}: expected the name of a .png file")
    lines = _lines(run.metrics)
    curves = read_curves(lines)
    if not curves:
        raise InputError(
            f"{run.path} has no {run.metrics.name} with steps: pass the folder of a training run"
        )
    check_folder(output.parent)
    events = [each for each in _lines(run.events) if each.get("event") in EVENTS]
    with replacing_file(output) as temporary:
        _plot(curves, events, run.path.name, temporary)


def read_curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Steps and values of each number to plot, [N, 2]; NaN for a value that was not finite.

    Args:
      lines: the objects of `metrics.jsonl`.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name in SHOWN or name.startswith(VALIDATION):
                points.setdefault(name, []).append((line["step"], _number(value)))
    return {name: np.array(each) for name, each in points.items()}


def smoothed(values: np.ndarray, share: float = SMOOTHED) -> np.ndarray:
    """An exponential moving average, without bias to its start, that skips NaN."""
    decay = 1 - 1 / max(share * len(values), FEWEST_SMOOTHED)
    total, weight, averages = 0.0, 0.0, np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        averages[i] = total / weight if weight else np.nan
    return averages


def _plot(
    curves: Mapping[str, np.ndarray], events: Sequence[Mapping[str, Any]], title: str, path: Path
) -> None:
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.lines import Line2D

    panels = _panels(curves)
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(6 * COLUMNS, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flat
    for axis, (panel, names) in zip(axes, panels.items(), strict=False):
        axis.set_title(SHOWN.get(panel, panel), fontsize="medium")
        for name in names:
            _draw(axis, name, curves[name])
        _mark(axis, events)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    marked = {each["event"] for each in events}
    figure.suptitle(title)
    if marked:
        figure.legend(
            handles=[
                Line2D([], [], color=color, linestyle=style, label=event)
                for event, (color, style) in EVENTS.items()
                if event in marked
            ],
            loc="outside lower center",
            ncols=len(EVENTS),
        )
    for axis in list(axes)[len(panels) :]:
        axis.remove()
    figure.savefig(path, format="png", dpi=100)


def _panels(curves: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """The curves of each panel."""
    panels: dict[str, list[str]] = {}
    order = [
        *(name for name in SHOWN if name in curves),
        *sorted(curves.keys() - SHOWN.keys(), key=_by_range),
    ]
    for name in order:
        panels.setdefault(name.partition(RANGE)[0], []).append(name)
    return panels


def _by_range(name: str) -> tuple[str, int]:
    """Sorts the ranges of timesteps after the whole, by their ends."""
    panel, _, end = name.partition(RANGE)
    return panel, int(end) if end.isdecimal() else 0


def _draw(axis: "Axes", name: str, curve: np.ndarray) -> None:
    steps, values = curve.T
    if name == "loss":
        axis.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.7)
        axis.plot(steps, smoothed(values), color="tab:blue", label="smoothed")
    elif name.startswith(VALIDATION):
        end = name.partition(RANGE)[2]
        label = f"timesteps to {end}" if end else None
        axis.plot(steps, values, marker=".", label=label, linewidth=0.8 if end else 1.6)
    else:
        axis.plot(steps, values, linewidth=0.8)


def _mark(axis: "Axes", events: Sequence[Mapping[str, Any]]) -> None:
    for event in events:
        color, style = EVENTS[event["event"]]
        axis.axvline(event["step"], color=color, linestyle=style, linewidth=1)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects with a step in a JSON Lines file; a killed process may leave a partial line."""
    found = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                each = json.loads(line)
            except ValueError:
                continue
            if isinstance(each, dict) and isinstance(each.get("step"), int):
                found.append(each)
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


if __name__ == "__main__":
    main()
