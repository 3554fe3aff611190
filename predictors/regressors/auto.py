"""The kind that cross-validation finds best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..base import PredictorError
from ..conformal import folds
from .base import Regressor, Rows, State, nested, part
from .choice import Choice, Tried, best_of, chosen, exceeds
from .cross_validation import held_out
from .registry import DEFAULT_KIND, regressor_type

Vector = NDArray[np.float64]
CANDIDATES = ("lut", "linear", "gaussian-process", "stacked", "gbdt", "random-forest", "mlp")
"""From the simple ones to those that must be better to be worth it."""
SCREENED_FROM, SCREENED_ON, JUDGED_BY = 60, 300, 1000
"""Rows from which all are tried on half of the rows first; rows of these to fit on and to judge by, at most."""
MARGIN, KEPT = 1.5, 4
"""Times the best's error that is too much after the first trial; kinds that stay."""
FOLDS = 5
"""Of cross-validation, where rows are screened and a kind has no held-out predictions of its own."""
PARTS = 10
"""In which the choice is repeated."""


class Auto(Regressor):
    """One of several kinds: that with the smallest mean relative error for held-out rows, or a simpler one as good.

    With 60 rows or more, all are fitted on half of them (300 at most) and judged by the others; those stay that are
    among the best four and not clearly worse. These then predict every row without having seen it (see
    `cross_validation`), and `choice.best_of` decides.

    The error of what won is too small, since it won. So the choice is made once more for each of ten parts of the rows,
    by the errors for the other parts only, and the part is predicted by what these chose: the selection is in the error
    as it would be in nested cross-validation. That is a correction (Tsamardinos et al., 2018, do the same by
    bootstrap) and not the full nesting: regressors that predict the other parts were fitted on this one, too, and the
    first trial is not repeated. `held_out` are these predictions.

    Args:
        candidates: kinds, from simple to costly; None: `CANDIDATES`.

    Attributes:
        chosen: the regressor, fitted on all rows.
        choice: its kind, and why.
    """

    kind: ClassVar[str] = "auto"
    own_from: ClassVar[int] = 0
    choice: Choice

    def __init__(self, *, candidates: Sequence[str] | None = None) -> None:
        self.candidates = CANDIDATES if candidates is None else tuple(candidates)

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        seeds = dict(zip(self.candidates, rng.integers(2**63, size=len(self.candidates)).tolist(), strict=True))
        tried = self._screened(rows, y, seeds, rng)
        found: dict[str, tuple[Regressor, Vector]] = {}
        for kind in (kind for kind in self.candidates if kind not in tried):
            most = FOLDS if len(y) >= SCREENED_FROM else None
            try:
                found[kind] = held_out(regressor_type(kind), rows, y, np.random.default_rng(seeds[kind]), most=most)
            except PredictorError as error:
                tried[kind] = Tried(kind, left_out=f"is left out: {error}")
        if not found:
            raise PredictorError("; ".join(f"{t.kind} {t.left_out}" for t in tried.values()))
        errors = {kind: np.abs(out / y - 1) for kind, (_, out) in found.items()}
        tried |= {kind: Tried.of(kind, own, len(y)) for kind, own in errors.items()}
        self.choice = chosen(errors, DEFAULT_KIND, [tried[kind] for kind in self.candidates])
        self.chosen = found[self.choice.kind][0]
        self.held_out = np.empty(len(y))
        for own in folds(len(y), PARTS, rng):
            rest = np.setdiff1d(np.arange(len(y)), own)
            kind = best_of({name: e[rest] for name, e in errors.items()}, DEFAULT_KIND)
            self.held_out[own] = found[kind][1][own]
        return self

    def predict(self, rows: Rows) -> Vector:
        return self.chosen.predict(rows)

    def state(self) -> State:
        meta, arrays = nested({"chosen": self.chosen.state()})
        return {**meta, "choice": self.choice.as_dict()}, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.choice = Choice.from_dict(meta["choice"])
        if self.choice.kind == cls.kind:
            raise ValueError("it chose itself")
        self.chosen = regressor_type(self.choice.kind).from_state(*part("chosen", meta, arrays))
        return self

    # -- inside

    def _screened(self, rows: Rows, y: Vector, seeds: Mapping[str, int], rng: np.random.Generator) -> dict[str, Tried]:
        """The kinds that do badly on some of the rows, or cannot be fitted."""
        if len(y) < SCREENED_FROM:
            return {}
        order = rng.permutation(len(y))
        some, others = order[: min(len(y) // 2, SCREENED_ON)], order[len(y) // 2 :][:JUDGED_BY]
        errors: dict[str, Vector] = {}
        left_out: dict[str, Tried] = {}
        for kind, seed in seeds.items():
            try:
                fitted = regressor_type(kind)().fit(rows.take(some), y[some], np.random.default_rng(seed))
            except PredictorError as error:
                left_out[kind] = Tried(kind, left_out=f"is left out: {error}")
            else:
                errors[kind] = np.abs(fitted.predict(rows.take(others)) / y[others] - 1)
        ranked = sorted(errors, key=lambda kind: float(errors[kind].mean()))
        for i, kind in enumerate(ranked):
            own, best = errors[kind], errors[ranked[0]]
            far = own.mean() > MARGIN * best.mean() and exceeds(own, best, 2) > 0
            if kind != DEFAULT_KIND and (far or i >= KEPT):
                text = f"is left out: MAPE {100 * own.mean():.3g} % with {len(some)} networks"
                text += f" ({ranked[0]}: {100 * best.mean():.3g})"
                left_out[kind] = Tried.of(kind, own, len(some), text)
        return left_out
