"""Latencies as sums of what operators cost by their sizes, learned from whole networks only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...profiler.additive import AdditiveModel
from ...spaces.description import SpaceError
from ...spaces.space import SearchSpace
from ...spaces.usage import terms
from ..base import PredictorError
from ..conformal import folds
from ..operator_costs import OperatorCosts
from ..operators import MEASURES, OperatorLayout, OperatorRows
from .base import TABLE, Regressor, Rows, State
from .matrix import one_hot

Vector = NDArray[np.float64]
SHRINKS = (1e-3, 1e-2, 1e-1)
"""How much the weights of a family are held to those that all share; the middle one tells the ways apart."""
JUDGED_ON, FOLDS = 400, 5
"""Rows on which the way is chosen, and folds of cross-validation there."""
FLOOR = 0.1
"""Share of the smallest y that is predicted at least."""


@dataclass(frozen=True)
class Way:
    """Which operators count.

    Attributes:
        live: those alone that act on the output; None: the rows do not say of which operators they are.
        counts: numeric columns that count besides: what a hypothesis of the runtime leaves of the operators.
        shrink: see `OperatorCosts.fit`.
    """

    live: bool | None
    counts: tuple[int, ...] = ()
    shrink: float = SHRINKS[1]


class KernelSums(Regressor):
    """y = constant + sum over operators of w[family] . (1, MACs, elements moved, parameters), all weights >= 0.

    nn-Meter's idea (Zhang et al., MobiSys 2021) without its measurements of single kernels: shapes that occur in none
    of the networks are priced, too. Minimises the absolute relative errors; whether dead operators count, and what a
    runtime merges (the counts of a hypothesis, each with a weight), cross-validation decides. Where there is a latency
    table, its prediction is one more column. Rows that do not say of which operators they are, are sums over their
    categories and columns instead.

    Attributes:
        held_out: by 10-fold cross-validation; what counts is chosen by all rows.
    """

    kind: ClassVar[str] = "kernel"

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        self.floor = FLOOR * float(y.min())
        self.low, self.high = (np.asarray(f(rows.numeric, axis=0), float) for f in (np.min, np.max))
        few = np.sort(rng.permutation(len(y))[:JUDGED_ON])
        parts = folds(len(few), FOLDS, rng)
        self.way = self._best(_ways(rows), rows.take(few), y[few], parts)
        tried = [Way(self.way.live, self.way.counts, shrink) for shrink in SHRINKS]
        self.way = self._best(tried, rows.take(few), y[few], parts)
        self.families, amounts, extra = self._design(rows, self.way)
        self.costs = OperatorCosts.fit(self.families, amounts, y, shrink=self.way.shrink, extra=extra, robust=True)
        self.held_out = self._cross_validated(self.way, rows, y, folds(len(y), self.folds, rng))
        return self

    def predict(self, rows: Rows) -> Vector:
        families, amounts, extra = self._design(rows, self.way)
        return np.maximum(self.costs.of(families, amounts, extra), self.floor)

    def state(self) -> State:
        meta, arrays = self.costs.state()
        about = {"floor": self.floor, "way": asdict(self.way), "families": list(self.families), **meta}
        return about, {**arrays, "low": self.low, "high": self.high}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.floor = float(meta["floor"])
        way = meta["way"]
        live = None if way["live"] is None else bool(way["live"])
        self.way = Way(live, tuple(int(i) for i in way["counts"]), float(way["shrink"]))
        self.families = tuple(str(name) for name in meta["families"])
        self.costs = OperatorCosts.from_state(meta, arrays)
        self.low, self.high = (np.asarray(arrays[name], float) for name in ("low", "high"))
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ValueError("the columns' ranges do not fit each other")
        if min(self.way.counts, default=0) < 0 or max(self.way.counts, default=-1) >= len(self.low):
            raise ValueError("a column that counts is not there")
        return self

    def sums(self, space: SearchSpace, table: AdditiveModel | None) -> AdditiveModel | None:
        if self.way.live is None or self.way.counts:
            return None
        operators = OperatorLayout(space).operators
        values = dict(zip(operators.names, self.costs.of(operators.families, operators.amounts).tolist(), strict=True))
        try:
            needed = terms(space.description, live=self.way.live, classes=True)
        except SpaceError:
            return None  # what is dead depends on too much to be held
        constant, *share = self.costs.extra.tolist()
        own = AdditiveModel.from_values(space.encoding, space.description, values, needed=needed).scaled(1.0, constant)
        if table is None or not share:
            return own
        more = table.scaled(share[0], own.constant)
        return AdditiveModel(space.encoding, [*own.cost_terms, *more.cost_terms], more.constant)

    # -- inside

    def _best(self, ways: list[Way], rows: Rows, y: Vector, parts: list[NDArray[np.intp]]) -> Way:
        """The one with the smallest mean absolute error in cross-validation."""
        if len(ways) == 1:
            return ways[0]
        found = [self._cross_validated(way, rows, y, parts) for way in ways]
        return ways[int(np.argmin([np.abs(own / y - 1).mean() for own in found]))]

    def _cross_validated(self, way: Way, rows: Rows, y: Vector, parts: list[NDArray[np.intp]]) -> Vector:
        families, amounts, extra = self._design(rows, way)
        found = np.empty(len(y))
        for held in parts:
            rest = np.setdiff1d(np.arange(len(y)), held)
            costs = OperatorCosts.fit(
                families, amounts[rest], y[rest], shrink=way.shrink, extra=extra[rest], robust=True
            )
            found[held] = costs.of(families, amounts[held], extra[held])
        return np.maximum(found, self.floor)

    def _design(self, rows: Rows, way: Way) -> tuple[tuple[str, ...], Vector, Vector]:
        """Families, what there is of each (N, families, measures), and further columns (N, E)."""
        one = np.ones((len(rows), 1))
        if way.live is None:
            numeric = np.concatenate([rows.numeric - self.low, self.high - rows.numeric], axis=1)
            return (), np.empty((len(rows), 0, len(MEASURES))), np.concatenate([one, one_hot(rows), numeric], axis=1)
        if not isinstance(rows.operators, OperatorRows):
            raise PredictorError("a predictor of kind 'kernel' that was fitted with a space needs one: give --space")
        table = [i for i, name in enumerate(rows.names) if name == TABLE]
        extra = np.concatenate([one, rows.numeric[:, [*way.counts, *table]]], axis=1)
        return rows.operators.families, rows.operators.sums(live=way.live), extra


def _ways(rows: Rows) -> list[Way]:
    if not isinstance(rows.operators, OperatorRows) or not rows.operators.families:
        return [Way(None)]
    dead = any(label.startswith("live ") for label in rows.labels)
    counted = dict.fromkeys([(), *(block.core for block in rows.blocks)])
    return [Way(live, counts) for live in ((True, False) if dead else (True,)) for counts in counted]
