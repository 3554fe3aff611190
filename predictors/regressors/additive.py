"""A lookup table that is regressed on whole networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..base import PredictorError
from .base import TABLE, Regressor, Rows, State, nested, part
from .linear import Linear

CHOICES_ONLY = ((1.0, 0.0, 0.0),)


class AdditiveTable(Regressor):
    """y ~ constant + sum of one cost a category; with a latency table, y ~ constant + factor * the table's prediction.

    Least squares of relative errors; the costs are shrunk (ridge) as far as leave-one-out errors want it. This is
    `Linear` without numbers and pairs.

    Attributes:
        held_out: leave-one-out predictions.
    """

    kind: ClassVar[str] = "lut"

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        if not rows.sizes and TABLE not in rows.names:
            raise PredictorError("a table of costs needs choices, and the rows consist of numbers only")
        self.linear = Linear(shares=CHOICES_ONLY).fit(_seen(rows), y, rng)
        self.held_out = self.linear.held_out
        return self

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        return self.linear.predict(_seen(rows))

    def state(self) -> State:
        return nested({"linear": self.linear.state()})

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.linear = Linear.from_state(*part("linear", meta, arrays))
        return self


def _seen(rows: Rows) -> Rows:
    """The table's prediction alone, or else the choices alone."""
    known = [i for i, name in enumerate(rows.names) if name == TABLE]
    numeric, names = rows.numeric[:, known], tuple(rows.names[i] for i in known)
    kept = slice(0) if known else slice(None)
    return replace(
        rows,
        choices=rows.choices[:, kept],
        sizes=rows.sizes[kept],
        labels=rows.labels[kept],
        numeric=numeric,
        names=names,
        blocks=(),
    )
