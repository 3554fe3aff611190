"""Time to predict 100,000 architectures with a predictor that was fitted on measured networks. Needs no device.

The networks are made up: the sum of a table in which neighbouring choices do not add up, with noise of 1 %. Where the
space has few architectures, all of them are predicted at the first call (or when a file is read).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from hwnas.benchmarks.common import Finding, Report, by_turns, median, options, script
from hwnas.errors import HwnasError
from hwnas.predictors.kinds import learned_type
from hwnas.predictors.learned import LearnedPredictor
from hwnas.predictors.regressors.registry import DEFAULT_KIND
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

BAR = 1.0
HUNDRED_THOUSAND = 100_000


def made_up(space: SearchSpace, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) latencies of (N, decisions) codes."""
    own = np.maximum(codes, 0)
    single = sum(rng.uniform(0.1, 1, len(d))[own[:, i]] for i, d in enumerate(space.decisions))
    both = [
        rng.uniform(-0.1, 0.1, (len(a), len(b))) for a, b in zip(space.decisions, space.decisions[1:], strict=False)
    ]
    pairs = sum(values[own[:, i], own[:, i + 1]] for i, values in enumerate(both))
    return np.asarray((2 + single + pairs) * np.exp(rng.normal(0, 0.01, len(codes))))


def fitted(space: SearchSpace, kind: str, networks: int, rng: np.random.Generator) -> LearnedPredictor:
    """A predictor of so many networks."""
    codes = space.encoding.sample(networks, rng)
    return learned_type(kind).fit_codes(space, codes, made_up(space, codes, rng), rng=rng)


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/learned_prediction.py",
        "python benchmarks/learned_prediction.py --space nasbench201 --kind gbdt --json prediction.json",
    )
    parser.add_argument("--space", default="proxyless", help="default proxyless")
    parser.add_argument("--kind", default=DEFAULT_KIND, help=f"default {DEFAULT_KIND}")
    parser.add_argument("--networks", type=int, help="to fit on; default 900 (quick: 60)")
    parser.add_argument("--number", type=int, help="of architectures; default 100,000 (quick: 20,000)")
    parser.add_argument("--turns", type=int, default=5, help="of which the median counts; default 5")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    networks = asked.networks or (60 if asked.quick else 900)
    number = asked.number or (20_000 if asked.quick else HUNDRED_THOUSAND)
    if number < 1 or asked.turns < 1 or networks < 1:
        raise HwnasError("--networks, --number and --turns must be at least 1")
    report = Report(f"Prediction: {number:,} architectures of {asked.space} by kind {asked.kind}", asked)
    rng = np.random.default_rng(0)
    space = load_space(asked.space)
    predictor = fitted(space, asked.kind, networks, rng)
    codes = space.encoding.sample(number, rng)
    start = time.perf_counter()
    predictor.predict_codes(codes)
    first = time.perf_counter() - start
    taken = by_turns({"predict": partial(predictor.predict_codes, codes)}, asked.turns)
    share = HUNDRED_THOUSAND / number
    report.findings = [
        Finding("seconds for 100,000", share * (median(taken["predict"]) or 0), "s", BAR),
        Finding("seconds of the first call", first, "s"),
    ]
    report.details |= {"networks": networks, "number": number, "taken": taken}
    report.finish()


if __name__ == "__main__":
    script(main)
