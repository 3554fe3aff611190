"""REINFORCE, evolution and random search on NAS-Bench-201 with accuracies and latencies from a table.

The table is a parquet file with a row for each network: op0 to op5 (candidates of the edges 0-1, 0-2, 1-2, 0-3, 1-3,
2-3), latency and accuracy. Architectures that are one network by the benchmark's own definition (skips and zeros
resolved) share a row; asking for a row again, or for a network that the table lacks, is no query. Five upper limits of
latency, 500 queries, 10 seeds; the regret is the accuracy of the best network below the limit less that of the best
one queried, in points. In the same run: rows drawn uniformly from all of them, and from those below the limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.search.algorithm import Budget
from hwnas.search.algorithms import create_algorithm
from hwnas.search.goals import Goal, Latency
from hwnas.search.objective import Objective
from hwnas.search.settings import ObjectiveSettings, SearchSettings
from hwnas.spaces.encoding import Codes
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import Formula, TabulatedTask, made_up_accuracy

SHARES = (20.0, 35.0, 50.0, 65.0, 80.0)
"""Limits of latency: percent of the networks that are below."""
SHOWN = (50, 100, 200, 500)
SEARCHED = ("reinforce", "evolution", "random")
ALL, BELOW = "rows, all", "rows below the limit"
PATIENCE = 4
"""Times the planned updates after which a search that keeps asking for what it knows is over."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Table:
    """Networks with accuracy and latency.

    Attributes:
        row_of: (5, 5, 5, 5, 5, 5) the row of each architecture, -1 where there is none.
        accuracy: (rows,) share of right answers. latency: (rows,).
    """

    row_of: np.ndarray
    accuracy: np.ndarray
    latency: np.ndarray

    def rows(self, codes: Codes) -> np.ndarray:
        """(N,) of architectures (N, 6)."""
        return np.asarray(self.row_of[tuple(codes.T)])

    def latencies(self, codes: Codes) -> np.ndarray:
        """(N,); of networks that the table lacks (their output is constant): the smallest there is."""
        rows = self.rows(codes)
        return np.where(rows >= 0, self.latency[rows], self.latency.min())


class Tabulated(Formula):
    """Latency from the table; there are few enough architectures for an exact expectation."""

    closed_form = True

    def __init__(self, space: SearchSpace, table: Table) -> None:
        super().__init__(space, table.latencies)
        self.every = np.where(table.row_of >= 0, table.latency[table.row_of], table.latency.min())

    def expected(self, probabilities: Sequence[Any]) -> Any:
        plain = isinstance(probabilities[0], np.ndarray)
        total: Any = self.every if plain else probabilities[0].new_tensor(self.every)
        for p in probabilities:
            total = p @ total.reshape(len(p), -1)
        return float(total[0]) if plain else total[0]


def read(path: Path, latency: str, accuracy: str) -> tuple[Table, str, str]:
    """The table, and the names of the columns.

    Args:
        latency, accuracy: columns; by the beginning of their names the first one, "lat" and "acc".

    Raises:
        HwnasError: it cannot be read, or has no such columns.
    """
    import pandas

    try:
        frame = pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise HwnasError(f"{path} cannot be read: {error}") from error
    names = []
    for wanted in (latency, accuracy):
        found = [c for c in frame.columns if str(c) == wanted] or [
            c for c in frame.columns if str(c).startswith(wanted)
        ]
        if not found or not {f"op{i}" for i in range(6)} <= set(frame.columns):
            raise HwnasError(
                f"{path} needs columns op0 to op5 and {wanted!r}; it has {', '.join(map(str, frame.columns))}"
            )
        names.append(str(found[0]))
    frame = frame.dropna(subset=names)
    codes, values = frame[[f"op{i}" for i in range(6)]].to_numpy(), frame[names].to_numpy(float)
    if not len(frame) or codes.min() < 0 or codes.max() > 4:
        raise HwnasError(f"{path} holds no networks of NAS-Bench-201: op0 to op5 are numbers from 0 to 4")
    share = 100 if values[:, 1].max() > 1 else 1
    return Table(_row_of(codes), values[:, 1] / share, values[:, 0]), names[0], names[1]


