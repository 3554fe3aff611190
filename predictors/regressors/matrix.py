"""Rows as one dense matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import Arrays, Rows

Matrix = NDArray[np.float64]


def one_hot(rows: Rows) -> Matrix:
    """(N, sum of sizes) 1 where a row has the category; a column that it has none in is all 0."""
    starts = np.cumsum([0, *rows.sizes])
    width = int(starts[-1])
    hot = np.zeros((len(rows), width + 1))  # the last column takes the rows that have no category
    places = np.where(rows.choices < 0, width, rows.choices + starts[:-1]) + np.arange(len(rows))[:, None] * (width + 1)
    hot.ravel()[places] = 1
    return hot[:, :width]


def tree_matrix(rows: Rows) -> NDArray[np.float32]:
    """(N, columns) for learners by thresholds: category numbers, the same one-hot, then the numeric columns."""
    parts: list[np.ndarray] = [rows.choices, one_hot(rows), rows.numeric]
    return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")


@dataclass(frozen=True, eq=False)
class Standard:
    """Columns shifted and scaled to mean 0 and deviation 1; those that do not vary become 0.

    Attributes:
        mean, scale: (columns,) of the matrix it was made from; scale is 0 where a column did not vary.
    """

    mean: Matrix
    scale: Matrix

    @classmethod
    def of(cls, matrix: Matrix) -> Standard:
        """From the (N, columns) matrix to be fitted on."""
        deviation = matrix.std(axis=0)
        varies = deviation > 1e-9 * np.maximum(np.abs(matrix).max(axis=0, initial=0), 1e-30)
        return cls(matrix.mean(axis=0), np.where(varies, 1 / np.where(varies, deviation, 1), 0.0))

    def __call__(self, matrix: Matrix) -> Matrix:
        return (matrix - self.mean) * self.scale

    def arrays(self) -> Arrays:
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Standard:
        return cls(np.asarray(arrays["mean"], float), np.asarray(arrays["scale"], float))


def dense(rows: Rows) -> Matrix:
    """(N, columns) for learners by distance or weight: one-hot, then the numeric columns; to be standardised."""
    return np.concatenate([one_hot(rows), rows.numeric], axis=1)
