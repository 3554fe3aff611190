"""Accuracy at equal latency: networks that searches found, beside random ones of the same predicted latency.

Space `proxyless-small` at 28x28 pixels; the target lies at 25 % of the range of a latency table (without one, of the
MMACs). All there is to train on are 1,000 images, as many of each class, moved by up to 2 pixels: a search splits them
into 800 and 200, and each network is then trained from scratch on all of them for 12 epochs and tested once. Random
architectures are drawn uniformly among those on target, and trained once each.

Ways: gradient; reinforce; random and evolution, which score networks on one supernet, trained on uniformly drawn paths;
flops: gradient led by MMACs, with the target that networks on the latency target have in the mean. All begin with the
same warm-up where they have the same seed; its time counts for each. Percentile: of a retraining among the random
architectures. Intervals are of 95 %, bootstrapped over seeds, then retrainings, and over the random architectures; the
images are the same throughout.

Work is done in processes of one thread each. With --out an interrupted run goes on where it was, and the same command
with more seeds, retrainings, random architectures or ways adds these.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from statistics import fmean
from threading import Thread
from typing import Any

import numpy as np
import torch
from hwnas.benchmarks.common import Finding, Report, folder, options, script
from hwnas.benchmarks.search_units import DRAWN, HELD_OUT, WAYS, Bench, Setup, Unit, prepared, units_of, work
from hwnas.errors import HwnasError
from hwnas.search.run import RunFolder
from hwnas.search.settings import WeightSettings

DEFAULTS: Mapping[str, tuple[Any, Any]] = {
    "data": ("mnist5k", "digits:28"),
    "seeds": (10, 2),
    "retrainings": (3, 1),
    "random": (40, 3),
    "images": (1000, 250),
    "epochs": ((15, 30, 12), (1, 1, 1)),
    "scored": (200, 5),
}
"""Usual ones, and those of --quick."""
USUAL = ("gradient", "random", "flops")
RESAMPLES = 2000
LINES_S = 60.0
GUESS = {"warm-up": 40.0, "supernet": 65.0, "search": 120.0, "retraining": 25.0}
"""Seconds of a unit before any of its kind was done."""

Done = dict[Unit, dict[str, Any]]


# -- the pool


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, whatever ends it."""
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield executor
    except BaseException:
        for child in active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def carry_out(units: Sequence[Unit], setup: Setup, run: RunFolder, workers: int, report: Report) -> Done:
    """Do what was not done before, each unit once what it needs is done; gives the records of all."""
    done: Done = {Unit(**record["unit"]): record for record in run.records()}
    waiting = [unit for unit in units if unit not in done]
    running: dict[Future[dict[str, Any]], Unit] = {}
    begin = time.monotonic()
    said = begin - LINES_S
    with report.output.progress() as progress, pool(workers) as executor:
        while waiting or running:
            ready = [unit for unit in waiting if unit.needs is None or unit.needs in done]
            for unit in ready[: workers - len(running)]:
                waiting.remove(unit)
                codes = done[unit.needs]["codes"] if unit.kind == "retraining" and unit.needs else None
                running[executor.submit(work, setup, unit, run.checkpoint, codes)] = unit
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                try:
                    done[unit] = future.result()
                except BrokenProcessPool as error:
                    raise HwnasError(f"a process that did {unit} died; with --out the same command goes on") from error
                run.log(done[unit])
            left = seconds_left([*waiting, *running.values()], done) / workers
            progress.step("units of work", spent := time.monotonic() - begin, spent + left)
            if time.monotonic() - said > LINES_S:
                said = time.monotonic()
                n = len(waiting) + len(running)
                report.output.line(f"{len(units) - n} of {len(units)} units done, about {left / 60:.0f} minutes left")
    return done


def seconds_left(units: Sequence[Unit], done: Done) -> float:
    """As long as others of the same kind and way took, else of the same kind."""
    if not units:
        return 0.0
    taken: dict[tuple[str, str], list[float]] = {}
    for unit, record in done.items():
        for way in (unit.way, ""):
            taken.setdefault((unit.kind, way), []).append(record["seconds"])
    means = {key: fmean(values) for key, values in taken.items()}
    return sum(means.get((u.kind, u.way), means.get((u.kind, ""), GUESS[u.kind])) for u in units)


