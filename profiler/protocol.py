"""The measuring protocol: how often, how far apart, and which of the samples make the value.

Contention comes in bursts that the measuring process cannot see, and cores change their clock in steps of a few
percent, several times a second. So each workload is visited many times, spread out, between two timings of a fixed
reference; dividing by it takes out what slows everything alike. Where that does not help (it is tried on the samples
themselves), the low end of the plain times is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError

STEADY = (0.15, 0.55)
"""Ranks of the visits whose mean is the value, where visits are divided by their reference."""
LOW_END = (0.0, 0.25)
"""Ranks of the visits whose mean is the value otherwise."""
HELPS = 0.9
"""The reference is used where it brings the scatter of visits below this share."""


@dataclass(frozen=True)
class MeasuringProtocol:
    """Rules for operators (`visits`) and for whole networks (`network_*`).

    Attributes:
        tolerance: an operator is done when two standard errors of its value are within this share, ...
        min_visits, span_s: ... after so many visits, so many seconds apart from first to last.
        max_visits: after which it is given up as unconverged.
        pause_s: visits to one operator begin at least so many seconds apart.
        warmup, runs: of one visit to an operator; it counts with its smallest run.
        network_visits, network_warmup, network_runs: for whole networks; a visit counts with its median run, since
            networks are longer than a scheduler's time slice.
        long_ms, network_long_ms: an operator or network that takes longer is run once in a visit after its first one:
            what else the machine does averages out within a run, and visits are worth more than runs. Whatever takes
            longer than network_long_ms is not warmed up either: that saves 0.1 to 0.2 ms in its one run.
        untraced_visits: to networks that calibrate a table on a device that cannot time single nodes.
        trace_runs: profiled runs of a network for in-context times.
    """

    tolerance: float = 0.01
    min_visits: int = 12
    span_s: float = 2.0
    max_visits: int = 40
    pause_s: float = 0.1
    warmup: int = 2
    runs: int = 3
    long_ms: float = 4.0
    network_visits: int = 12
    untraced_visits: int = 8
    network_warmup: int = 1
    network_runs: int = 3
    network_long_ms: float = 20.0
    trace_runs: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 0.5:
            raise HwnasError(f"tolerance must be above 0 and at most 50 %, not {100 * self.tolerance:g} %")
        if not 3 <= self.max_visits <= 10_000:
            raise HwnasError(f"max visits must be from 3 to 10000, not {self.max_visits}")

    @property
    def network_run_count(self) -> int:
        """Runs of a network for its latency and its in-context times together."""
        return self.network_visits * (self.network_warmup + self.network_runs) + self.trace_runs

    @property
    def untraced(self) -> MeasuringProtocol:
        """The same for a device that cannot time single nodes."""
        return replace(self, network_visits=min(self.network_visits, self.untraced_visits), trace_runs=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class Timed(Protocol):
    """Raw samples of one visit (see `devices.data.Samples`); `cpu` is empty where there is no such clock."""

    @property
    def wall(self) -> np.ndarray: ...
    @property
    def cpu(self) -> np.ndarray: ...
    @property
    def started(self) -> float: ...
    @property
    def reference(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Estimate:
    """Uncontended latency in ms, its interval (two standard errors), and whether that is narrow enough."""

    value: float
    low: float
    high: float
    converged: bool


Values = NDArray[np.float64]


def operator_values(visits: Sequence[Timed], clock: str = "wall") -> Values:
    """(visits,) ms: the smallest run of each by the wall clock.

    An operator is shorter than a scheduler's time slice, so its best run was not preempted; and the thread clock of a
    virtual machine, corrected for stolen time after the fact, now and then shows far too little, which a minimum finds.
    One that takes several milliseconds is preempted in every run on a busy machine. The median run by the device's
    clock ("cpu": thread CPU time) is less then, and counts.
    """
    wall = np.array([np.min(v.wall) / 1e6 for v in visits])
    if clock != "cpu":
        return wall
    return np.minimum(wall, [np.median(v.cpu) / 1e6 if len(v.cpu) else np.inf for v in visits])


def network_values(visits: Sequence[Timed], clock: str) -> Values:
    """(visits,) ms: the median run of each by the device's clock ("cpu": thread CPU time)."""
    return np.array([np.median(v.cpu if clock == "cpu" and len(v.cpu) else v.wall) / 1e6 for v in visits])


