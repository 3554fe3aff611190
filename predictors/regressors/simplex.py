"""Weights of predictions that are averaged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 8
SUM = 1e4
"""How much the sum of the weights being 1 counts."""


def simplex_weights(residuals: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """(M,) weights >= 0 of sum 1 for which the weighted sum of (N, M) residuals is small, in robust squares.

    Args:
        ridge: the larger, the more alike the weights.
    """
    from scipy.optimize import nnls

    n, m = residuals.shape
    weights = np.full(m, 1 / m)
    usual = np.median(np.abs(residuals))
    for _ in range(STEPS):
        left = np.abs(residuals @ weights)
        scale = np.median(left) + 1e-9
        counts = 1 / np.sqrt(np.maximum(left, 0.5 * scale) * scale)
        system = [residuals * counts[:, None], np.sqrt(ridge * n) * usual / scale * np.eye(m), np.full((1, m), SUM)]
        found, _ = nnls(np.concatenate(system), np.concatenate([np.zeros(n + m), [SUM]]))
        weights = found / found.sum()
    return weights