def network(ops: Sequence[int]) -> str:
    """What the cell computes, as NAS-Bench-201 (arXiv:2001.00326) decides which architectures are the same."""
    nodes = ["0"]
    for target, first in ((1, 0), (2, 1), (3, 3)):
        inputs = []
        for node, op in zip(nodes, ops[first : first + target], strict=True):
            dead = op == 0 or node == "#"
            inputs.append("#" if dead else node if op == 1 else f"({node})@{op}")
        nodes.append("+".join(sorted(inputs)))
    return nodes[-1]


def _row_of(codes: np.ndarray) -> np.ndarray:
    """Row of every architecture: its own, else that of the same network."""
    same = {network(ops): i for i, ops in reversed(list(enumerate(codes.tolist())))}
    found = np.array([same.get(network(ops), -1) for ops in np.ndindex((5,) * 6)]).reshape((5,) * 6)
    found[tuple(codes.T)] = np.arange(len(codes))
    return found


def searched(space: SearchSpace, table: Table, name: str, limit: float, queries: int, seed: int) -> list[int]:
    """The rows that an algorithm queries, in order."""
    objective = Objective(Latency(space, [Goal(Tabulated(space, table), limit)]), ObjectiveSettings(kind="limit"))
    settings = SearchSettings(algorithm=name)
    at_once = settings.reinforce.samples if name == "reinforce" else getattr(settings, name).batch
    updates = -(-queries // at_once)
    algorithm = create_algorithm(name, space, objective, settings, Budget(updates), seed)
    task = TabulatedTask(space, table.rows, table.accuracy)
    for step in range(PATIENCE * updates):
        algorithm.update(task, step)
        if len(task.queries) >= queries:
            break
    return list(task.queries)[:queries]


def drawn(table: Table, limit: float | None, queries: int, seed: int) -> list[int]:
    """Rows drawn uniformly, below the limit or from all."""
    there = np.flatnonzero(table.latency <= (np.inf if limit is None else limit))
    return list(np.random.default_rng([seed, 0x7AB]).permutation(there)[:queries].tolist())


def regret(table: Table, limit: float, rows: Sequence[int], queries: int) -> np.ndarray:
    """(queries,) points that the best queried network below the limit is behind the best there is.

    Before the first one below the limit it is taken to have the worst accuracy below it; a search that ended early
    keeps its last regret.
    """
    below = table.accuracy[table.latency <= limit]
    queried = np.where(table.latency[list(rows)] <= limit, table.accuracy[list(rows)], below.min())
    best = np.maximum.accumulate(np.append(queried, np.full(queries - len(rows), below.min())))
    return np.asarray(100 * (below.max() - best))


def curves(space: SearchSpace, table: Table, asked: argparse.Namespace, report: Report) -> dict[str, np.ndarray]:
    """Way -> (limits, seeds, queries) regrets."""
    limits = limits_of(table, asked.shares)
    found = {way: np.empty((len(limits), asked.seeds, asked.queries)) for way in (*SEARCHED, BELOW, ALL)}
    with report.output.progress() as progress:
        for i, limit in enumerate(limits):
            for seed in range(asked.seeds):
                for way, regrets in found.items():
                    if way in SEARCHED:
                        rows = searched(space, table, way, limit, asked.queries, seed)
                    else:
                        rows = drawn(table, limit if way == BELOW else None, asked.queries, seed)
                    regrets[i, seed] = regret(table, limit, rows, asked.queries)
                progress.step("searching", i * asked.seeds + seed + 1, len(limits) * asked.seeds)
    return found


def limits_of(table: Table, shares: Sequence[float]) -> list[float]:
    """Latencies below which that percentage of the networks are."""
    return [float(np.quantile(table.latency, share / 100)) for share in shares]


def interval(runs: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Of the mean of (limits, seeds): 95 % bootstrap, the seeds of each limit resampled."""
    picked = rng.integers(runs.shape[1], size=(RESAMPLES, *runs.shape))
    means = np.take_along_axis(runs[None], picked, axis=2).mean(axis=(1, 2))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def plot(found: Mapping[str, np.ndarray], path: Path) -> None:
    """Mean regret over queries, with standard errors; raises HwnasError where the file cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for way, regrets in found.items():
        runs = regrets.reshape(-1, regrets.shape[-1])
        mean, error = runs.mean(axis=0), runs.std(axis=0) / np.sqrt(len(runs))
        x = np.arange(1, len(mean) + 1)
        axes.plot(x, mean, label=way, linestyle="-" if way in SEARCHED else "--")
        axes.fill_between(x, mean - error, mean + error, alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="networks queried", ylabel="regret (points of accuracy)")
    axes.legend()
    try:
        figure.savefig(path, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise HwnasError(f"{path} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)


def fill(report: Report, found: Mapping[str, np.ndarray], asked: argparse.Namespace) -> None:
    """Findings, tables and details of the regrets."""
    rng = np.random.default_rng(0)
    final = {way: regrets[..., -1] for way, regrets in found.items()}
    means = {way: float(runs.mean()) for way, runs in final.items()}
    references = {way: means[way] for way in (BELOW, ALL)}
    for way in SEARCHED:
        bar = None if way == "random" else min(references.values())
        report.findings.append(Finding(f"{way}: mean final regret", means[way], "points", bar, False, references))
    shown = [n for n in SHOWN if n < asked.queries] + [asked.queries]
    rows = []
    for way, regrets in found.items():
        cells = [f"{regrets[..., n - 1].mean():.2f}" for n in shown]
        low, high = interval(final[way], rng)
        lead_low, lead_high = interval(final[BELOW] - final[way], rng)
        report.details.setdefault("ways", {})[way] = {
            "mean": means[way],
            "interval": [low, high],
            "ahead_of_rows_below": [lead_low, lead_high],
            "curve": {str(n): float(regrets[..., n - 1].mean()) for n in shown},
            "by_limit": final[way].mean(axis=1).tolist(),
            "final": final[way].tolist(),
        }
        ahead = "" if way == BELOW else f"{lead_low:+.2f} to {lead_high:+.2f}"
        rows.append((way, *cells, f"{low:.2f} to {high:.2f}", ahead))
    columns = ("mean regret after", *map(str, shown), "95 % of the last", f"ahead of {BELOW}")
    report.output.table(columns, rows, title="Regret in points of accuracy")
    by_limit = [(way, *(f"{value:.2f}" for value in runs.mean(axis=1))) for way, runs in final.items()]
    report.output.table(("final regret at", *(f"{share:g} % below" for share in asked.shares)), by_limit)


def made_up(space: SearchSpace) -> Table:
    """Every different network, with invented accuracy and latency."""
    codes = np.concatenate(list(space.encoding.enumerate()))
    codes = codes[np.unique([network(ops) for ops in codes.tolist()], return_index=True)[1]]
    costs = np.array([0.01, 0.02, 0.3, 1.0, 0.2])[codes].sum(axis=1)
    noise = np.random.default_rng(0).normal(0, 0.01, len(codes))
    return Table(_row_of(codes), made_up_accuracy(space)(codes) + noise, 1 + costs)


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/tabulated.py --data nb201.parquet",
        "python benchmarks/tabulated.py --data nb201.parquet --latency lat_phone --plot regret.png --json regret.json",
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="the table; without it numbers are made up")
    parser.add_argument("--latency", default="lat", metavar="COLUMN", help="default the first that begins with lat")
    parser.add_argument("--accuracy", default="acc", metavar="COLUMN", help="default the first that begins with acc")
    parser.add_argument("--shares", type=float, nargs="+", metavar="PERCENT", help="of the networks below the limits")
    parser.add_argument("--queries", type=int, help="default 500 (quick: 60)")
    parser.add_argument("--seeds", type=int, help="default 10 (quick: 2)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the regret curves")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    asked.queries = asked.queries or (60 if asked.quick else 500)
    asked.seeds = asked.seeds or (2 if asked.quick else 10)
    asked.shares = asked.shares or (SHARES[1:4:2] if asked.quick else SHARES)
    if asked.queries < 1 or asked.seeds < 1 or not all(0 < share <= 100 for share in asked.shares):
        raise HwnasError("--queries and --seeds must be at least 1, --shares above 0 and at most 100")
    report = Report("Search with tabulated rewards: NAS-Bench-201", asked)
    space = load_space("nasbench201")
    if asked.data is None:
        table, latency, accuracy = made_up(space), "made up", "made up"
        report.notes.append("without --data: accuracies and latencies are made up")
    else:
        table, latency, accuracy = read(asked.data, asked.latency, asked.accuracy)
    report.details |= {"data": str(asked.data), "latency": latency, "accuracy": accuracy, "plot": str(asked.plot)}
    report.details |= {"networks": len(table.accuracy), "limits": limits_of(table, asked.shares)}
    found = curves(space, table, asked, report)
    fill(report, found, asked)
    if asked.plot is not None:
        plot(found, asked.plot)
    report.finish()


if __name__ == "__main__":
    script(main)
