"""Networks that `hwnas fit --until-mape` chooses to be measured, against random ones: which teach a predictor more?

Replays a Parquet file of measured architectures, such as `hwnas evaluate` takes. A third of the rows are set aside; of
the others so many are learned from, in the order of `hwnas.predictors.active` (half of them random, half chosen) or at
random, and the error on the rows set aside is compared, seed by seed. At the largest number it is also told what the
random half says of the error, by which measuring is ended.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.predictors.active import Round, is_random, measuring_order, needed
from hwnas.predictors.collection import draw
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.fitting import fit_regressor
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.frames import FrameRequest, Measured, read_measured
from hwnas.predictors.regressors.registry import DEFAULT_KIND, regressor_type
from hwnas.profiler.metrics import errors
from hwnas.spaces.registry import load_space

SIZES = (50, 100, 200, 400)
ASIDE = 1 / 3


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/active.py nb201.parquet --target lat_cpu --features op0,op1,op2,op3,op4,op5 "
        "--space nasbench201",
        "python benchmarks/active.py fbnet.parquet --target lat_phone --features op0,op1,op2 --sizes 50,100 --seeds 3",
    )
    parser.add_argument(
        "data", type=Path, metavar="FILE", nargs="?", help="a Parquet file, one row an architecture; default: made up"
    )
    parser.add_argument("--target", metavar="COLUMN", help="of latencies")
    parser.add_argument("--features", metavar="A,B,...", help="columns that describe an architecture")
    parser.add_argument("--space", help="of the architectures; the features are then its choices in order")
    parser.add_argument("--kind", default=DEFAULT_KIND, help=f"what to fit; default {DEFAULT_KIND}")
    parser.add_argument("--sizes", help="networks learned from; default 50,100,200,400 (quick: 50,100)")
    parser.add_argument("--seeds", type=int, help="default 5 (quick: 2)")
    return parser


def made_up(n: int = 1000) -> Measured:
    """Networks of a small space, whose latencies are their operations with noise of 3 %."""
    space = load_space("proxyless-small")
    codes = draw(space.encoding, n, 0)
    latency = FlopsPredictor.of(space).predict_codes(codes) * np.random.default_rng(0).lognormal(0, 0.03, n)
    return Measured(SpaceFeatures.of(space).rows(codes), latency, codes, None, 0, 0, 0, 0)


def _read(asked: argparse.Namespace) -> Measured:
    if asked.data is None:
        return made_up()
    if not asked.target or not asked.features:
        raise HwnasError(f"--target and --features are missing: which columns of {asked.data} are what")
    space = None if asked.space is None else load_space(asked.space)
    return read_measured(FrameRequest(asked.data, asked.target, tuple(asked.features.split(","))), space)


def _error(measured: Measured, kind: str, learned: np.ndarray, aside: np.ndarray, seed: int) -> float:
    """MAPE on the rows set aside."""
    y = measured.latency
    fitted = regressor_type(kind)().fit(measured.rows.take(learned), y[learned], np.random.default_rng(seed))
    return errors(fitted.predict(measured.rows.take(aside)), y[aside]).mape


def replay(measured: Measured, kind: str, sizes: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray, Round]:
    """MAPE (sizes,) of chosen and of random networks, and what the random half says at the largest number."""
    order = np.random.default_rng(seed).permutation(len(measured.latency))
    aside, pool = np.split(order, [round(ASIDE * len(order))])
    offered, most = pool[: needed(sizes[-1])], sizes[-1]
    chosen = offered[measuring_order(measured.rows.take(offered), most)]
    active = [_error(measured, kind, chosen[:n], aside, seed) for n in sizes]
    random = [_error(measured, kind, pool[:n], aside, seed) for n in sizes]
    rows, y = measured.rows.take(chosen), measured.latency[chosen]
    judged = fit_regressor(kind, rows, y, np.random.default_rng(seed), judges=is_random(most)).error
    return np.array(active), np.array(random), Round.of(most, judged)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    sizes, seeds = _sizes(asked.sizes, asked.quick), asked.seeds or (2 if asked.quick else 5)
    name = f"{asked.target} of {asked.data.name}" if asked.data else "made up latencies"
    report = Report(f"Chosen and random networks: {name}", asked)
    measured = _read(asked)
    n, least = len(measured.latency), regressor_type(asked.kind).min_rows
    if sizes[0] < least or sizes[-1] > (1 - ASIDE) * n - 1 or seeds < 1:
        raise HwnasError(f"--sizes must be from {least} to {int((1 - ASIDE) * n) - 1}, --seeds at least 1")
    found = [replay(measured, asked.kind, sizes, seed) for seed in range(seeds)]
    active, random = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
    for i, size in enumerate(sizes):
        better = int((active[:, i] < random[:, i]).sum())
        beside = {"random": float(random[:, i].mean()), f"seeds of {seeds} where chosen is better": float(better)}
        report.findings.append(
            Finding(f"MAPE after {size} networks", float(active[:, i].mean()), "%", None, False, beside)
        )
    said = [one[2] for one in found]
    beside = {"standard error": float(np.mean([s.mape_se for s in said])), "true": float(active[:, -1].mean())}
    report.findings.append(
        Finding(
            f"what the random half says of {sizes[-1]}",
            float(np.mean([s.mape for s in said])),
            "%",
            None,
            False,
            beside,
        )
    )
    report.details |= {
        "data": asked.data and asked.data.name,
        "active": active,
        "random": random,
        "judged": [one.as_dict() for one in said],
        "sizes": sizes,
        "seeds": seeds,
    }
    report.finish()


def _sizes(text: str | None, quick: bool) -> list[int]:
    if text is None:
        return list(SIZES[:2] if quick else SIZES)
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise HwnasError(f"--sizes {text!r} are no whole numbers, such as 50,100,200") from error


if __name__ == "__main__":
    script(main)
