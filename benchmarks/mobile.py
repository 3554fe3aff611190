"""Device `mobile` (LiteRT with XNNPACK on this CPU, one thread), in fp32 and int8.

For each precision: the time of `hwnas profile` as a program of its own, from nothing; predicted against measured
latency of random networks that took no part in it; how the operators timed alone add up, and how many visits are
needed. Then the time to lower one operator, and how alike operators rank in the tables of mobile and of the CPU by
ONNX Runtime, and in multiply-accumulates. The bars are for `proxyless`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
from hwnas.benchmarks import accuracy, conversion
from hwnas.benchmarks.common import Finding, Report, by_turns, folder, options, script
from hwnas.benchmarks.profile_time import Watched, hwnas_profile
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.profiler.delegation import delegation
from hwnas.profiler.lowering import lower
from hwnas.profiler.metrics import errors
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Progress
from hwnas.profiler.protocol import (
    MeasuringProtocol,
    Timed,
    estimate_network,
    estimate_operator,
    full_speed,
    network_values,
    operator_values,
)
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

TABLE_S, BLOCK_MS = 30.0, 10.0
HASTY = ("--max-visits", "3", "--tolerance", "50%")
COUNTS = (3, 6, 12)
"""Of visits, whose values are set beside that of all visits."""


@dataclass(frozen=True)
class Bars:
    """Most that the MAPE may be, and the error that 95 % of the networks stay within; percent, factor refitted."""

    mape: float
    within: float


BARS = {"fp32": Bars(1.0, 2.5), "fp16": Bars(1.0, 2.5), "int8": Bars(1.5, 4.0)}


@dataclass(frozen=True)
class Found:
    """What one precision gave."""

    program: Watched
    result: Mapping[str, object]
    accuracy: accuracy.Accuracy
    repeats: Mapping[str, Mapping[int, float]]
    delegated: str


def measure(spec: str, dtype: str, where: Path, progress: Progress, asked: argparse.Namespace, networks: int) -> Found:
    """Profile from nothing and compare."""
    where.mkdir()
    more = HASTY if asked.quick else ()
    progress.step(f"{dtype}: from nothing", 0, 1)
    program, result = hwnas_profile(where, "table", spec, "--dtype", dtype, *more, device="mobile")
    progress.step(f"{dtype}: from nothing", 1, 1)
    table = where / "table.db"
    compared = accuracy.measure(
        load_space(spec),
        where,
        progress,
        networks=networks,
        seed=asked.seed,
        device=create("mobile", dtype=dtype),
        table=table,
        quick=asked.quick,
    )
    repeats = {"operator": by_visits(table, networks=False), "network": by_visits(where / "measurements.db")}
    with LatencyTable.open(table) as opened:
        return Found(program, result, compared, repeats, str(delegation(opened.rows()) or "nothing is delegated"))


def by_visits(file: Path, *, networks: bool = True) -> dict[int, float]:
    """Number of visits -> rms, in percent, by which values from so many, drawn from all, are off the value of all."""
    with LatencyTable.open(file) as table:
        known = {row.key for row in table.rows("network")}
        visits = {key: own for key, own in table.all_visits().items() if (key in known) == networks}
        clock = table.provenance.environment.get("clock", "wall")
    most = max(map(len, visits.values()), default=0)
    visits = {key: own for key, own in visits.items() if len(own) > 1}
    speed = full_speed(visits, partial(network_values if networks else operator_values, clock=clock))
    rule = MeasuringProtocol()

    def value(some: Sequence[Timed]) -> float:
        if networks:
            return estimate_network(some, clock, speed).value
        return estimate_operator(some, rule, speed, clock).value

    rng = np.random.default_rng(0)
    off: dict[int, list[float]] = {n: [] for n in COUNTS if n < most}
    for own in visits.values():
        everything = value(own)
        for n in off:
            if n < len(own):
                some = [own[i] for i in rng.choice(len(own), n, replace=False)]
                off[n].append(100 * (value(some) / everything - 1))
    return {n: float(np.sqrt(np.mean(np.square(each)))) for n, each in off.items() if each}


def findings(dtype: str, found: Found) -> list[Finding]:
    """One line for each statistic of one precision."""
    bars, compared = BARS[dtype], found.accuracy
    comparison, calibration = compared.comparison, compared.calibration
    spearman = comparison.errors.spearman if comparison.errors else None
    held_out = {"held-out MAPE": (calibration.get("error") or {}).get("mape")}
    lines = [
        Finding(
            "MAPE, factor refitted now",
            accuracy.mape(comparison.refitted),
            "%",
            bars.mape,
            False,
            {**compared.references, "noise of the measurements": comparison.noise},
        ),
        Finding(
            f"within {bars.within:g} %, refitted",
            compared.within(bars.within),
            "% of networks",
            95.0,
            True,
            {"within 5 %": compared.within(5), "bias in %": float(compared.refitted.mean())},
        ),
        Finding("largest error, refitted", float(np.abs(compared.refitted).max()), "%"),
        Finding("MAPE, as the table stands", accuracy.mape(comparison.errors), "%"),
        Finding("drift since the table", comparison.drift, "%"),
        Finding("Spearman, predicted and measured", spearman, ""),
        Finding("table and calibration from nothing", found.program.seconds, "s", TABLE_S),
        Finding("peak memory of it", found.program.peak_mb, "MB"),
        Finding("factor of the calibration", calibration.get("factor"), "", references=held_out),
    ]
    for what, repeats in found.repeats.items():
        beside = {f"of {n}": percent for n, percent in repeats.items()}
        few = min((n for n, percent in repeats.items() if percent <= 0.5), default=None)
        lines.append(Finding(f"visits for each {what}, for 0.5 % rms", few, "visits", references=beside))
    return [replace(line, what=f"{dtype}: {line.what}") for line in lines]


def block_ms(space: SearchSpace, n: int, turns: int) -> dict[str, float]:
    """Median milliseconds to lower one of n operators to TFLite, checked against torch and unchecked."""
    blocks = conversion.operators(space, n)
    taken: dict[str, list[float]] = {"checked": [], "unchecked": []}
    for i, block in enumerate([blocks[0], *blocks]):
        way = partial(lower, block.module, block.inputs, format="tflite", route="emitter")
        ways = {name: partial(way, verify=name == "checked") for name in taken}
        for name, seconds in by_turns(ways, turns if i else 1).items():
            taken[name] += [1e3 * float(np.median(seconds))] if i else []  # the first loads the libraries
    return {name: float(np.median(each)) for name, each in taken.items()}


def other_tables(space: SearchSpace, where: Path, progress: Progress, quick: bool) -> dict[str, tuple[Path, str]]:
    """Tables of the CPU by ONNX Runtime and of multiply-accumulates, with their dtypes."""
    protocol = MeasuringProtocol(max_visits=3, tolerance=0.5, network_visits=3, trace_runs=5) if quick else None
    tables = {}
    for name in ("cpu", "flops"):
        path = where / f"{name}.db"
        request = ProfileRequest(create(name), space, path, "isolated", protocol or MeasuringProtocol())
        profile(request, progress)
        tables[{"cpu": "cpu fp32", "flops": "MACs"}[name]] = (path, "fp32")
    return tables


def rank_correlations(space: SearchSpace, tables: Mapping[str, tuple[Path, str]]) -> list[Finding]:
    """Spearman between the operators' costs of each pair of tables, over what both have."""
    workloads = [w for w in space.workloads() if not w.fixed]
    columns: dict[str, np.ndarray] = {}
    for name, (path, dtype) in tables.items():
        with LatencyTable.open(path) as table:
            values = table.values()
        columns[name] = np.array([values.get(w.key(1, dtype), np.nan) for w in workloads])
    found = []
    for a, b in combinations(columns, 2):
        both = np.isfinite(columns[a]) & np.isfinite(columns[b])
        same = errors(columns[a][both], columns[b][both]).spearman if both.sum() > 1 else None
        found.append(Finding(f"Spearman of the operators, {a} and {b}", same, ""))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/mobile.py",
        "python benchmarks/mobile.py --dtypes int8 --networks 80 --out results/mobile --json mobile.json",
    )
    parser.add_argument("--space", help="a built-in space or path.py:function; default proxyless (quick: -small)")
    parser.add_argument("--dtypes", nargs="+", choices=sorted(BARS), help="default fp32 int8")
    parser.add_argument("--networks", type=int, help="unseen networks; default 40 (quick: 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the networks and the order of the visits; default 1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep tables, raw measurements and plots here")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    spec = asked.space or ("proxyless-small" if asked.quick else "proxyless")
    dtypes = list(dict.fromkeys(asked.dtypes or ["fp32", "int8"]))
    networks = asked.networks or (4 if asked.quick else 40)
    report = Report(f"Device mobile: {spec}, {networks} unseen networks, seed {asked.seed}", asked)
    space = load_space(spec)
    with folder(asked.out) as where, report.output.progress() as progress:
        if any((where / name).exists() for name in (*dtypes, "cpu.db")):
            raise HwnasError(f"{where} has results already: give another --out")
        found = {dtype: measure(spec, dtype, where / dtype, progress, asked, networks) for dtype in dtypes}
        tables = {f"mobile {dtype}": (where / dtype / "table.db", dtype) for dtype in dtypes}
        ranks = rank_correlations(space, tables | other_tables(space, where, progress, asked.quick))
    block = block_ms(space, 2 if asked.quick else 8, 1 if asked.quick else 3)
    for dtype, each in found.items():
        report.findings += findings(dtype, each)
        report.notes.append(f"{dtype}: {each.delegated}")
        report.notes += [f"note: {dtype}: {doubt}" for doubt in _doubts(each)]
    lowered = Finding("one operator to TFLite, checked", block.pop("checked"), "ms", BLOCK_MS, references=block)
    report.findings += [lowered, *ranks]
    report.details |= {dtype: _details(each) for dtype, each in found.items()}
    report.finish()


def _doubts(found: Found) -> list[str]:
    told = found.result["doubts"]
    unconverged = found.result["unconverged"]
    lines = [*map(str, told if isinstance(told, list) else ()), *found.accuracy.comparison.doubts]
    return [*lines, f"operators that did not converge: {len(unconverged)}"] if isinstance(unconverged, list) else lines


def _details(found: Found) -> dict[str, object]:
    return {
        "profile": dict(found.result),
        "comparison": found.accuracy.comparison.as_dict(),
        "calibration": dict(found.accuracy.calibration),
        "repeats": dict(found.repeats),
    }


if __name__ == "__main__":
    script(main)
