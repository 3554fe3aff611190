"""Predictions of rows by regressors that have not seen them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...profiler.progress import Progress, Silent
from ..conformal import folds
from .base import Regressor, Rows


def held_out(
    made: type[Regressor],
    rows: Rows,
    y: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    most: int | None = None,
    progress: Progress | None = None,
) -> tuple[Regressor, NDArray[np.float64]]:
    """A regressor fitted on all rows, and (N,) predictions of each row by one that has not seen it.

    The latter are the regressor's own where it comes by them and is believed (see `Regressor.own_from`), else those of
    cross-validation.

    Args:
        most: folds at most.
    """
    progress = progress or Silent()
    progress.step("fit", 0, 1)
    fitted = made().fit(rows, y, rng)
    progress.step("fit", 1, 1)
    if fitted.held_out is not None and len(y) >= made.own_from:
        return fitted, fitted.held_out
    out = np.empty(len(y))
    parts = folds(len(y), min(made.folds, most or made.folds), rng)
    for i, part in enumerate(parts):
        progress.step("cross-validation", i, len(parts))
        rest = np.setdiff1d(np.arange(len(y)), part)
        out[part] = made().fit(rows.take(rest), y[rest], rng).predict(rows.take(part))
    progress.step("cross-validation", len(parts), len(parts))
    return fitted, out
