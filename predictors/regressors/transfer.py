"""Few measurements of a new device, and what many other devices took for the same architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..base import PredictorError
from .base import Regressor, Rows, State
from .kernel import REFUSED, inverse_of
from .matrix import Standard, dense
from .simplex import simplex_weights

Vector = NDArray[np.float64]
SOURCE = "source: "
"""How the names of numeric columns begin that hold the latency of the same architecture on another device."""
PRUNED = "pruned source: "
"""And of what is left of the architecture when operators without effect are taken out."""
FEW = 5
"""Rows below which the sources' mean is only scaled."""
TUNED_ON, FOLDS = 200, 25
"""Rows on which marginal likelihood is worked out; parts in which the sum is left out."""
START = np.array([0.3, 0.1, 0.1, 0.05, 0.05])
"""Standard deviations, before any data, of: level, mean of the sources, differences of them, bends, features."""
NOISE, SMALLEST = 0.05, 1e-6
PARTS = ((0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 4))
"""What each process that is fitted consists of."""
PULL, SHRINK = 0.05, 0.02
"""Of the weights of an average towards each other; of the weights of sources towards 0."""
TINY = 1e-12


class Transfer(Regressor):
    """log y ~ mean of the sources' logarithms + Gaussian process + noise, for up to some hundred rows.

    Processes over the level, the mean of the sources, their differences, bends in these, and features of the
    architecture, each as large as marginal likelihood has it, and a non-negative sum of the sources are averaged by how
    well they predict rows that are left out. The units of sources do not matter; their noise does: give them denoised.

    Rows have the sources as numeric columns (see `SOURCE`), and may have them a second time, of the pruned
    architectures (`PRUNED`): these are taken where the rows that are left out say, beyond one standard error, that they
    serve better. Below 5 rows, the mean of the logarithms is only scaled, without any row not even that.

    Attributes:
        columns: numbers of the numeric columns that are the sources.
        weights: of the processes, and of the sum.
        held_out: leave-one-out predictions, in which only the parameters come from all rows; None for very few rows.
    """

    kind: ClassVar[str] = "transfer"
    min_rows: ClassVar[int] = 0

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        variants = _variants(rows.names)
        if not variants:
            raise PredictorError(
                f"a predictor of kind {self.kind!r} learns from other devices' latencies: name some with --sources"
            )
        if len(y) < FEW:
            return self._scaled(variants[0], rows, y)
        errors = [np.abs(self._fit_on(columns, rows, y, rng) - np.log(y)) for columns in reversed(variants)]
        if len(errors) > 1 and _clearly_smaller(errors[0], errors[1]):
            self._fit_on(variants[1], rows, y, rng)
        return self

    def _fit_on(self, columns: tuple[int, ...], rows: Rows, y: Vector, rng: np.random.Generator) -> Vector:
        """With these columns for sources; (N,) logarithm of what is said of each row that is left out."""
        self.columns = columns
        logs, features = _taken_apart(rows, columns)
        self.levels = logs.mean(axis=0)
        logs = logs - self.levels
        self.standard = Standard.of(features)
        self.points = _Points.of(logs, self.standard(features))
        target = np.log(y) - logs.mean(axis=1)
        self.centre = float(np.median(target))
        self.variances, self.duals = np.zeros((len(PARTS), len(START))), np.zeros((len(PARTS), len(y)))
        parts = self.points.kernels(self.points)
        some = np.sort(rng.permutation(len(y))[:TUNED_ON])
        left = []
        for i, own in enumerate(PARTS):
            seen = parts[np.ix_(np.array(own), some, some)]
            variances, noise = _tuned(seen, START[list(own)], target[some] - self.centre)
            self.variances[i, list(own)] = variances
            covariance = np.tensordot(self.variances[i], parts, 1) + noise * np.eye(len(y))
            inverse, _ = inverse_of(covariance)
            self.duals[i] = inverse @ (target - self.centre)
            left.append(np.log(y) - self.duals[i] / np.diag(inverse))
        sources = np.exp(logs)
        self.sum = _positive_sum(sources, y)
        left.append(_sums_left_out(sources, y))
        held = np.stack(left, axis=1)
        self.weights = simplex_weights(held - np.log(y)[:, None], PULL)
        self.held_out = np.exp(held @ self.weights)
        return np.asarray(held @ self.weights)

    def _scaled(self, columns: tuple[int, ...], rows: Rows, y: Vector) -> Self:
        """The sources' geometric mean, times what the few rows say; without any row as it is."""
        self.columns = columns
        logs, features = _taken_apart(rows, columns)
        n, d = logs.shape
        self.levels, self.sum = np.zeros(d), np.zeros(d + 1)
        self.centre = float(np.median(np.log(y) - logs.mean(axis=1))) if n else 0.0
        self.standard = Standard(np.zeros(features.shape[1]), np.zeros(features.shape[1]))
        nothing, one = np.array(0.0), np.array(1.0)
        self.points = _Points(np.zeros(n), np.zeros((n, d)), 0 * features, nothing, one, np.zeros(d), one)
        self.variances, self.duals = np.zeros((len(PARTS), len(START))), np.zeros((len(PARTS), n))
        self.weights = np.eye(len(PARTS) + 1)[0]
        return self

    def predict(self, rows: Rows) -> Vector:
        if self.columns not in _variants(rows.names):
            raise ValueError("the rows have other sources")
        logs, features = _taken_apart(rows, self.columns)
        logs = logs - self.levels
        parts = self.points.like(logs, self.standard(features)).kernels(self.points)
        found = [logs.mean(axis=1) + self.centre + np.tensordot(v, parts, 1) @ d for v, d in self._processes]
        found.append(_log_of_sum(np.exp(logs), self.sum))
        return np.asarray(np.exp(np.stack(found, axis=1) @ self.weights))

    def state(self) -> State:
        names = ("levels", "variances", "duals", "sum", "weights")
        arrays = {name: getattr(self, name) for name in names}
        points = {f"points {name}": value for name, value in vars(self.points).items()}
        return {"columns": list(self.columns), "centre": self.centre}, {**arrays, **points, **self.standard.arrays()}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.columns = tuple(int(i) for i in meta["columns"])
        self.centre = float(meta["centre"])
        names = ("levels", "variances", "duals", "sum", "weights")
        self.levels, self.variances, self.duals, self.sum, self.weights = (np.asarray(arrays[n], float) for n in names)
        own = {name: np.asarray(arrays[f"points {name}"], float) for name in _Points.__dataclass_fields__}
        self.points, self.standard = _Points(**own), Standard.from_arrays(arrays)
        n, d = self.points.differences.shape
        shapes = (self.levels.shape, self.sum.shape, self.weights.shape, self.duals.shape, self.variances.shape)
        if shapes != ((d,), (d + 1,), (len(PARTS) + 1,), (len(PARTS), n), (len(PARTS), len(START))):
            raise ValueError("the sources do not fit each other")
        if len(self.columns) != d or self.points.features.shape != (n, len(self.standard.mean)):
            raise ValueError("the points do not fit the columns")
        return self

    @property
    def _processes(self) -> list[tuple[Vector, Vector]]:
        return list(zip(self.variances, self.duals, strict=True))


