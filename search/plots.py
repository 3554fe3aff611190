"""What a search or training did, as pictures: probabilities, entropy, expected latency, accuracy, loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..spaces.description import Decision
from ..spaces.space import SearchSpace
from .blocks import kind_of
from .drawing import HUES, candidate_colours, png
from .history import Records, clock, goals_of, number, series, valid_of

MOST_PANELS = 60
MOST_LAYERS = 24
"""Candidates above which a choice is drawn as a heat map."""
FEW = 30
"""Epochs below which each is a point: of one alone no line is seen."""


@dataclass(frozen=True)
class Aim:
    """A goal as it is drawn.

    Attributes:
        name: as in the records; "" where there is only one.
        target: None where there is none.
        low: lower end of the band that the found network lies in, as a share of the target.
    """

    name: str
    unit: str
    target: float | None = None
    low: float | None = None


def search_plots(records: Records, space: SearchSpace, aims: Sequence[Aim] = ()) -> dict[str, bytes]:
    """All pictures that the records of a search give, PNG by name; what no record tells of is left out.

    Args:
        records: lines of ``metrics.jsonl``; fields may be missing.
        aims: the goals.
    """
    made = {
        "probabilities": probabilities_png(records, space),
        "entropy": entropy_png(records, space.decisions),
        "latency": latency_png(records, aims),
        "accuracy": accuracy_png(records),
    }
    return {name: picture for name, picture in made.items() if picture is not None}


def probabilities_png(records: Records, space: SearchSpace) -> bytes | None:
    """How likely each candidate of each choice was, over the search: one panel a choice, coloured as the network is."""
    decisions = space.decisions
    time, values, label = series(records, "probabilities")
    shown = list(range(len(decisions)))[:MOST_PANELS]
    values = [v for v in values if len(v) == len(decisions)]
    if not values or not shown:
        return None
    columns = min(len(shown), 3 if len(shown) <= 9 else 4 if len(shown) <= 16 else 7)
    rows = -(-len(shown) // columns)
    figure = _new_figure(2.35 * columns + 0.6, 1.55 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=False)
    colours = candidate_colours(space)
    for axes, d in zip(grid.flat, shown, strict=False):
        stack = np.array([np.asarray(v[d], float) for v in values]).T
        _draw_probabilities(axes, time[: len(values)], stack, decisions[d], colours)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(shown) - columns, 0) : len(shown)]:
        axes.tick_params(labelbottom=True)
    rest = f" (the first {len(shown)} of {len(decisions)})" if len(shown) < len(decisions) else ""
    _name_candidates(figure, [decisions[d] for d in shown], colours)
    figure.supxlabel(label, fontsize=9)
    figure.suptitle(f"Choice probabilities{rest}", fontsize=11)
    return png(figure)


def entropy_png(records: Records, decisions: Sequence[Decision]) -> bytes | None:
    """How undecided each choice was: normalised entropy, 1 at uniform probabilities, 0 when one candidate is sure."""
    time, values, label = series(records, "entropy")
    if not values:
        return None
    lines = np.array([v for v in values if len(v) == len(values[0])], float)
    figure = _new_figure(7.2, 4.0)
    axes = figure.add_subplot()
    names = (
        [d.label for d in decisions] if len(decisions) == lines.shape[1] else [str(i) for i in range(lines.shape[1])]
    )
    colours = _ramp(lines.shape[1])
    for i, colour in enumerate(colours):
        axes.plot(time[: len(lines)], lines[:, i], color=colour, linewidth=1.1, label=names[i])
    axes.plot(time[: len(lines)], np.ma.masked_invalid(lines).mean(1), color="black", linewidth=2.2, label="mean")
    axes.set_ylim(-0.02, 1.05)
    axes.axhline(0.1, color="0.6", linewidth=0.8, linestyle=":")
    axes.text(0.01, 0.105, "settled", transform=axes.get_yaxis_transform(), fontsize=7, color="0.5", va="bottom")
    _finish(axes, "How undecided the choices are", label, "normalised entropy")
    if len(names) <= 24:
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(names) // 16)
    return png(figure)


def latency_png(records: Records, aims: Sequence[Aim] = ()) -> bytes | None:
    """Expected latency over the search, against the target; one panel a goal."""
    time, values, label = series(records, "expected")
    goals = {name for v in values for name in goals_of(v)}
    if not goals:
        return None
    known = {aim.name: aim for aim in aims}
    if len(goals) == 1 and len(aims) == 1:
        known = {next(iter(goals)): aims[0]}
    ordered = [name for name in known if name in goals] + sorted(goals - known.keys())
    figure = _new_figure(7.2, 2.9 * len(ordered) + 0.6)
    grid = figure.subplots(len(ordered), 1, squeeze=False, sharex=True)[:, 0]
    for axes, name in zip(grid, ordered, strict=True):
        aim = known.get(name, Aim(name, ""))
        latency = np.array([goals_of(v).get(name, math.nan) for v in values], float)
        axes.plot(time, latency, color=HUES[1], linewidth=1.6, label="expected")
        if aim.target is not None:
            _draw_target(axes, aim)
        unit = f" ({aim.unit})" if aim.unit else ""
        quantity = "MACs" if aim.unit == "MMACs" else "latency"
        _finish(axes, "" if len(ordered) == 1 else name, "", f"{quantity}{unit}")
        axes.margins(y=0.2)  # held at the target, it would lie on the edge
        axes.legend(fontsize=8, facecolor="white", framealpha=0.9, edgecolor="none")
    grid[-1].set_xlabel(label)
    grid[0].set_title("Expected latency against the target" if any(a.target for a in aims) else "Expected latency")
    return png(figure)


def accuracy_png(records: Records) -> bytes | None:
    """Loss of the weights, and accuracy of the likeliest network on held-out images, over warm-up, search, training."""
    losses = [(i, r) for i, r in enumerate(records) if number(r.get("loss")) is not None]
    valid = [(i, r) for i, r in enumerate(records) if number(valid_of(r).get("top1")) is not None]
    if not losses and not valid:
        return None
    time, label = clock(records)
    panels = [bool(valid), bool(losses)]
    figure = _new_figure(7.2, 2.6 * sum(panels) + 0.7)
    grid = iter(figure.subplots(sum(panels), 1, squeeze=False, sharex=True)[:, 0])
    drawn = []
    if valid:
        axes = next(grid)
        points = [(time[i], valid_of(r)["top1"]) for i, r in valid]
        axes.plot(*zip(*points, strict=True), color=HUES[0], marker="o", markersize=3, linewidth=1.4)
        _finish(axes, "", "", "held-out top-1 (%)")
        drawn.append(axes)
    if losses:
        axes = next(grid)
        points = [(time[i], r["loss"]) for i, r in losses]
        axes.plot(*zip(*points, strict=True), color=HUES[1], linewidth=1.2)
        _finish(axes, "", "", "training loss")
        drawn.append(axes)
    for axes in drawn:
        _draw_phases(axes, records, time)
    drawn[0].set_title("Accuracy and loss")
    drawn[-1].set_xlabel(label)
    return png(figure)


def training_png(history: Records) -> bytes:
    """A training epoch by epoch: loss, and the accuracy on held-out images where some were held out."""
    figure = _new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    epochs = [h["epoch"] for h in history]
    mark = "o" if len(history) < FEW else ""
    axes.plot(epochs, [h["loss"] for h in history], color=HUES[1], linewidth=1.5, marker=mark, markersize=3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(axes, "Training", "epoch", "training loss")
    axes.yaxis.label.set_color(HUES[1])
    valid = [(h["epoch"], valid_of(h)["top1"]) for h in history if number(valid_of(h).get("top1")) is not None]
    if valid:
        other = axes.twinx()
        other.plot(*zip(*valid, strict=True), color=HUES[2], linewidth=1.5, marker=mark, markersize=3)
        other.set_ylabel("held-out top-1 (%)", color=HUES[2])
        other.spines["top"].set_visible(False)
    return png(figure)


# -- inside


def _draw_probabilities(
    axes: Any, time: np.ndarray, stack: np.ndarray, decision: Decision, colours: Mapping[str, str]
) -> None:
    """(candidates, moments) as layers that add up to 1; as a heat map where there are too many to tell apart."""
    if len(stack) <= MOST_LAYERS:
        layers = [colours[kind_of(decision, name)] for name in decision.candidates]
        axes.stackplot(time, stack, colors=layers, linewidth=0)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
    else:
        axes.imshow(
            stack, aspect="auto", origin="lower", cmap="viridis", extent=(time[0], time[-1], 0, len(stack)), vmin=0
        )
        axes.set_yticks([])
    if time[-1] > time[0]:
        axes.set_xlim(time[0], time[-1])
    axes.set_title(decision.label, fontsize=8, pad=3)
    axes.tick_params(labelsize=7, length=2)
    axes.locator_params(axis="x", nbins=3)


def _name_candidates(figure: Any, decisions: Sequence[Decision], colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(kind_of(d, n) for d in decisions if len(d) <= MOST_LAYERS for n in d.candidates))
    if names and len(names) <= MOST_LAYERS:
        handles = [Patch(color=colours[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False, ncols=1)


def _draw_target(axes: Any, aim: Aim) -> None:
    assert aim.target is not None
    axes.axhline(aim.target, color="0.25", linewidth=1.2, linestyle="--", label=f"target {aim.target:.4g}")
    if aim.low is not None:
        axes.axhspan(aim.low * aim.target, aim.target, color="0.88", zorder=0, label=f"{100 * aim.low:.0f} to 100 %")


def _draw_phases(axes: Any, records: Records, time: np.ndarray) -> None:
    """A line where a phase begins, with its name."""
    phases = [r.get("phase") for r in records]
    begins = [i for i in range(len(phases)) if phases[i] and (i == 0 or phases[i] != phases[i - 1])]
    if len(begins) < 2:
        return
    for i in begins:
        start = time[i - 1] if i else time[0]
        axes.axvline(start, color="0.8", linewidth=0.9, zorder=0)
        axes.annotate(
            str(phases[i]),
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            fontsize=7,
            color="0.45",
        )


def _ramp(n: int) -> list[Any]:
    """n colours from first to last, that are told apart in grey, too."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0, 0.92, max(n, 1))]


def _new_figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