def reference_times(visits: Sequence[Timed]) -> Values | None:
    """(visits,) ns: the reference around each visit; None where one has none."""
    if not all(len(v.reference) for v in visits):
        return None
    return np.array([np.mean(v.reference) for v in visits])


def full_speed(
    visits: Mapping[str, Sequence[Timed]], values: Callable[[Sequence[Timed]], Values], *, helps: float = HELPS
) -> float | None:
    """Time of the reference while these workloads run undisturbed, ns; None where dividing by it steadies nothing.

    So chosen that, over all workloads, dividing leaves the low end of the plain times where it is.

    Args:
        helps: dividing has to bring the scatter of visits below this share.
    """
    plain, steady, level = [], [], []
    for own in visits.values():
        reference = reference_times(own)
        if reference is not None and len(own) >= 5:
            ms = values(own)
            plain.append(_scatter(ms))
            steady.append(_scatter(ms / reference))
            level.append(_mean_of_ranks(ms, LOW_END) / _mean_of_ranks(ms / reference, STEADY))
    if not plain or np.median(steady) > helps * np.median(plain):
        return None
    return float(np.median(level))


def estimate_operator(
    visits: Sequence[Timed], protocol: MeasuringProtocol, speed: float | None, clock: str = "wall"
) -> Estimate:
    """Latency of an operator; `speed` is what `full_speed` says of all operators."""
    value, error = _estimate(operator_values(visits, clock), visits, speed)
    started = [v.started for v in visits]
    enough = len(visits) >= min(protocol.min_visits, protocol.max_visits)
    apart = max(started) - min(started) >= protocol.span_s
    done = enough and apart and 2 * error <= protocol.tolerance * value
    return Estimate(value, max(0.0, value - 2 * error), value + 2 * error, done)


def estimate_network(visits: Sequence[Timed], clock: str, speed: float | None) -> Estimate:
    """Latency of a whole network; `speed` is what `full_speed` says of all networks."""
    value, error = _estimate(network_values(visits, clock), visits, speed)
    return Estimate(value, max(0.0, value - 2 * error), value + 2 * error, True)


def repeatability(visits: Sequence[Timed], clock: str, speed: float | None) -> float:
    """Relative standard error of a network's value, from the difference of its interleaved halves."""
    if len(visits) < 2:
        return math.nan
    a, b = (estimate_network(half, clock, speed).value for half in (visits[::2], visits[1::2]))
    return abs(a - b) / (a + b)  # each half has sqrt(2) times the error of the whole, their difference twice


def wall_percentiles(visits: Iterable[Timed]) -> tuple[float, float]:
    """p50 and p90 of the wall-clock ms of all runs: what a user saw on the machine as it was."""
    runs = np.concatenate([np.asarray(v.wall, float) for v in visits]) / 1e6
    p50, p90 = np.percentile(runs, [50, 90])
    return float(p50), float(p90)


def _estimate(values: Values, visits: Sequence[Timed], speed: float | None) -> tuple[float, float]:
    """Value and its standard error."""
    reference = reference_times(visits)
    if speed is None or reference is None:
        value = _mean_of_ranks(values, LOW_END)
        low = values[values <= np.median(values)]
        return value, value * _scatter(low) / math.sqrt(len(low))
    steady = values * (speed / reference)
    value = _mean_of_ranks(steady, STEADY)
    return value, value * _scatter(steady) / math.sqrt(len(steady))


def _mean_of_ranks(values: Values, ranks: tuple[float, float]) -> float:
    first, last = (int(rank * len(values)) for rank in ranks)
    return float(np.sort(values)[first : last + 1].mean())


def _scatter(values: Values) -> float:
    """Robust relative standard deviation: from the median absolute deviation of the logarithms."""
    logs = np.log(np.maximum(values, 1e-12))
    return float(1.4826 * np.median(np.abs(logs - np.median(logs))))
