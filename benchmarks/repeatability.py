"""How well two latency tables of the same operators agree that were made some minutes apart.

The figure is the root mean square over the operators of the logarithm of the ratio of their two times, in percent,
after the factor that all of them have in common is taken out. Beside it the usual way, done twice around the same
times: each operator in turn, 50 warm-up runs, then the mean (or the median) of 100 runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.benchmarks.accuracy import QUICK
from hwnas.benchmarks.common import Finding, Report, folder, options, script
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Progress
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

BAR = 0.6
WARMUP, RUNS = 50, 100
USUAL: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "median": np.median}


def isolated_table(space: SearchSpace, path: Path, progress: Progress, *, seed: int, quick: bool) -> dict[str, float]:
    """ms by operator of a new table whose operators are timed alone."""
    protocol = QUICK if quick else MeasuringProtocol()
    device = create("cpu", threads=1)
    profile(
        ProfileRequest(device=device, space=space, out=path, method="isolated", protocol=protocol, seed=seed), progress
    )
    with LatencyTable.open(path) as table:
        return {row.key: row.latency for row in table.rows() if row.kind != "network" and row.latency is not None}


def usual_table(space: SearchSpace, progress: Progress, warmup: int, runs: int) -> dict[str, dict[str, float]]:
    """Statistic -> ms by operator, each operator measured in one go."""
    lowerer = Lowerer(space, "onnx")
    found: dict[str, dict[str, float]] = {name: {} for name in USUAL}
    with create("cpu", threads=1).open() as session:
        for i, workload in enumerate(space.workloads()):
            progress.step("the usual way", i, len(space.workloads()))
            key = workload.key()
            session.load(key, lowerer.workload(workload))
            ms = session.round([key], warmup=warmup, runs=runs).samples[key].wall / 1e6
            for name, statistic in USUAL.items():
                found[name][key] = float(statistic(ms))
            session.unload(key)
    return found


def disagreement(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Root mean square in percent of what is left of log(second / first) once its mean is taken out.

    Raises:
        HwnasError: the tables have fewer than two operators in common.
    """
    keys = [key for key in first if key in second]
    if len(keys) < 2:
        raise HwnasError("the two tables have fewer than two operators in common")
    ratio = np.log([second[key] / first[key] for key in keys])
    return float(100 * ratio.std())


def common_factor(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """By how many percent all operators together changed."""
    ratio = np.log([second[key] / first[key] for key in first if key in second])
    return float(100 * np.expm1(ratio.mean()))


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/repeatability.py",
        "python benchmarks/repeatability.py --minutes 30 --space nasbench201 --json repeatability.json",
    )
    parser.add_argument("--minutes", type=float, help="from one table's start to the other's; default 10 (quick: 0.2)")
    parser.add_argument("--space", help="default proxyless (quick: proxyless-small)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    minutes = asked.minutes if asked.minutes is not None else 0.2 if asked.quick else 10.0
    if not 0 <= minutes < 24 * 60:
        raise HwnasError(f"--minutes must be from 0 to a day, not {minutes:g}")
    spec = asked.space or ("proxyless-small" if asked.quick else "proxyless")
    report = Report(f"Repeatability: two tables of {spec}, {minutes:g} minutes apart", asked)
    space = load_space(spec)
    warmup, runs = (5, 10) if asked.quick else (WARMUP, RUNS)
    usual, tables = [], []
    with folder() as where, report.output.progress() as progress:
        start = time.monotonic()
        for i in range(2):
            wait(start + 60 * minutes * i, progress)
            make = partial(isolated_table, space, where / f"{i}.db", progress)
            tables.append(make(seed=i, quick=asked.quick))
            usual.append(usual_table(space, progress, warmup, runs))
    beside = {f"{warmup} + {runs} runs, {name}": disagreement(usual[0][name], usual[1][name]) for name in USUAL}
    report.findings = [
        Finding(f"rms over {len(tables[0])} operators", disagreement(*tables), "%", BAR, False, beside),
        Finding("common factor, taken out", common_factor(*tables), "%"),
    ]
    report.details |= {"minutes": minutes, "tables": tables, "usual": usual}
    report.finish()


def wait(until: float, progress: Progress) -> None:
    """Sleep until `time.monotonic()` is so late."""
    total = until - time.monotonic()
    while (left := until - time.monotonic()) > 0:
        progress.step("wait", total - left, total)
        time.sleep(min(left, 1.0))


if __name__ == "__main__":
    script(main)
