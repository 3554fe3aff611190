"""The kind that cross-validation finds best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..base import PredictorError
from ..conformal import folds
from .base import Regressor, Rows, State, nested, part
from .choice import Choice, Tried, best_of, chosen
from .cross_validation import held_out
from .registry import DEFAULT_KIND, regressor_type
from .transfer import SOURCE, Transfer

Vector = NDArray[np.float64]
CANDIDATES = (
    "lut",
    "linear",
    "gaussian-process",
    "transfer",
    "stacked",
    "kernel",
    "gbdt",
    "random-forest",
    "mlp",
    "gcn",
)
"""First those that are simpler than the default, and parts of it; after it those that must be better to be worth it.
Transfer only where there are sources."""
COSTLY = ("gcn",)
"""Kinds that take long. They are tried on half as many rows, and stay only if they are as good as the best even so."""
TRIED_FROM, TRIED_ON, JUDGED_BY = 60, 300, 1000
"""Rows from which all are tried on half of the rows first; rows of these to fit on and to judge by, at most."""
MARGIN, KEPT = 1.5, 4
"""Times the best's error that is not made good by more rows; kinds that stay."""
MANY, FOLDS = 150, 5
"""Rows from which so few folds of cross-validation are enough: with fewer rows, kinds that need many would suffer."""
PARTS = 10
"""In which the choice is repeated."""


class Auto(Regressor):
    """The default kind, or what has a smaller mean relative error for held-out rows, or a simpler kind as good.

    With 60 rows or more, all are fitted on half of them (300 at most) and judged by the others; the default stays, and
    the best four, unless their error is half as much again as the best one's. These then predict every row without
    having seen it (see `cross_validation`), and `choice.best_of` decides. Kinds that take long are held to more (see
    `COSTLY`), and have no part where rows are fewer.

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
        sources = any(name.startswith(SOURCE) for name in rows.names)
        few, default = len(y) < TRIED_FROM, Transfer.kind if sources else DEFAULT_KIND
        unfit = {*(() if sources else (Transfer.kind,)), *(COSTLY if few else ())}
        kinds = [kind for kind in self.candidates if kind not in unfit]
        seeds = dict(zip(kinds, rng.integers(2**63, size=len(kinds)).tolist(), strict=True))
        tried = _first_trial(rows, y, seeds, rng)
        most = FOLDS if len(y) >= MANY else None
        found: dict[str, tuple[Regressor, Vector]] = {}
        for kind in _promising(tried, default):
            try:
                found[kind] = held_out(regressor_type(kind), rows, y, np.random.default_rng(seeds[kind]), most=most)
            except PredictorError as error:
                tried[kind] = Tried(kind, failed=str(error))
        if not found:
            raise PredictorError("; ".join(f"{t.kind} cannot be fitted: {t.failed}" for t in tried.values()))
        errors = {kind: np.abs(out / y - 1) for kind, (_, out) in found.items()}
        tried |= {kind: Tried.of(kind, own, len(y), tried[kind].first) for kind, own in errors.items()}
        self.choice = chosen(errors, default, list(tried.values()))
        self.chosen = found[self.choice.kind][0]
        self.held_out = np.empty(len(y))
        for own in folds(len(y), PARTS, rng):
            rest = np.setdiff1d(np.arange(len(y)), own)
            kind = best_of({name: e[rest] for name, e in errors.items()}, default)
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


def _first_trial(rows: Rows, y: Vector, seeds: Mapping[str, int], rng: np.random.Generator) -> dict[str, Tried]:
    """How each kind does on some of the rows; nothing is known of them where rows are few."""
    if len(y) < TRIED_FROM:
        return {kind: Tried(kind) for kind in seeds}
    order = rng.permutation(len(y))
    some, others = order[: min(len(y) // 2, TRIED_ON)], order[len(y) // 2 :][:JUDGED_BY]
    found = {}
    for kind, seed in seeds.items():
        own = some[: len(some) // 2] if kind in COSTLY else some
        try:
            fitted = regressor_type(kind)().fit(rows.take(own), y[own], np.random.default_rng(seed))
        except PredictorError as error:
            found[kind] = Tried(kind, failed=str(error))
        else:
            errors = np.abs(fitted.predict(rows.take(others)) / y[others] - 1)
            found[kind] = Tried.of(kind, errors, len(own), float(100 * errors.mean()))
    return found


def _promising(tried: Mapping[str, Tried], default: str) -> list[str]:
    """The kinds that are worth fitting on all rows."""
    first = {kind: t.first for kind, t in tried.items() if t.first is not None}
    if not first:
        return [kind for kind, t in tried.items() if not t.failed]
    ranked = sorted(first, key=lambda kind: first[kind])
    near = [kind for kind in ranked[:KEPT] if first[kind] <= (1 if kind in COSTLY else MARGIN) * first[ranked[0]]]
    return [kind for kind in first if kind in near or kind == default]
