"""Time to predict the latency of integer-encoded architectures with a lookup table. Needs no device.

The table's numbers are made up. In turns with it: plain numpy indexing, one gather for each decision, and a Python loop
over the architectures (over 1,000 of them, extrapolated).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from hwnas.benchmarks.common import Finding, Report, by_turns, median, options, script
from hwnas.errors import HwnasError
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.table import Provenance, Row
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

BAR = 0.2
LOOP = 1000


def made_up(space: SearchSpace, rng: np.random.Generator) -> LutPredictor:
    """A calibrated table whose operators take from 0.01 to 1 ms."""
    rows = []
    for workload in space.workloads():
        ms = float(rng.uniform(0.01, 1))
        kind: Any = "fixed" if workload.fixed else "candidate"
        rows.append(Row(workload.key(), workload.op, kind, ms, "ms", ms, ms, 3, 9, "ok", ""))
    provenance = Provenance("cpu", "ms", {"batch": 1, "threads": 1}, space.name, fingerprint=space.fingerprint)
    return LutPredictor(space, provenance, rows, {"factor": 1.05, "extra": 0.1, "live": True})


def indexing(predictor: LutPredictor, codes: np.ndarray) -> np.ndarray:
    """The sum as anyone would write it in numpy."""
    total = np.full(len(codes), predictor.model.constant)
    for term in predictor.model.cost_terms:
        total += term.costs[tuple(np.maximum(codes[:, d], 0) for d in term.decisions)]
    return total


def loop(predictor: LutPredictor, codes: np.ndarray) -> list[float]:
    """The sum in plain Python."""
    model = predictor.model
    tables = [(term.decisions, term.costs.tolist()) for term in model.cost_terms]
    found = []
    for row in codes.tolist():
        total = model.constant
        for decisions, costs in tables:
            for d in decisions:
                costs = costs[max(row[d], 0)]
            total += costs
        found.append(total)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/prediction.py",
        "python benchmarks/prediction.py --space nasbench201 --number 100000 --json prediction.json",
    )
    parser.add_argument("--space", default="proxyless", help="default proxyless")
    parser.add_argument("--number", type=int, help="of architectures; default 1,000,000 (quick: 100,000)")
    parser.add_argument("--turns", type=int, default=9, help="of which the median counts; default 9")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    number = asked.number or (100_000 if asked.quick else 1_000_000)
    if number < LOOP or asked.turns < 1:
        raise HwnasError(f"--number must be at least {LOOP} and --turns at least 1")
    report = Report(f"Prediction: {number:,} architectures of {asked.space}", asked)
    rng = np.random.default_rng(0)
    space = load_space(asked.space)
    predictor, codes = made_up(space, rng), space.encoding.sample(number, rng)
    few = codes[:LOOP]
    if not np.allclose(predictor.predict_codes(few), loop(predictor, few)) or not np.allclose(
        predictor.model.predict(codes), indexing(predictor, codes)
    ):
        raise HwnasError("the ways to predict disagree")
    ways: dict[str, Callable[[], object]] = {
        "predict": partial(predictor.predict_codes, codes),
        "model": partial(predictor.model.predict, codes),
        "indexing": partial(indexing, predictor, codes),
        "loop": partial(loop, predictor, few),
    }
    taken = by_turns(ways, asked.turns)
    per_million = {name: 1e6 / (LOOP if name == "loop" else number) * (median(s) or 0) for name, s in taken.items()}
    beside = {
        "numpy indexing": per_million["indexing"],
        "Python loop": per_million["loop"],
        "the sum without checks": per_million["model"],
    }
    ratio = median([a / b for a, b in zip(taken["predict"], taken["indexing"], strict=True)])
    report.findings = [
        Finding("seconds a million", per_million["predict"], "s", BAR, False, beside),
        Finding("time / that of numpy indexing", ratio, "x"),
    ]
    report.details |= {"number": number, "taken": taken}
    report.finish()


if __name__ == "__main__":
    script(main)