@dataclass(frozen=True, eq=False)
class _Points:
    """Rows as the processes see them.

    Attributes:
        mean: (N,) of the sources, standardised. differences: (N, sources) between each and the mean, centred.
        features: (N, F) standardised.
        at, size, centre, spread: mean and deviation of the mean, mean and total variance of the differences.
    """

    mean: Vector
    differences: Vector
    features: Vector
    at: Vector
    size: Vector
    centre: Vector
    spread: Vector

    @classmethod
    def of(cls, logs: Vector, features: Vector) -> _Points:
        """Of the rows to be fitted on."""
        mean = logs.mean(axis=1)
        apart = logs - mean[:, None]
        scale = np.array(mean.mean()), np.array(mean.std() + TINY), apart.mean(axis=0)
        spread = np.array(((apart - scale[2]) ** 2).sum(axis=1).mean() + TINY)
        return cls((mean - scale[0]) / scale[1], apart - scale[2], features, *scale, spread)

    def like(self, logs: Vector, features: Vector) -> _Points:
        """Other rows, on the scales of these."""
        mean = logs.mean(axis=1)
        apart = logs - mean[:, None] - self.centre
        return _Points((mean - self.at) / self.size, apart, features, self.at, self.size, self.centre, self.spread)

    def kernels(self, others: _Points) -> Vector:
        """(5, N, M) in the order of `START`, each about 1 where a point meets itself."""
        linear = np.outer(self.mean, others.mean)
        apart = self.differences @ others.differences.T / self.spread
        own, other = (p.mean**2 + (p.differences**2).sum(axis=1) / p.spread for p in (self, others))
        distance = own[:, None] + other[None] - 2 * (linear + apart)
        width = max(self.features.shape[1], 1)
        bend = np.exp(-np.maximum(distance, 0) / 16)
        return np.stack([np.ones_like(linear), linear, apart, bend, self.features @ others.features.T / width])


