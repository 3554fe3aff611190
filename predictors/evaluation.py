"""The published way to judge a predictor: fit on some architectures of a table, predict the others, several times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..profiler.metrics import Errors, errors
from ..profiler.progress import Progress, Silent
from .base import PredictorError
from .fitting import fit_regressor
from .frames import Measured
from .regressors.choice import Choice
from .regressors.registry import DEFAULT_KIND, regressor_type

COVERAGE = 0.9


@dataclass(frozen=True)
class SeedResult:
    """What one split found.

    Attributes:
        seed: of the split and of the fit.
        kind: what was fitted; where the kind that was asked for chooses, what it chose.
        errors: over the rows that were held out.
        coverage: percent of them inside their intervals. width: median width of these, percent of the latency.
        fit_s, predict_s: seconds, cross-validation and intervals included.
        choice: what the kind chose among others, and why; None where it is none that chooses.
    """

    seed: int
    kind: str
    errors: Errors
    coverage: float
    width: float
    fit_s: float
    predict_s: float
    choice: Choice | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form; the statistics are at the top."""
        own = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in ("errors", "choice")}
        return {**self.errors.as_dict(), **own, "choice": self.choice and self.choice.as_dict()}


@dataclass(frozen=True)
class Evaluation:
    """The mean over several splits.

    Attributes:
        kind: what was asked for. unit: of the latencies.
        train: rows fitted on.
        dropped: rows that were left out, for whatever reason (see `notes`).
        seeds: the splits.
        notes: sentences on rows that are not there as they were, and on what was chosen.
    """

    kind: str
    unit: str
    train: int
    dropped: int
    seeds: Sequence[SeedResult]
    notes: Sequence[str]

    def mean(self) -> dict[str, float | None]:
        """Each statistic's mean over the splits; one that is undefined in some is None."""
        each = [one.as_dict() for one in self.seeds]
        names = [name for name in each[0] if name not in ("seed", "kind", "choice")]
        return {name: _mean([one[name] for one in each]) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """JSON form; the means stand at the top."""
        mean = self.mean()
        return {
            "unit": self.unit,
            **mean,
            "n": round(mean["n"] or 0),
            "dropped": self.dropped,
            "kind": self.kind,
            "train": self.train,
            "notes": list(self.notes),
            "seeds": [{"unit": self.unit, "dropped": self.dropped, **one.as_dict()} for one in self.seeds],
        }


def evaluate(
    measured: Measured,
    *,
    train: int,
    seeds: int,
    kind: str = DEFAULT_KIND,
    unit: str = "ms",
    coverage: float = COVERAGE,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit on `train` random rows, predict all others, for each of the seeds 0 ... seeds - 1.

    Raises:
        PredictorError: too few rows, or ones that the kind cannot be fitted on.
    """
    _check(measured, kind, train, seeds)
    progress = progress or Silent()
    results = []
    for seed in range(seeds):
        progress.step("seeds", seed, seeds)
        results.append(_one(measured, kind, train, seed, coverage))
    progress.step("seeds", seeds, seeds)
    dropped = measured.missing + measured.disconnected
    chose = [f"seed {one.seed}: {one.choice.text()}" for one in results if one.choice]
    return Evaluation(kind, unit, train, dropped, results, [*measured.notes(), *chose])


def split(
    n: int, train: int, rng: np.random.Generator, groups: NDArray[np.intp] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of `train` random rows to fit on, and of those to judge by.

    With groups, whole groups are drawn until there are enough rows; what is too many of the last one is in neither.

    Raises:
        PredictorError: no row is left to judge by.
    """
    if groups is None:
        order = rng.permutation(n)
        fitted, rest = order[:train], order[train:]
    else:
        names = rng.permutation(np.unique(groups))
        place = np.empty(int(groups.max()) + 1, np.intp)
        place[names] = np.arange(len(names))
        own = place[groups]
        sizes = np.cumsum(np.bincount(own, minlength=len(names)))
        last = int(np.searchsorted(sizes, train))
        drawn = rng.permutation(np.flatnonzero(own <= last))
        fitted, rest = drawn[:train], np.flatnonzero(own > last)
    if len(fitted) < train or not len(rest):
        raise PredictorError(
            f"{train} of {n} rows cannot be split off: of the groups that stay together, none is left over"
        )
    return np.sort(fitted), np.sort(rest)


def _check(measured: Measured, kind: str, train: int, seeds: int) -> None:
    least = regressor_type(kind).min_rows
    n = len(measured.latency)
    if train < least:
        raise PredictorError(f"a predictor of kind {kind!r} needs at least {least} rows to be fitted on, not {train}")
    if n <= train:
        raise PredictorError(f"to fit on {train} rows and judge by others takes at least {train + 1}, there are {n}")
    if not 1 <= seeds <= 1000:
        raise PredictorError(f"the number of seeds must be from 1 to 1000, not {seeds}")


def _one(measured: Measured, kind: str, train: int, seed: int, coverage: float) -> SeedResult:
    rng = np.random.default_rng(seed)
    fitted_on, held = split(len(measured.latency), train, rng, measured.groups)
    start = time.perf_counter()
    fitted = fit_regressor(kind, measured.rows.take(fitted_on), measured.latency[fitted_on], rng)
    fit_s = time.perf_counter() - start
    rows, y = measured.rows.take(held), measured.latency[held]
    start = time.perf_counter()
    predicted = fitted.predict(rows)
    lower, upper = predicted * fitted.factors(rows, coverage).T
    predict_s = time.perf_counter() - start
    inside = (y >= lower) & (y <= upper)
    width = (upper - lower) / y
    return SeedResult(
        seed=seed,
        kind=fitted.chosen,
        errors=errors(predicted, y),
        coverage=float(100 * inside.mean()),
        width=float(100 * np.median(width)),
        fit_s=fit_s,
        predict_s=predict_s,
        choice=fitted.choice,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
