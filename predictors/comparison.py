"""What `compare` finds: predictions beside measurements, as data and as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..profiler.metrics import Errors
from ..profiler.table_export import write_new
from ..spaces.architecture import Architecture


@dataclass(frozen=True)
class ComparedNetwork:
    """One network; latencies in the predictor's unit, wall-clock percentiles in ms (None where nothing is timed)."""

    architecture: Architecture
    predicted: float
    predicted_refitted: float | None
    measured: float
    wall_p50: float | None
    wall_p90: float | None

    @property
    def error(self) -> float:
        """Percent of the measured value."""
        return 100 * (self.predicted / self.measured - 1)

    @property
    def error_refitted(self) -> float | None:
        """As `error`, of the refitted prediction."""
        return None if self.predicted_refitted is None else 100 * (self.predicted_refitted / self.measured - 1)

    def as_dict(self) -> dict[str, Any]:
        data = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**data, "architecture": self.architecture.as_dict()}


@dataclass(frozen=True)
class Comparison:
    """Predicted against measured.

    Attributes:
        device, settings, space, unit, seed: what was compared.
        networks: those that the statistics are over. extremes: "smallest", "largest", "all-skip" where there is one.
        errors: of the predictions as they stand; None where no network could be measured.
        refitted: with the factor refitted on the calibration networks as measured now; None where there are none.
        intervals: 95 % bootstrap intervals of some statistics.
        factor: by which the predictions were refitted.
        drift: change of the calibration networks' latency since the table, percent.
        noise: same-run repeatability of a measured network, percent.
        calibration_networks: how many of these were measured.
        failed: (architecture, reason) of networks that are left out.
        conditions: what the machine did meanwhile.
        doubts: sentences for the user.
    """

    device: str
    settings: Mapping[str, Any]
    space: str
    unit: str
    seed: int
    networks: Sequence[ComparedNetwork]
    extremes: Mapping[str, ComparedNetwork]
    errors: Errors | None
    refitted: Errors | None
    intervals: Mapping[str, tuple[float, float]]
    factor: float | None
    drift: float | None
    noise: float | None
    calibration_networks: int
    failed: Sequence[tuple[Architecture, str]]
    conditions: Mapping[str, Any]
    doubts: Sequence[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form; the statistics stand at the top."""
        statistics = dict.fromkeys(part.name for part in fields(Errors)) | {"n": 0}
        statistics |= self.errors.as_dict() if self.errors else {}
        return {
            "unit": self.unit,
            **statistics,
            "drift": self.drift,
            "factor": self.factor,
            "mape_refitted": self.refitted.mape if self.refitted else None,
            "max_error_refitted": self.refitted.max_error if self.refitted else None,
            "refitted": self.refitted.as_dict() if self.refitted else None,
            "noise": self.noise,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "networks": [network.as_dict() for network in self.networks],
            "extremes": {name: network.as_dict() for name, network in self.extremes.items()},
            "failed": [{"architecture": a.as_dict(), "reason": reason} for a, reason in self.failed],
            "calibration_networks": self.calibration_networks,
            "device": self.device,
            "settings": dict(self.settings),
            "space": self.space,
            "seed": self.seed,
            "seconds": self.seconds,
            "conditions": dict(self.conditions),
            "doubts": list(self.doubts),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write compare.csv, compare.json and compare.png (a scatter plot) into a folder that exists.

        Raises:
            TableError: a file cannot be written.
        """
        paths = [folder / f"compare.{form}" for form in ("csv", "json", "png")]
        write_new(paths[0], _csv(self).encode())
        write_new(paths[1], (json.dumps(_finite(self.as_dict()), indent=1) + "\n").encode())
        write_new(paths[2], _png(self))
        return paths


COLUMNS = (
    "role",
    "network",
    "predicted",
    "predicted_refitted",
    "measured",
    "error_percent",
    "error_refitted_percent",
    "wall_p50",
    "wall_p90",
    "architecture",
)


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    named = [("network", network) for network in comparison.networks] + list(comparison.extremes.items())
    for role, n in named:
        row = [role, n.architecture.short(), n.predicted, n.predicted_refitted, n.measured, n.error, n.error_refitted]
        writer.writerow([*row, n.wall_p50, n.wall_p90, json.dumps(n.architecture.as_dict()["choices"])])
    return text.getvalue()


def _png(comparison: Comparison) -> bytes:
    """Predicted over measured, as predictions stand and refitted, with the identity and a band of 5 percent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    everything = [*comparison.networks, *comparison.extremes.values()]
    _guides(axes, [v for n in everything for v in (n.measured, n.predicted, n.predicted_refitted) if v is not None])
    as_is = f"as the predictor stands{_mape(comparison.errors)}"
    _points(axes, comparison.networks, [n.predicted for n in comparison.networks], "o", "tab:blue", as_is)
    if comparison.refitted is not None:
        label = f"factor refitted now{_mape(comparison.refitted)}"
        _points(
            axes,
            comparison.networks,
            [_or_nan(n.predicted_refitted) for n in comparison.networks],
            "x",
            "tab:red",
            label,
        )
    extremes = list(comparison.extremes.values())
    _points(axes, extremes, [n.predicted for n in extremes], "s", "0.4", "smallest, largest, all-skip")
    axes.set_xlabel(f"measured ({comparison.unit})")
    axes.set_ylabel(f"predicted ({comparison.unit})")
    axes.set_title(f"{comparison.space} on {comparison.device}, {len(comparison.networks)} networks")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.25)
    data = io.BytesIO()
    canvas.print_png(data)
    return data.getvalue()


def _guides(axes: Any, values: Sequence[float]) -> None:
    """The identity line and a band of 5 percent, over the range of the values."""
    if not values:
        return
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.06 * high
    ends = np.array([max(low - margin, 0), high + margin])
    axes.plot(ends, ends, color="0.3", linewidth=1, label="predicted = measured", zorder=1)
    axes.fill_between(ends, 0.95 * ends, 1.05 * ends, color="0.85", label="±5 %", zorder=0)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")


def _points(
    axes: Any, networks: Sequence[ComparedNetwork], predicted: Sequence[float], marker: str, color: str, label: str
) -> None:
    if networks:
        axes.scatter([n.measured for n in networks], predicted, s=28, marker=marker, color=color, label=label, zorder=2)


def _mape(errors: Errors | None) -> str:
    return "" if errors is None else f", MAPE {errors.mape:.2f} %"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