def _variants(names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Numbers of the columns that may stand for the sources: as they are, of the pruned architectures."""
    found = [tuple(i for i, name in enumerate(names) if name.startswith(start)) for start in (SOURCE, PRUNED)]
    return [columns for columns in found if columns]


def _clearly_smaller(these: Vector, those: Vector) -> bool:
    """Whether (N,) errors are smaller by more than one standard error (Breiman et al., 1984)."""
    gain = those - these
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def _taken_apart(rows: Rows, columns: tuple[int, ...]) -> tuple[Vector, Vector]:
    """(N, sources) logarithms of the sources, (N, F) everything else."""
    logs = np.log(np.maximum(rows.numeric[:, list(columns)], TINY))
    others = [i for i, name in enumerate(rows.names) if not name.startswith((SOURCE, PRUNED))]
    bare = Rows(rows.choices, rows.sizes, rows.numeric[:, others], tuple(rows.names[i] for i in others))
    return logs, dense(bare)


def _tuned(parts: Vector, start: Vector, target: Vector) -> tuple[Vector, float]:
    """Variance of each part and of the noise, by marginal likelihood and a wide prior."""
    from scipy.optimize import minimize

    centre = np.log(np.append(start, NOISE))

    def objective(parameters: Vector) -> float:
        *variances, noise = np.exp(2 * parameters)
        covariance = np.tensordot(np.array(variances), parts, 1) + (noise + SMALLEST) * np.eye(len(target))
        try:
            inverse, logs = inverse_of(covariance)
        except np.linalg.LinAlgError:
            return REFUSED
        return float(0.5 * target @ inverse @ target + 0.5 * logs + 0.5 * ((parameters - centre) ** 2).sum())

    bounds = list(zip(centre - 6, centre + 6, strict=True))
    found = minimize(objective, centre, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40})
    *variances, noise = np.exp(2 * found.x)
    return np.array(variances), float(noise) + SMALLEST


def _positive_sum(sources: Vector, y: Vector) -> Vector:
    """(sources + 1,) weights >= 0 of the sources and a constant, by relative error, shrunk."""
    from scipy.optimize import nnls

    scale = np.append((y[:, None] / sources).mean(axis=0), np.median(y))
    relative = np.column_stack([sources, np.ones(len(y))]) * scale / y[:, None]
    shrink = SHRINK * np.sqrt(len(y)) * np.eye(len(scale))
    found, _ = nnls(np.concatenate([relative, shrink]), np.concatenate([np.ones(len(y)), np.zeros(len(scale))]))
    return np.asarray(found * scale)


def _log_of_sum(sources: Vector, weights: Vector) -> Vector:
    return np.asarray(np.log(sources @ weights[:-1] + weights[-1] + TINY))


def _sums_left_out(sources: Vector, y: Vector) -> Vector:
    """(N,) logarithm of what the sum of other rows says of each row."""
    found = np.empty(len(y))
    for own in np.array_split(np.arange(len(y)), min(len(y), FOLDS)):
        rest = np.delete(np.arange(len(y)), own)
        found[own] = _log_of_sum(sources[own], _positive_sum(sources[rest], y[rest]))
    return found
