"""What operators cost: sums of what they do, with weights that are not negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operators import MEASURES

Vector = NDArray[np.float64]
LOOSE = 1e-6
"""Penalty on what is as good as free: columns beside the operators."""
ROUNDS, SMALL, TINY = 4, 0.3, 1e-9
"""Of weighing errors by their size; the size, in usual ones, below which they count alike; the least usual size."""
POOLED = 1e-3
"""Penalty on the weights that all families share."""


@dataclass(frozen=True, eq=False)
class OperatorCosts:
    """cost = sum over families f of  w[f] . (count, MACs, elements moved, parameters)  +  extra . columns.

    Weights are those of the family with its kernel ("depthwise 5x5"); where it was not there, those of the family; else
    those that all share. So what was never measured costs what is like it.

    Attributes:
        weights: name of a family with kernel, of a family, or "" for all -> (measures,) not negative.
        extra: (E,) weights of columns beside the operators, not negative.
    """

    weights: Mapping[str, Vector]
    extra: Vector

    @classmethod
    def fit(
        cls,
        families: Sequence[str],
        amounts: Vector,
        y: Vector,
        *,
        shrink: float,
        extra: Vector | None = None,
        robust: bool = False,
    ) -> OperatorCosts:
        """Minimise the squares of the relative errors, and the distance of each family's weights from the shared ones.

        Args:
            families: of `amounts`. amounts: (N, families, measures). y: (N,) positive.
            shrink: how much the distance counts, each weight in shares of y.
            extra: (N, E) more columns, not negative.
            robust: minimise absolute errors instead, by weights (Schlossmacher, 1973).
        """
        more = np.empty((len(y), 0)) if extra is None else extra
        general = [name.split(" ")[0] for name in families]
        levels = [([""] * len(families), POOLED), (general, shrink), (list(families), shrink)]
        levels = levels if families else levels[:1]
        weights: dict[str, Vector] = {"": np.zeros(len(MEASURES))}
        beside = np.zeros(more.shape[1])
        for i, (level, penalty) in enumerate(levels):
            names = tuple(dict.fromkeys(level)) or ("",)
            summed = np.stack([amounts[:, [n == name for n in level]].sum(axis=1) for name in names], axis=1)
            prior = np.stack([_nearest(weights, name) for name in names])
            fitted = _fit_absolute if robust and i == len(levels) - 1 else _fit
            found, beside = fitted(summed, y, prior, penalty, more)
            weights |= dict(zip(names, found, strict=True))
        return cls(weights, beside)

    def of(self, families: Sequence[str], amounts: Vector, extra: Vector | None = None) -> Vector:
        """(N,) costs; the arguments as of `fit`."""
        each = np.stack([_nearest(self.weights, name) for name in families]) if families else np.empty((0, 4))
        total = np.einsum("nfm,fm->n", amounts, each)
        return np.asarray(total if extra is None else total + extra @ self.extra)

    def unknown(self, families: Sequence[str]) -> list[str]:
        """Families that it knows nothing of."""
        return [name for name in families if name not in self.weights and name.split(" ")[0] not in self.weights]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """As JSON data and arrays."""
        weights = np.stack(list(self.weights.values()))
        return {"names": list(self.weights)}, {"weights": weights, "extra": self.extra}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> OperatorCosts:
        """The inverse of `state`; raises KeyError, TypeError or ValueError for damaged data."""
        names, weights = [str(name) for name in meta["names"]], np.asarray(arrays["weights"], float)
        extra = np.asarray(arrays["extra"], float)
        if weights.shape != (len(names), len(MEASURES)) or "" not in names or extra.ndim != 1:
            raise ValueError("the weights do not fit the families")
        return cls(dict(zip(names, weights, strict=True)), extra)


def _nearest(weights: Mapping[str, Vector], name: str) -> Vector:
    return weights.get(name, weights.get(name.split(" ")[0], weights[""]))


def _fit_absolute(amounts: Vector, y: Vector, prior: Vector, penalty: float, extra: Vector) -> tuple[Vector, Vector]:
    """As `_fit`, of absolute errors."""
    weights, beside = _fit(amounts, y, prior, penalty, extra)
    for _ in range(ROUNDS):
        off = np.abs((np.einsum("nfm,fm->n", amounts, weights) + extra @ beside) / y - 1)
        usual = float(np.median(off)) + TINY
        counts = 1 / np.sqrt(np.maximum(off / usual, SMALL))
        weights, beside = _fit(amounts, y, prior, penalty, extra, counts)
    return weights, beside


def _fit(
    amounts: Vector, y: Vector, prior: Vector, penalty: float, extra: Vector, counts: Vector | None = None
) -> tuple[Vector, Vector]:
    """Weights of the amounts, held near the prior, and of the extra columns; not negative.

    Args:
        counts: (N,) by which each row's error is multiplied.
    """
    from scipy.optimize import nnls

    n, own = len(y), prior.size
    counts = np.ones(n) if counts is None else counts
    columns = np.concatenate([amounts.reshape(n, -1), extra], axis=1) / y[:, None]
    scale = np.sqrt((columns**2).mean(axis=0))
    there = scale > 0
    wanted = np.concatenate([prior.ravel(), np.zeros(extra.shape[1])]) * scale
    width = np.sqrt(n * np.where(np.arange(len(scale)) < own, penalty, LOOSE))
    left = np.concatenate([counts[:, None] * columns[:, there] / scale[there], np.diag(width)[np.ix_(there, there)]])
    found, _ = nnls(left, np.concatenate([counts, (width * wanted)[there]]), maxiter=50 * left.shape[1])
    weights = np.concatenate([prior.ravel(), np.zeros(extra.shape[1])])
    weights[there] = found / scale[there]
    return weights[:own].reshape(prior.shape), weights[own:]
