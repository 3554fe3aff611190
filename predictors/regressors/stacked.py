"""The average of what several learners say, as far as each proved right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Regressor, Rows, State, nested, part
from .gaussian_process import GaussianProcess
from .linear import Linear
from .residual import BoostedResidual
from .simplex import simplex_weights
from .views import ALL, ALL_WITH_CHOICES, View, views

Vector = NDArray[np.float64]
FEW, TRIED_ON = 450, 300
"""Rows up to which all views are fitted on all of them; rows on which more are tried first."""
BEST = 3
"""Views that stay after that."""
MEMBERS, LEAST = 3, 0.04
"""Learners that are kept at most, so that prediction is fast; the weight below which one is left out."""
EVEN = 30.0
"""Pull of the weights towards each other, by number of rows."""
FOLDS = 3


class Stacked(Regressor):
    """log y ~ weighted mean of the logarithms of several learners.

    These are `GaussianProcess` on each way to look at the rows (see `views`; with hypotheses about what a runtime makes
    of a network, the data thus decide which holds), the pairs of choices of `Linear`, and, without hypotheses, boosted
    trees. The weights are the best on predictions of rows that were held out (Wolpert, 1992; Breiman, 1996).

    Args:
        trees: of the boosted trees, at most.

    Attributes:
        members: learners and their weights.
        held_out: the weighted mean of the members' held-out predictions.
    """

    kind: ClassVar[str] = "stacked"

    def __init__(self, *, trees: int = 400) -> None:
        self.trees = trees

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        fitted: list[tuple[Regressor, Vector]] = []
        for view in _promising(rows, y, rng):
            process = GaussianProcess(view).fit(rows, y, rng)
            fitted.append((process, _known(process.held_out)))
        linear = Linear().fit(rows, y, rng)
        fitted.append((linear, linear.loo))
        if not rows.blocks and len(y) >= 10 * FOLDS:
            fitted.append(_in_folds(lambda: BoostedResidual(trees=self.trees), rows, y, rng))
        logs = np.log(np.stack([held for _, held in fitted], axis=1))
        weights = _weights(logs - np.log(y)[:, None])
        self.members = [(own, float(w)) for (own, _), w in zip(fitted, weights, strict=True) if w > 0]
        self.held_out = np.exp(logs @ weights)
        return self

    def predict(self, rows: Rows) -> Vector:
        return np.asarray(np.exp(sum(weight * np.log(own.predict(rows)) for own, weight in self.members)))

    def state(self) -> State:
        meta, arrays = nested({str(i): own.state() for i, (own, _) in enumerate(self.members)})
        return {"members": [[own.kind, weight] for own, weight in self.members], "parts": meta}, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.members = [
            (_MEMBERS[kind].from_state(*part(str(i), meta["parts"], arrays)), float(weight))
            for i, (kind, weight) in enumerate(meta["members"])
        ]
        if not self.members:
            raise ValueError("there is no learner in it")
        return self


_MEMBERS: dict[str, type[Regressor]] = {made.kind: made for made in (GaussianProcess, Linear, BoostedResidual)}


def _weights(residuals: Vector) -> Vector:
    """(M,) of which few are not 0, for (N, M) residuals."""
    pull = EVEN / len(residuals)
    best = np.argsort(-simplex_weights(residuals, pull), kind="stable")[:MEMBERS]
    weights = np.zeros(residuals.shape[1])
    weights[best] = simplex_weights(residuals[:, best], pull)
    weights[weights < LEAST] = 0
    return np.asarray(weights / weights.sum())


def _promising(rows: Rows, y: Vector, rng: np.random.Generator) -> Sequence[View]:
    """The views that are worth fitting on many rows: the best on some of them, and the ones that hold everything."""
    found = views(rows)
    if len(y) <= FEW or len(found) <= BEST:
        return found
    some = rng.permutation(len(y))[:TRIED_ON]
    own, known = rows.take(some), y[some]
    errors = []
    for view in found:
        process = GaussianProcess(view, tuned_on=TRIED_ON // 2, steps=12, rounds=2).fit(own, known, rng)
        errors.append(float(np.abs(np.log(_known(process.held_out) / known)).mean()))
    best = {found[i].name for i in np.argsort(errors)[:BEST]} | {ALL, ALL_WITH_CHOICES}
    return [view for view in found if view.name in best]


def _in_folds(
    make: Callable[[], Regressor], rows: Rows, y: Vector, rng: np.random.Generator
) -> tuple[Regressor, Vector]:
    """A learner fitted on all rows, and predictions of each row by one fitted on the other folds."""
    held_out = np.empty(len(y))
    for held in np.array_split(rng.permutation(len(y)), FOLDS):
        rest = np.setdiff1d(np.arange(len(y)), held)
        held_out[held] = make().fit(rows.take(rest), y[rest], rng).predict(rows.take(held))
    return make().fit(rows, y, rng), held_out


def _known(values: Vector | None) -> Vector:
    assert values is not None
    return values
