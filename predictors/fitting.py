"""Fitting a regressor of any kind: checks of the data, cross-validation, intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..profiler.metrics import Errors, errors
from ..profiler.progress import Progress
from .base import PredictorError
from .conformal import Conformal
from .regressors.base import Regressor, Rows, State, nested, part
from .regressors.choice import Choice
from .regressors.cross_validation import held_out
from .regressors.registry import regressor_type
from .threads import one_thread, shared_out

CHUNK = 8192
"""Rows predicted at a time."""
FEW = 5
"""Rows from which their latencies must differ; fewer can still say how large others' latencies are here."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A regressor, what cross-validation says of it, and its intervals.

    Attributes:
        kind, regressor: fitted on all rows.
        layout: of the rows (see `Rows.layout`).
        conformal: intervals.
        error: of the predictions for rows that were held out in cross-validation.
    """

    kind: str
    regressor: Regressor
    layout: tuple[tuple[int, ...], tuple[str, ...]]
    conformal: Conformal
    error: Errors

    @property
    def choice(self) -> Choice | None:
        """What the regressor chose among other kinds; None where it is of one kind."""
        return self.regressor.choice

    @property
    def chosen(self) -> str:
        """The kind that predicts."""
        return self.kind if self.choice is None else self.choice.kind

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """(N,) positive.

        Raises:
            PredictorError: rows with other columns or categories than those it was fitted on.
        """
        check_rows(rows, self.layout)
        blocks = shared_out(self.regressor.predict, _chunks(rows))
        return np.concatenate(blocks) if blocks else np.empty(0)

    def factors(self, rows: Rows, coverage: float) -> NDArray[np.float64]:
        """(N, 2) by which predictions are multiplied to get the ends of their intervals; raises as `predict`."""
        check_rows(rows, self.layout)
        blocks = shared_out(lambda own: self.conformal.factors(own, coverage), _chunks(rows))
        return np.concatenate(blocks) if blocks else np.empty((0, 2))

    def half_width(self, rows: Rows, coverage: float) -> NDArray[np.float64]:
        """(N,) half the distance of the interval's ends as a share of the prediction; raises as `predict`."""
        return np.asarray(np.ptp(self.factors(rows, coverage), axis=1) / 2)

    def state(self) -> State:
        """Everything as JSON data and arrays."""
        meta, arrays = nested({"regressor": self.regressor.state(), "conformal": self.conformal.state()})
        about = {"kind": self.kind, "sizes": list(self.layout[0]), "names": list(self.layout[1])}
        return {**meta, **about, "error": self.error.as_dict()}, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Fitted:
        """The inverse of `state`; raises KeyError, TypeError or ValueError for damaged data."""
        kind = str(meta["kind"])
        regressor = regressor_type(kind).from_state(*part("regressor", meta, arrays))
        conformal = Conformal.from_state(*part("conformal", meta, arrays))
        layout = tuple(int(n) for n in meta["sizes"]), tuple(str(name) for name in meta["names"])
        known: dict[str, Any] = {n: float("nan") if v is None else float(v) for n, v in meta["error"].items()}
        return cls(kind, regressor, layout, conformal, Errors(**{**known, "n": int(known["n"])}))


@one_thread()
def fit_regressor(
    kind: str,
    rows: Rows,
    y: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    judges: NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a kind on all rows, and in cross-validation for its error and intervals.

    Args:
        y: (N,) latencies.
        judges: (N,) rows from which error and intervals are taken; None: from all.

    Raises:
        PredictorError: no such kind, or data it cannot be fitted on (see `check_training`).
    """
    made = regressor_type(kind)
    check_training(kind, rows, y)
    if not len(y):  # only a kind that learns from elsewhere comes here, and how far off it is nobody knows
        known, unknown = Conformal(np.array([-np.inf, np.inf])), [float("nan")] * (len(fields(Errors)) - 1)
        return Fitted(kind, made().fit(rows, y, rng), rows.layout, known, Errors(0, *unknown))
    regressor, out = held_out(made, rows, y, rng, progress=progress)
    if judges is None:
        judges = np.ones(len(y), bool)
    seen, out, y = rows.take(judges), out[judges], y[judges]
    return Fitted(kind, regressor, rows.layout, Conformal.of(seen, y / out - 1, rng), errors(out, y))


def check_number(kind: str, n: int) -> None:
    """Raise PredictorError for fewer networks than the kind can be fitted on; may be called before any is measured."""
    least = regressor_type(kind).min_rows
    if n < least:
        raise PredictorError(f"a predictor of kind {kind!r} needs at least {least} measured networks, not {n}")


def check_training(kind: str, rows: Rows, y: NDArray[np.float64]) -> None:
    """Raise PredictorError for data that no regressor of the kind can be fitted on."""
    check_number(kind, len(y))
    if not (np.isfinite(y) & (y > 0)).all():
        wrong = y[~(np.isfinite(y) & (y > 0))]
        raise PredictorError(f"{len(wrong)} of {len(y)} latencies are not positive numbers, such as {wrong[0]:g}")
    if len(y) >= FEW and np.ptp(y) == 0:
        raise PredictorError(f"all {len(y)} networks have the same latency {y[0]:g}: there is nothing to learn")
    check_rows(rows, rows.layout)


def check_rows(rows: Rows, layout: tuple[tuple[int, ...], tuple[str, ...]]) -> None:
    """Raise PredictorError unless the rows have this layout, known categories and finite numbers."""
    if rows.layout != layout:
        raise PredictorError(
            f"the rows have {len(rows.sizes)} choices and {len(rows.names)} numbers of another kind than the "
            f"{len(layout[0])} and {len(layout[1])} that the predictor was fitted on"
        )
    sizes = np.array(layout[0], int)
    wrong = (rows.choices >= sizes) | (rows.choices < -1)
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        name = rows.labels[j] if rows.labels else f"number {j}"
        raise PredictorError(f"choice {name!r} has {sizes[j]} categories, row {i} has number {rows.choices[i, j]}")
    if not np.isfinite(rows.numeric).all():
        i, j = np.argwhere(~np.isfinite(rows.numeric))[0]
        raise PredictorError(f"column {rows.names[j]!r} is {rows.numeric[i, j]} in row {i}: it must be a finite number")


def aggregate(
    codes: np.ndarray, y: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """Equal rows as one, with the median of their latencies.

    Args:
        codes: (N, columns).

    Returns:
        first occurrence of each different row in order (M,), its latency (M,), and which of them each row is (N,).
    """
    _, first, back = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    back, first = place[back.ravel()], first[order]
    latency = y[first].astype(float)
    counts = np.bincount(back, minlength=len(first))
    for i in np.flatnonzero(counts > 1):
        latency[i] = np.median(y[back == i])
    return first, latency, back


def fingerprint(codes: np.ndarray, y: NDArray[np.float64]) -> str:
    """Digest of training data, whatever the order of the rows."""
    order = np.lexsort((y, *codes.T))
    digest = hashlib.sha256(np.ascontiguousarray(codes[order], np.int64).tobytes())
    digest.update(np.ascontiguousarray(y[order], np.float64).tobytes())
    return digest.hexdigest()[:16]


def _chunks(rows: Rows) -> list[Rows]:
    return [rows.take(slice(i, i + CHUNK)) for i in range(0, len(rows), CHUNK)]
