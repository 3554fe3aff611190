"""Predicted against measured latency of random networks that took no part in profiling; by default on this CPU.

Profiles the space into a new table, then measures unseen networks together with the table's calibration networks. The
references use the same measurements: the plain sum of the operators timed alone, that sum times one factor, and
multiply-accumulates times one factor (both factors fitted on the calibration networks as measured now).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.benchmarks.common import Finding, Report, folder, options, script
from hwnas.devices.base import Device
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.predictors.compare import CompareRequest, compare
from hwnas.predictors.comparison import Comparison
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.additive import AdditiveModel, MissingKeys
from hwnas.profiler.calibration import Observed, refit_factor
from hwnas.profiler.metrics import Errors, errors
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Progress
from hwnas.profiler.protocol import MeasuringProtocol, estimate_operator, full_speed, operator_values
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

QUICK = MeasuringProtocol(span_s=0.3, pause_s=0.05, network_visits=3, trace_runs=5)
ISOLATED, SCALED, FLOPS = "isolated, plain sum", "isolated x factor", "FLOPs x factor"


@dataclass(frozen=True)
class Bars:
    """Most that the MAPE may be, percent; least share of the networks within 2.5 and within 5 %, percent."""

    mape: float
    refitted: float
    within_2_5: float | None = None
    within_5: float | None = None


BARS = {"proxyless": Bars(2.0, 1.0, 95.0, 100.0), "nasbench201": Bars(4.0, 4.0), "proxyless-small": Bars(2.5, 2.5)}
OTHER = Bars(6.0, 6.0)
GPU = Bars(6.0, 2.0, None, 95.0)


@dataclass(frozen=True)
class Accuracy:
    """A comparison, and the MAPE in percent of the references on the same networks."""

    comparison: Comparison
    references: Mapping[str, float | None]
    calibration: Mapping[str, Any]

    @property
    def refitted(self) -> np.ndarray:
        """(N,) errors in percent with the factor refitted now, else as the table stands."""
        found = [(n.error_refitted, n.error) for n in self.comparison.networks]
        return np.array([error if now is None else now for now, error in found])

    def within(self, percent: float) -> float:
        """Share of the networks, in percent, whose refitted error is at most so much."""
        return float(100 * (np.abs(self.refitted) <= percent).mean())


def measure(
    space: SearchSpace,
    where: Path,
    progress: Progress,
    *,
    networks: int,
    seed: int,
    device: Device | None = None,
    table: Path | None = None,
    quick: bool = False,
) -> Accuracy:
    """Profile (unless there is a table) and compare, on one thread of this CPU unless a device is given.

    Raises:
        HwnasError: the space or the table cannot be used.
    """
    device = device or create("cpu", threads=1)
    protocol = QUICK if quick else MeasuringProtocol()
    if table is None:
        table = where / "table.db"
        profile(ProfileRequest(device=device, space=space, out=table, protocol=protocol, seed=seed), progress)
    predictor = LutPredictor.load(table, space)
    visits = 4 if quick else 20
    request = CompareRequest(predictor, device, where, n=networks, seed=seed, visits=visits, protocol=protocol)
    comparison = compare(request, progress)
    return Accuracy(
        comparison, references(predictor, table, where / "measurements.db", comparison), predictor.calibration or {}
    )


def references(
    predictor: LutPredictor, table: Path, measurements: Path, comparison: Comparison
) -> dict[str, float | None]:
    """MAPE of simpler predictions of the same networks; None where there is none."""
    space = predictor.space
    seen = _calibration_networks(space, measurements)
    unseen = space.encode([n.architecture for n in comparison.networks])
    measured = np.array([n.measured for n in comparison.networks])
    found: dict[str, float | None] = dict.fromkeys((ISOLATED, SCALED, FLOPS))
    sums = _isolated(space, table)
    if sums is not None:
        found[ISOLATED] = errors(sums.predict(unseen), measured).mape
        if len(seen.codes):
            factor = refit_factor(sums.predict(seen.codes), seen.latency)
            found[SCALED] = errors(factor * sums.predict(unseen), measured).mape
    if len(seen.codes):
        flops = FlopsPredictor.of(space)
        factor = refit_factor(flops.predict_codes(seen.codes), seen.latency)
        found[FLOPS] = errors(factor * flops.predict_codes(unseen), measured).mape
    return found


def _calibration_networks(space: SearchSpace, measurements: Path) -> Observed:
    """Those of the table, as measured beside the unseen ones."""
    with LatencyTable.open(measurements) as raw:
        rows = [r for r in raw.rows("network") if r.info.get("role") == "calibration" and r.latency is not None]
    codes = space.encode([Architecture.from_dict(row.info["architecture"]) for row in rows])
    return Observed(codes, np.array([row.latency for row in rows], float))


def _isolated(space: SearchSpace, table: Path) -> AdditiveModel | None:
    """Plain sums of the operators timed alone; None where the table has no such times for all of them."""
    protocol = MeasuringProtocol()
    with LatencyTable.open(table) as raw:
        networks = {row.key for row in raw.rows("network")}
        visits = {key: found for key, found in raw.all_visits().items() if key not in networks}
        clock = raw.provenance.environment.get("clock", "wall")
        settings = raw.provenance.settings
    dtype, description = settings.get("dtype", "fp32"), space.describe(settings.get("batch", 1))
    speed = full_speed(visits, partial(operator_values, clock=clock))
    values = {key: estimate_operator(found, protocol, speed, clock).value for key, found in visits.items()}
    try:
        return AdditiveModel.from_values(space.encoding, description, values, dtype=dtype, live=False)
    except MissingKeys:
        return None


def mape(statistics: Errors | None) -> float | None:
    """None of nothing."""
    return None if statistics is None else statistics.mape


def findings(found: Accuracy, bars: Bars) -> list[Finding]:
    """One line for each statistic."""
    comparison = found.comparison
    noise = {"noise of the measurements": comparison.noise}
    bias = comparison.errors.bias if comparison.errors else None
    lines = [
        Finding("MAPE, factor refitted now", mape(comparison.refitted), "%", bars.refitted, False, found.references),
        Finding("MAPE, as the table stands", mape(comparison.errors), "%", bars.mape, False, noise),
        Finding("within 2.5 %, refitted", found.within(2.5), "% of networks", bars.within_2_5, True),
        Finding("within 5 %, refitted", found.within(5), "% of networks", bars.within_5, True),
        Finding("largest error, refitted", float(np.abs(found.refitted).max()), "%"),
        Finding("bias, as the table stands", bias, "%"),
        Finding("drift since the table", comparison.drift, "%"),
    ]
    lines += [Finding(f"error of the {name}", n.error_refitted, "%") for name, n in comparison.extremes.items()]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/accuracy.py --space nasbench201",
        "python benchmarks/accuracy.py --networks 80 --seed 7 --out results/accuracy --json accuracy.json",
        "python benchmarks/accuracy.py --space my_net.py:space --table my_net.db",
        "python benchmarks/accuracy.py --device gpu8 --dtype fp16",
    )
    parser.add_argument("--space", help="a built-in space or path.py:function; default proxyless (quick: -small)")
    parser.add_argument("--device", default="cpu", help="where to measure; default cpu, one thread")
    parser.add_argument("--dtype", help="as in `hwnas profile`")
    parser.add_argument("--eager", action="store_true", default=None, help="of gpu: no CUDA graphs")
    parser.add_argument("--networks", type=int, help="unseen networks; default 40 (quick: 6)")
    parser.add_argument("--seed", type=int, default=1, help="of the networks and the order of the visits; default 1")
    parser.add_argument("--table", type=Path, metavar="EXISTING", help="a table to try instead of a new one")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the table, raw measurements and plot here")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    spec = asked.space or ("proxyless-small" if asked.quick else "proxyless")
    networks = asked.networks or (6 if asked.quick else 40)
    device = create(asked.device, dtype=asked.dtype, eager=asked.eager)
    report = Report(f"Accuracy on {asked.device}: {spec}, {networks} unseen networks, seed {asked.seed}", asked)
    space = load_space(spec)
    with folder(asked.out) as where, report.output.progress() as progress:
        if asked.table is None and (where / "table.db").exists():
            raise HwnasError(f"{where / 'table.db'} is there already: give it as --table, or another --out")
        found = measure(
            space,
            where,
            progress,
            networks=networks,
            seed=asked.seed,
            device=device,
            table=asked.table,
            quick=asked.quick,
        )
    report.findings += findings(found, GPU if device.name == "gpu" else BARS.get(spec, OTHER))
    report.notes += [f"note: {doubt}" for doubt in found.comparison.doubts]
    report.details |= {"comparison": found.comparison.as_dict(), "calibration": dict(found.calibration)}
    report.finish()


if __name__ == "__main__":
    script(main)
