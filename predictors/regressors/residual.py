"""An additive model, and boosted trees on the ratio that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Regressor, Rows, State, nested, part
from .boosting import BoostedTrees
from .linear import Linear

BASE = "base"
"""Name of the column in which the residual model sees what the additive one says."""


class BoostedResidual(Regressor):
    """y ~ additive(row) * exp(residual(row)).

    The additive part is the ridge regression of `Linear` (where there is a table, its prediction is one of the columns,
    so that its factor is fitted too). The residual part are boosted trees on the logarithm of the ratio, fitted to
    leave-one-out predictions of the additive part, so that they see errors as large as those on new rows.

    Args:
        trees: how many, at most.
    """

    kind: ClassVar[str] = "boosted-residual"

    def __init__(self, *, trees: int = 400) -> None:
        self.trees = trees

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        self.base = Linear().fit(rows, y, rng)
        seen = rows.with_numeric(BASE, np.log(self.base.loo))
        self.residual = BoostedTrees(trees=self.trees, rate=0.05, stop=True).fit_log(
            seen, np.log(y / self.base.loo), rng
        )
        return self

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        base = self.base.predict(rows)
        return np.asarray(base * np.exp(self.residual.predict_log(rows.with_numeric(BASE, np.log(base)))))

    def state(self) -> State:
        return nested({"base": self.base.state(), "residual": self.residual.state()})

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.base = Linear.from_state(*part("base", meta, arrays))
        self.residual = BoostedTrees.from_state(*part("residual", meta, arrays))
        return self
