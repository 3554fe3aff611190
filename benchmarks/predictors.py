"""The published protocols for latency predictors, on tables of measured architectures that are given by their folder.

Each protocol fits on so many random architectures of a file, for each of its latency columns and several seeds, and
predicts all others. Beside it stand, on as many rows, a random forest on the bare choices and multiply-accumulates
times a factor plus a constant; and what others have published, or was measured for them, where that is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.predictors.evaluation import evaluate, split
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.frames import FrameRequest, Measured, read_measured
from hwnas.predictors.regressors.registry import DEFAULT_KIND
from hwnas.profiler.metrics import errors
from hwnas.profiler.progress import Progress
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

CELLS = tuple(f"op{i}" for i in range(6))
LAYERS = tuple(f"op{i}" for i in range(22))
PREFIX = "lat_"
STATISTICS = {
    "mape": ("MAPE", "%"),
    "within_1": ("within 1 %", "% of networks"),
    "within_5": ("within 5 %", "% of networks"),
    "within_10": ("within 10 %", "% of networks"),
    "kendall": ("Kendall tau", ""),
    "spearman": ("Spearman", ""),
    "coverage": ("inside 90 % intervals", "% of networks"),
    "width": ("median width of these", "%"),
}
AT_MOST = ("mape", "width")


@dataclass(frozen=True)
class Protocol:
    """One protocol: its file, how many to fit on, what is to be reached and what others reached."""

    file: str
    features: tuple[str, ...]
    space: str | None
    train: int
    bars: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)


PROTOCOLS = {
    "hw360-100": Protocol(
        "nb201_hw360.parquet",
        CELLS,
        "nasbench201",
        100,
        {"mape": 2.5, "within_5": 90, "within_10": 98, "kendall": 0.95},
        {"mape": 4.7, "within_5": 75, "within_10": 89, "kendall": 0.882},
    ),
    "hw360-900": Protocol(
        "nb201_hw360.parquet",
        CELLS,
        "nasbench201",
        900,
        {"mape": 1.5, "within_1": 58, "within_5": 96, "width": 8},
        {"mape": 2.2, "within_1": 46, "within_5": 92},
    ),
    "oneproxy-900": Protocol(
        "nb201_oneproxy_1999.parquet",
        CELLS,
        "nasbench201",
        900,
        {"within_1": 45, "within_5": 94, "within_10": 99.3, "width": 8},
        {"within_1": 32, "within_5": 89, "within_10": 98.4},
    ),
    "nb201-help-900": Protocol("nb201_help.parquet", CELLS, "nasbench201", 900, {}, {"mape": 4.5, "within_10": 84}),
    "fbnet-100": Protocol("fbnet_help.parquet", LAYERS, None, 100, {}, {"mape": 3.7, "within_10": 92}),
    "fbnet-900": Protocol("fbnet_help.parquet", LAYERS, None, 900, {}, {"mape": 1.0, "within_10": 98.8}),
}
FILES = tuple(dict.fromkeys(protocol.file for protocol in PROTOCOLS.values()))
OTHERS = "table and boosted trees"
"""What the last column of protocols was reached by: an additive table, then boosted trees; on more columns in part."""


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/predictors.py tables/ --protocols hw360-100,hw360-900 --seeds 10",
        "python benchmarks/predictors.py tables/ --kind auto --protocols fbnet-900 --columns lat_pixel3",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help=f"holds {', '.join(FILES)}")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help=f"default: {','.join(PROTOCOLS)}")
    parser.add_argument("--columns", help="only these latencies")
    parser.add_argument("--kind", default=DEFAULT_KIND, help=f"default {DEFAULT_KIND}")
    parser.add_argument("--seeds", type=int, help="default 5 (quick: 1)")
    parser.add_argument("--without-space", action="store_true", help="the bare columns, whatever the space is")
    return parser


def _columns(path: Path, asked: str | None) -> list[str]:
    import pyarrow.parquet as pq

    try:
        there = [name for name in pq.read_schema(path).names if name.startswith(PREFIX)]
    except OSError as error:
        raise HwnasError(f"{path} cannot be read: {error.strerror or error}") from error
    wanted = there if asked is None else [name for name in asked.split(",") if name in there]
    if not wanted:
        raise HwnasError(f"{path} has none of the columns {asked}; it has {', '.join(there)}")
    return wanted


def by_macs(measured: Measured, macs: np.ndarray, train: int, seed: int) -> float:
    """MAPE of multiply-accumulates times a factor plus a constant, fitted by relative error."""
    fitted, held = split(len(macs), train, np.random.default_rng(seed), measured.groups)
    columns, y = np.column_stack([macs, np.ones(len(macs))]), measured.latency
    found = np.linalg.lstsq(columns[fitted] / y[fitted, None], np.ones(len(fitted)), rcond=None)[0]
    return errors(columns[held] @ found, y[held]).mape


def run(protocol: Protocol, request: FrameRequest, space: SearchSpace | None, kind: str, seeds: int, progress: Progress
        ) -> tuple[dict[str, float | None], dict[str, float | None]]:  # fmt: skip
    """Mean statistics over seeds of one column, and MAPE of simpler ways."""
    measured = read_measured(request, space)
    found = evaluate(measured, train=protocol.train, seeds=seeds, kind=kind, progress=progress).mean()
    forest = evaluate(read_measured(request), train=protocol.train, seeds=seeds, kind="random-forest").mean()
    beside: dict[str, float | None] = {"random forest": forest["mape"]}
    if space is not None and measured.codes is not None:
        macs = FlopsPredictor.of(space).predict_codes(measured.codes)
        each = [by_macs(measured, macs, protocol.train, seed) for seed in range(seeds)]
        beside["MACs"] = float(np.mean(each))
    return found, beside


def findings(
    name: str, columns: Sequence[Mapping[str, float | None]], beside: Sequence[Mapping[str, float | None]]
) -> list[Finding]:
    """One line for each statistic: means over the columns."""
    protocol, lines = PROTOCOLS[name], []
    for statistic, (title, unit) in STATISTICS.items():
        references: dict[str, float | None] = {}
        if statistic == "mape":
            references |= {way: _mean([one[way] for one in beside]) for way in beside[0]}
        if statistic in protocol.others:
            references[OTHERS] = protocol.others[statistic]
        value, bar = _mean([one[statistic] for one in columns]), protocol.bars.get(statistic)
        lines.append(Finding(f"{name}: {title}", value, unit, bar, statistic not in AT_MOST, references))
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    names = asked.protocols.split(",")
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown:
        raise HwnasError(f"there is no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    seeds = asked.seeds or (1 if asked.quick else 5)
    report = Report(f"Predictors: {asked.kind}, means over columns and {seeds} seeds", asked)
    with report.output.progress() as progress:
        for name in names:
            protocol = PROTOCOLS[name]
            path = asked.data / protocol.file
            named = None if asked.without_space else protocol.space
            space = None if named is None else load_space(named)
            targets = _columns(path, asked.columns)[: 1 if asked.quick else None]
            results = []
            for i, target in enumerate(targets):
                progress.step(name, i, len(targets))
                request = FrameRequest(path, target, protocol.features)
                results.append(run(protocol, request, space, asked.kind, seeds, progress))
            report.findings += findings(name, [found for found, _ in results], [beside for _, beside in results])
            report.details[name] = {t: {**found, **beside} for t, (found, beside) in zip(targets, results, strict=True)}
    report.finish()


if __name__ == "__main__":
    script(main)
