"""Ridge regression by relative error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
PENALTIES = 10.0 ** np.arange(-4, 2.1, 0.5)


def relative_ridge(matrix: Vector, y: Vector, noise: Vector, penalty: float | None = None) -> tuple[Vector, float]:
    """Weights b that minimise sum (matrix @ b / y - 1)^2 / noise + penalty |scaled b|^2.

    Args:
        matrix: (N, F); with a column of ones for an intercept. y: (N,) positive.
        noise: (N,) relative variance of each row.
        penalty: None: that of `PENALTIES` with the smallest leave-one-out error.

    Returns:
        (F,) weights and the penalty.
    """
    relative = matrix / y[:, None]
    scale = np.sqrt((relative**2).mean(axis=0)) + 1e-12
    root = 1 / np.sqrt(noise)
    left, values, right = np.linalg.svd(relative / scale * root[:, None], full_matrices=False)
    projected = left.T @ root
    if penalty is None:
        penalty = min(PENALTIES.tolist(), key=lambda own: _left_out(left, values, projected, root, own))
    return right.T @ (values / (values**2 + penalty) * projected) / scale, penalty


def _left_out(left: Vector, values: Vector, projected: Vector, root: Vector, penalty: float) -> float:
    """Mean square of the leave-one-out errors."""
    damped = values**2 / (values**2 + penalty)
    own = (left**2) @ damped
    return float((((root - left @ (damped * projected)) / (1 - own + 1e-9)) ** 2).mean())
