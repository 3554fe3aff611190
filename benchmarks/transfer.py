"""Few networks of a new device, and other devices' latencies as sources, on tables that are given by their folder.

Each latency column of a table is the new device once: so many random networks of it are fitted on, all others are
predicted. The sources are the other columns, without those of the same hardware: columns whose names are the same but
for a number at the end (a batch size) are of one. Beside it, on the same networks: ridge regression on them alone
(kind `linear`), and multiply-accumulates alone where a space says how many.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.predictors.evaluation import evaluate, split
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.frames import FrameRequest, Measured, read_measured
from hwnas.predictors.source_columns import SourceColumn
from hwnas.profiler.metrics import errors
from hwnas.profiler.progress import Progress
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

PREFIX = "lat_"
BATCHES = 512
"""Up to this a number at the end of a name is a batch size; larger ones are a model's."""
SHOWN = ("spearman", "mape", "within_5", "within_10", "coverage", "width")
BARS = {"spearman": 0.957, "mape": 5.0}
"""Of the mean over all columns of all tables."""
ALONE, MACS = "ridge regression alone", "MACs alone"


@dataclass(frozen=True)
class Task:
    """A table of a space, and what others reached with 20 measured networks on devices of it.

    Attributes:
        features: its columns that describe an architecture. space: what they mean; None: not said.
        others: rank correlations.
    """

    file: str
    features: tuple[str, ...]
    space: str | None
    others: Mapping[str, float] = field(default_factory=dict)


TASKS = {
    "nb201": Task("nb201_help.parquet", tuple(f"op{i}" for i in range(6)), "nasbench201", {"HELP": 0.932}),
    "fbnet": Task("fbnet_help.parquet", tuple(f"op{i}" for i in range(22)), None, {"HELP": 0.910}),
}


def family(column: str) -> str:
    """The hardware of a column."""
    stem, number = re.fullmatch(r"(.*?)(?:_(\d+))?", column.removeprefix(PREFIX)).groups()  # type: ignore[union-attr]
    return stem if number is None or int(number) <= BATCHES else f"{stem}_{number}"


def latencies(path: Path) -> list[str]:
    """The latency columns of a file; raises HwnasError where it cannot be read, or there are fewer than two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = [name for name in pq.read_schema(path).names if name.startswith(PREFIX)]
    except OSError as error:
        raise HwnasError(f"{path} cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise HwnasError(f"{path} is no Parquet file: {error}") from error
    if len({family(name) for name in found}) < 2:
        raise HwnasError(f"{path} has no two devices: no two columns {PREFIX}...")
    return found


def by_macs(measured: Measured, macs: np.ndarray, train: int, seed: int) -> dict[str, float]:
    """Statistics of multiply-accumulates times a factor plus a constant, fitted by relative error."""
    fitted, held = split(len(macs), train, np.random.default_rng(seed))
    columns, y = np.column_stack([macs, np.ones(len(macs))]), measured.latency
    found = np.linalg.lstsq(columns[fitted] / y[fitted, None], np.ones(len(fitted)), rcond=None)[0]
    return errors(np.maximum(columns[held] @ found, y[fitted].min() / 10), y[held]).as_dict()


def judged(
    request: FrameRequest, space: SearchSpace | None, asked: argparse.Namespace, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Way -> mean statistics over the seeds, of one column."""
    measured = read_measured(request, space)
    how: dict[str, Any] = {"train": asked.train, "seeds": asked.seeds}
    found = {"transfer": evaluate(measured, kind="transfer", progress=progress, **how).mean()}
    if asked.train >= 10:
        found[ALONE] = evaluate(read_measured(replace(request, sources=()), space), kind="linear", **how).mean()
    if space is not None and measured.codes is not None and asked.train >= 2:
        macs = FlopsPredictor.of(space).predict_codes(measured.codes)
        each = [by_macs(measured, macs, asked.train, seed) for seed in range(asked.seeds)]
        found[MACS] = {name: float(np.mean([one[name] for one in each])) for name in ("spearman", "mape")}
    return found


def mean(columns: Sequence[Mapping[str, Mapping[str, Any]]], way: str, name: str) -> float | None:
    """Over columns; None where one of them has none."""
    known = [column[way][name] for column in columns if column.get(way, {}).get(name) is not None]
    return float(np.mean(known)) if known and len(known) == len(columns) else None


def findings(what: str, columns: Sequence[Mapping[str, Mapping[str, Any]]], others: Mapping[str, float], bars: Mapping[str, float]) -> list[Finding]:  # fmt: skip  # noqa: E501
    """The means over some columns."""
    units = {"spearman": ("Spearman", ""), "mape": ("MAPE", "%"), "coverage": ("inside 90 % intervals", "%")}
    rows = []
    for name, (title, unit) in units.items():
        beside = {way: mean(columns, way, name) for way in (ALONE, MACS)}
        known = {way: value for way, value in beside.items() if value is not None and name != "coverage"}
        more = others if name == "spearman" else {}
        value, bar = mean(columns, "transfer", name), bars.get(name)
        rows.append(Finding(f"{what}: {title}", value, unit, bar, name == "spearman", {**known, **more}))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/transfer.py tables/",
        "python benchmarks/transfer.py tables/ --tasks fbnet --columns lat_pixel3 --train 0 --json transfer.json",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="where the Parquet files lie")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"default: {','.join(TASKS)}")
    parser.add_argument("--columns", help="only these latencies are predicted")
    parser.add_argument("--train", type=int, default=20, help="networks to fit on; default 20")
    parser.add_argument("--seeds", type=int, help="default 3 (quick: 1)")
    parser.add_argument("--without-space", action="store_true", help="the bare columns, whatever the space is")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    asked.seeds = asked.seeds or (1 if asked.quick else 3)
    unknown = [name for name in asked.tasks.split(",") if name not in TASKS]
    if unknown:
        raise HwnasError(f"there is no task {', '.join(unknown)}; there are: {', '.join(TASKS)}")
    report = Report(f"Transfer: {asked.train} networks of a new device", asked)
    report.details["columns"] = {}
    rows, every = [], []
    for name in asked.tasks.split(","):
        task = TASKS[name]
        there = latencies(asked.data / task.file)
        wanted = [c for c in there if asked.columns is None or c in asked.columns.split(",")]
        if not wanted:
            raise HwnasError(f"{task.file} has none of the columns {asked.columns}; it has {', '.join(there)}")
        space = load_space(task.space) if task.space and not asked.without_space else None
        found = []
        for target in wanted[: 1 if asked.quick else None]:
            path = asked.data / task.file
            sources = tuple(SourceColumn(path, c) for c in there if family(c) != family(target))
            request = FrameRequest(path, target, task.features, None, sources)
            with report.output.progress() as progress:
                own = judged(request, space, asked, progress)
            found.append(own)
            report.details["columns"][f"{name} {target}"] = own
            beside = [own.get(ALONE, {}).get(n) for n in SHOWN[:2]]
            rows.append((name, target, len(sources), *(own["transfer"][n] for n in SHOWN), *beside))
        report.findings += findings(name, found, task.others, {})
        every += found
    titles = ("Spearman", "MAPE %", "within 5 %", "within 10 %", "inside 90 %", "width %", "alone: Spearman", "MAPE %")
    report.output.table(("table", "new device", "sources", *titles), rows, title="Each device")
    if len(report.findings) > 3 and asked.columns is None:
        report.findings += findings("all", every, {}, BARS if asked.train == 20 else {})
    report.finish()


if __name__ == "__main__":
    script(main)
