"""Prices of workloads that were not measured, by the share that was: chosen at random, or those that tell most.

A table's workloads are hidden and measured again one after the other; what is left is priced. Beside it, on the random
choice: a random forest over the parameters for each type of workload (nn-Meter's, without its detection of kernels).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hwnas.benchmarks.common import Finding, Report, folder, options, script
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.predictors.operators import OperatorLayout, Operators
from hwnas.predictors.prices import LEAST, PriceModel, next_workloads
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

SHARES = (0.25, 0.5, 0.75)
STEPS = 4
"""Refits between two shares."""
TREES = 100
NETWORKS = 500

Prices = Callable[[Operators, np.ndarray, Operators], np.ndarray]


@dataclass(frozen=True, eq=False)
class Known:
    """What a table's workloads consist of, their latencies (W,), and how often each is in random networks (N, W)."""

    operators: Operators
    y: np.ndarray
    counts: np.ndarray


def known(path: Path, space: SearchSpace) -> Known:
    """Read a table; raises HwnasError where it has too few of the space's workloads."""
    with LatencyTable.open(path) as table:
        batch, dtype = table.provenance.settings.get("batch", 1), table.provenance.settings.get("dtype", "fp32")
        values = table.values("candidate") | table.values("fixed")
    keys = [workload.key(batch, dtype) for workload in space.workloads(batch)]
    there = np.array([values.get(key, 0.0) > 0 for key in keys])
    if there.sum() * SHARES[0] < LEAST:
        raise HwnasError(f"{path} has {there.sum()} workloads of space {space.name!r}: too few to hide some of them")
    layout = OperatorLayout(space)
    codes = space.encoding.sample(NETWORKS, np.random.default_rng(0))
    y = np.array([values[key] for key, own in zip(keys, there, strict=True) if own])
    return Known(layout.operators.take(there), y, layout.counts(codes, live=True)[:, there])


def chosen(operators: Operators, y: np.ndarray, rng: np.random.Generator, *, adaptive: bool) -> list[np.ndarray]:
    """Numbers of the workloads that were measured at each of the shares."""
    order = rng.permutation(len(y))
    goals = [round(share * len(y)) for share in SHARES]
    if not adaptive:
        return [order[:goal] for goal in goals]
    own = order[:LEAST]
    found = []
    for goal in goals:
        while len(own) < goal:
            rest = np.setdiff1d(order, own)
            step = min(goal - len(own), max(1, goals[0] // STEPS))
            model = PriceModel.fit(operators.take(own), y[own])
            own = np.concatenate([own, rest[next_workloads(model, operators.take(rest), step)]])
        found.append(own)
    return found


def errors(prices: Prices, all_of_it: Known, own: np.ndarray) -> tuple[float, float]:
    """MAPE of the workloads that were not measured, and of sums over networks with what was."""
    operators, y = all_of_it.operators, all_of_it.y
    rest = np.setdiff1d(np.arange(len(y)), own)
    values = y.copy()
    values[rest] = prices(operators.take(own), y[own], operators.take(rest))
    sums = all_of_it.counts @ values / (all_of_it.counts @ y)
    return float(100 * np.abs(values[rest] / y[rest] - 1).mean()), float(100 * np.abs(sums - 1).mean())


def by_model(measured: Operators, y: np.ndarray, wanted: Operators) -> np.ndarray:
    """By `PriceModel`."""
    return PriceModel.fit(measured, y).predict(wanted)


def by_forests(measured: Operators, y: np.ndarray, wanted: Operators) -> np.ndarray:
    """By a random forest for each type; one of all for types that were not measured."""
    found = _forest(measured, y, wanted)
    for kind in set(measured.types) & set(wanted.types):
        own, here = (np.array([name == kind for name in part.types]) for part in (measured, wanted))
        found[here] = _forest(measured.take(own), y[own], wanted.take(here))
    return found


def _forest(measured: Operators, y: np.ndarray, wanted: Operators) -> np.ndarray:
    from sklearn.ensemble import RandomForestRegressor

    made = RandomForestRegressor(TREES, random_state=0).fit(measured.parameters, np.log(y))
    return np.asarray(np.exp(made.predict(wanted.parameters)))


def replay(report: Report, all_of_it: Known, seeds: int) -> None:
    """Fill the report."""
    found: dict[str, list[list[tuple[float, float]]]] = {"adaptive": [], "random": [], "random, forests": []}
    for seed in range(seeds):
        random, adaptive = (
            chosen(all_of_it.operators, all_of_it.y, np.random.default_rng(seed), adaptive=own) for own in (False, True)
        )
        for name, prices, sets in (
            ("adaptive", by_model, adaptive),
            ("random", by_model, random),
            ("random, forests", by_forests, random),
        ):
            found[name].append([errors(prices, all_of_it, own) for own in sets])
    mean = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    for j, what in enumerate(("the other workloads", "sums over networks")):
        for i, share in enumerate(SHARES):
            here, *beside = ((name, float(values[i, j])) for name, values in mean.items())
            title = f"error of {what}, {100 * share:.0f} % of {len(all_of_it.y)} measured"
            report.findings.append(Finding(title, here[1], "%", references=dict(beside)))
    report.details |= {"seeds": seeds, "errors": found}


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/kernels.py",
        "python benchmarks/kernels.py --space proxyless --table tables/cpu-proxyless.db --json kernels.json",
    )
    parser.add_argument("--space", default="proxyless-small", help="default proxyless-small")
    parser.add_argument("--device", default="cpu", help="where to measure; default cpu")
    parser.add_argument("--table", type=Path, help="a table of the space, in place of measuring")
    parser.add_argument("--seeds", type=int, default=10, help="of which the mean counts; default 10 (quick: 2)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    if asked.seeds < 1:
        raise HwnasError("--seeds must be at least 1")
    report = Report(f"Prices of operators of {asked.space}", asked)
    space = load_space(asked.space)
    with folder() as place:
        table = asked.table or place / "table.db"
        if asked.table is None:
            with report.output.progress() as progress:
                profile(ProfileRequest(create(asked.device), space, table, method="isolated"), progress)
        all_of_it = known(table, space)
    replay(report, all_of_it, min(2, asked.seeds) if asked.quick else asked.seeds)
    report.finish()


if __name__ == "__main__":
    script(main)