# -- what was found


def accuracies(done: Done, way: str, seeds: int, retrainings: int) -> np.ndarray:
    """(seeds, retrainings) of test accuracy, percent."""
    units = [[Unit("retraining", way, s, k) for k in range(retrainings)] for s in range(seeds)]
    return np.array([[done[unit]["accuracy"] for unit in row] for row in units])


def resampled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES, seeds * retrainings) of (seeds, retrainings): seeds are drawn anew, then retrainings of each."""
    seeds, retrainings = values.shape
    s = rng.integers(seeds, size=(RESAMPLES, seeds, 1))
    k = rng.integers(retrainings, size=(RESAMPLES, seeds, retrainings))
    return values[s, k].reshape(RESAMPLES, -1)


def percentile(values: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Percent of the random ones (..., M) that one of the values (..., N) exceeds, in the mean; ties count half."""
    above = np.sign(values[..., :, None] - random[..., None, :])
    return np.asarray(50 * (1 + above.mean(axis=(-2, -1))))


STATISTICS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": lambda values, random: values.mean(-1),
    "median": lambda values, random: np.median(values, -1),
    "percentile": percentile,
    "above random mean": lambda values, random: values.mean(-1) - random.mean(-1),
    "above random median": lambda values, random: values.mean(-1) - np.median(random, -1),
}
"""(..., N) values and (..., M) of random architectures -> (...)."""


def summary(values: np.ndarray, random: np.ndarray, gradient: np.ndarray | None) -> dict[str, list[float]]:
    """Each statistic: its value and the ends of its interval.

    Args:
        values, gradient: (seeds, retrainings); a seed's retrainings are alike, so that they are compared in pairs.
        random: (M, 1).
    """
    rng = np.random.default_rng(0)
    again = resampled(random, rng)
    drawn = again if values is random else resampled(values, rng)
    found = {}
    for name, statistic in STATISTICS.items():
        ends = np.quantile(statistic(drawn, again), (0.025, 0.975))
        found[name] = [float(statistic(values.reshape(-1), random.reshape(-1))), *ends.tolist()]
    if gradient is not None and values is not random:
        ahead = gradient - values
        ends = np.quantile(resampled(ahead, rng).mean(-1), (0.025, 0.975))
        found["gradient is ahead by"] = [float(ahead.mean()), *ends.tolist()]
    return found


def cost(done: Done, way: str, seed: int) -> float:
    """CPU seconds of a search, with all that it began with."""
    unit: Unit | None = Unit("search", way, seed)
    total = 0.0
    while unit is not None:
        total += done[unit]["cpu"]
        unit = unit.needs
    return total


def fill(report: Report, done: Done, asked: argparse.Namespace, bench: Bench) -> None:
    """Findings, tables and details."""
    ways = (DRAWN, *asked.algorithms)
    found = {way: accuracies(done, way, asked.seeds, asked.retrainings) for way in asked.algorithms}
    found[DRAWN] = random = accuracies(done, DRAWN, asked.random, 1)
    every = {way: summary(found[way], random, found.get("gradient")) for way in ways}
    middle, goal = float(np.median(random)), bench.latency.goals[0]
    beside = {"random median": middle} | {way: every[way]["mean"][0] for way in ways}
    costs = []
    for way in ways:
        bar = middle if way == "gradient" else None
        if way != DRAWN:
            others = {name: value for name, value in beside.items() if bar is not None and name != way}
            report.findings.append(Finding(f"{way}: mean accuracy", every[way]["mean"][0], "%", bar, True, others))
        units = [Unit("retraining", way, seed) for seed in range(len(found[way]))]
        latencies = [goal.target * done[unit]["ratio"] for unit in units]
        spent = [] if way == DRAWN else [cost(done, way, unit.seed) for unit in units]
        training = fmean(done[unit]["cpu"] for unit in units)
        between = f"{min(latencies):.4g} to {max(latencies):.4g}"
        costs.append((way, fmean(latencies), between, fmean(spent) if spent else None, training))
        report.details.setdefault("ways", {})[way] = {
            **every[way],
            "accuracies": found[way],
            "codes": [done[unit]["codes"] for unit in units],
            "latencies": latencies,
            "search_cpu_s": spent,
            "training_cpu_s": training,
        }
    columns = list(dict.fromkeys(name for statistics in every.values() for name in statistics))
    rows = [(way, *(_shown(every[way].get(name)) for name in columns), found[way].std()) for way in ways]
    report.output.table(("test accuracy", *columns, "SD"), rows, title="Percent, with 95 % intervals")
    columns = [f"predicted {goal.predictor.unit}", "from", "CPU s a search", "CPU s a training"]
    report.output.table(("networks found", *columns), costs, title=f"Target {goal.target:.4g} {goal.predictor.unit}")


