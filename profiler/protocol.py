"""The measuring protocol: how often, how far apart, and which of the samples make the value.

Contention comes in bursts of 70 to 500 ms that the measuring process cannot see. What decides is to visit each workload
many times, spread out, and to take the low end of what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import HwnasError


@dataclass(frozen=True)
class MeasuringProtocol:
    """Rules for operators (`visits`) and for whole networks (`network_*`).

    Attributes:
        tolerance: `agreeing` visits must lie within this share of the best one, ...
        span_s: ... and so many seconds apart from first to last, for a workload to be done.
        pause_s: visits to one workload begin at least so many seconds apart.
        max_visits: after which it is given up as unconverged.
        warmup, runs: of one visit; its value is the smallest run.
        network_visits, network_warmup, network_runs: for whole networks, whose value is the percentile `network_low`
            of all their runs, since they are longer than a scheduler's time slice.
        trace_runs: profiled runs of a network for in-context times.
    """

    tolerance: float = 0.01
    pause_s: float = 0.15
    max_visits: int = 40
    agreeing: int = 3
    span_s: float = 2.0
    warmup: int = 2
    runs: int = 3
    network_visits: int = 12
    network_warmup: int = 1
    network_runs: int = 3
    network_low: float = 25.0
    trace_runs: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 0.5:
            raise HwnasError(f"tolerance must be above 0 and at most 50 %, not {100 * self.tolerance:g} %")
        if not self.agreeing <= self.max_visits <= 10_000:
            raise HwnasError(f"max visits must be from {self.agreeing} to 10000, not {self.max_visits}")

    @property
    def network_run_count(self) -> int:
        """Runs of a network for its latency and its in-context times together."""
        return self.network_visits * (self.network_warmup + self.network_runs) + self.trace_runs

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class Timed(Protocol):
    """Raw samples of one visit."""

    @property
    def wall(self) -> np.ndarray: ...
    @property
    def cpu(self) -> np.ndarray: ...
    @property
    def started(self) -> float: ...


@dataclass(frozen=True)
class Estimate:
    """Uncontended latency in ms with the spread of the visits behind it."""

    value: float
    low: float
    high: float
    converged: bool


def clocked(visit: Timed, clock: str) -> np.ndarray:
    """(runs,) ms of a visit by the device's clock: "cpu" for thread CPU time, else wall."""
    samples = visit.cpu if clock == "cpu" and len(visit.cpu) else visit.wall
    return np.asarray(samples, float) / 1e6


def visit_value(visit: Timed) -> float:
    """ms of one visit to an operator: its smallest run by the wall clock.

    An operator is shorter than a scheduler's time slice, so its best run was not preempted; and the thread clock of a
    virtual machine, corrected for stolen time after the fact, now and then shows far too little, which a minimum finds.
    """
    return float(np.asarray(visit.wall, float).min() / 1e6)


def estimate_operator(visits: Sequence[Timed], protocol: MeasuringProtocol) -> Estimate:
    """Mean of the best few visits; converged when these agree and are spread over time."""
    best = np.array([visit_value(v) for v in visits])
    started = np.array([v.started for v in visits])
    order = np.argsort(best, kind="stable")
    kept = best[order[: protocol.agreeing]]
    within = best <= best.min() * (1 + protocol.tolerance)
    apart = np.ptp(started[within]) if within.any() else 0.0
    done = bool(within.sum() >= protocol.agreeing and apart >= protocol.span_s)
    return Estimate(float(kept.mean()), float(kept.min()), float(kept.max()), done)


def estimate_network(visits: Sequence[Timed], clock: str, protocol: MeasuringProtocol) -> Estimate:
    """Low percentile of all runs; the interval is that of the two halves of the visits."""
    value = _percentile(visits, clock, protocol.network_low)
    halves = [_percentile(part, clock, protocol.network_low) for part in (visits[::2], visits[1::2]) if part]
    return Estimate(value, min([value, *halves]), max([value, *halves]), True)


def repeatability(visits: Sequence[Timed], clock: str, protocol: MeasuringProtocol) -> float:
    """Relative standard error of a network's value, from the difference of its interleaved halves."""
    if len(visits) < 2:
        return math.nan
    a, b = (_percentile(part, clock, protocol.network_low) for part in (visits[::2], visits[1::2]))
    return abs(a - b) / (a + b)  # each half has sqrt(2) times the error of the whole, their difference twice


def wall_percentiles(visits: Sequence[Timed]) -> tuple[float, float]:
    """p50 and p90 of the wall-clock ms of all runs: what a user saw on the machine as it was."""
    runs = np.concatenate([np.asarray(v.wall, float) for v in visits]) / 1e6
    p50, p90 = np.percentile(runs, [50, 90])
    return float(p50), float(p90)


def _percentile(visits: Sequence[Timed], clock: str, low: float) -> float:
    return float(np.percentile(np.concatenate([clocked(v, clock) for v in visits]), low))