def _shown(statistic: Sequence[float] | None) -> str:
    return "-" if statistic is None else "{:.2f} ({:.2f} to {:.2f})".format(*statistic)


# -- the command


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/search_accuracy.py --table small28.db --out results/accuracy --json accuracy.json",
        "python benchmarks/search_accuracy.py --seeds 4 --retrainings 2 --random 16 --out results/accuracy",
        "python benchmarks/search_accuracy.py --data digits:28 --algorithms gradient random evolution",
    )

    def add(name: str, what: str, **more: Any) -> None:
        full, quick = (_words(value) for value in DEFAULTS.get(name, (more.get("default"), None)))
        default = full and f"; default {full}" + (quick and f" (quick: {quick})")
        parser.add_argument(f"--{name}", help=what + default, **more)

    add("table", "a latency table of the space, or flops, which needs none", default="flops", metavar="FILE")
    add("data", "what to train on; it must fit the space and lie in memory")
    add("algorithms", f"of {', '.join(WAYS)}", nargs="+", choices=WAYS, default=list(USUAL), metavar="WAY")
    add("seeds", "searches of each way", type=int)
    add("retrainings", "of each network found", type=int)
    add("random", "random architectures", type=int, metavar="M")
    add("images", "for training", type=int)
    add("epochs", "of warm-up, search and training", type=int, nargs=3, metavar="N")
    add("scored", "networks that random search and evolution score", type=int)
    add("seed", "of the images and the random architectures", type=int, default=0)
    add("workers", "processes", type=int, default=os.cpu_count() or 1)
    add("out", "keep what was done, and go on from there", type=Path, metavar="FOLDER")
    add("force", "begin anew in that folder", action="store_true")
    return parser


def _words(value: Any) -> str:
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    for name, defaults in DEFAULTS.items():
        if getattr(asked, name) is None:
            setattr(asked, name, defaults[asked.quick])
    if min(asked.seeds, asked.retrainings, asked.random, asked.scored, asked.workers, *asked.epochs) < 1:
        raise HwnasError("--seeds, --retrainings, --random, --scored, --workers and --epochs must be at least 1")
    asked.algorithms = list(dict.fromkeys(asked.algorithms))
    report = Report(f"Accuracy at equal latency: {asked.data}, {asked.images} training images", asked)
    if asked.table == "flops" and "flops" in asked.algorithms:
        asked.algorithms.remove("flops")
        report.notes.append("without --table: the target is in MMACs, so that the way flops would be gradient itself")
    setup = Setup(asked.table, asked.data, asked.images, asked.seed, tuple(asked.epochs), asked.scored)
    bench = prepared(setup)
    bench.data(WeightSettings(), 0, HELD_OUT)  # refuses too few images before any work
    units = units_of(asked.algorithms, asked.seeds, asked.retrainings, asked.random)
    about, head = asdict(setup), "what decides the results."
    with folder(asked.out) as where, RunFolder.open(where, about, force=asked.force, head=head) as run:
        done = carry_out(units, setup, run, asked.workers, report)
    fill(report, done, asked, bench)
    report.finish()


if __name__ == "__main__":
    script(main)
