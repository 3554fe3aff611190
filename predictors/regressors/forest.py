"""A random forest on the logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Meta, Regressor, Rows, State
from .matrix import tree_matrix
from .trees import Trees


class RandomForest(Regressor):
    """The mean of deep trees on resampled rows (Breiman, 2001), of log y, by scikit-learn.

    Args:
        trees: how many. columns: share of the columns tried for each split. leaf: fewest rows in a leaf.
    """

    kind: ClassVar[str] = "random-forest"

    def __init__(self, *, trees: int = 200, columns: float = 0.4, leaf: int = 1) -> None:
        self.settings: Meta = {"n_estimators": trees, "max_features": columns, "min_samples_leaf": leaf}

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        from sklearn.ensemble import RandomForestRegressor

        matrix = tree_matrix(rows)
        model = RandomForestRegressor(**self.settings, random_state=int(rng.integers(2**31))).fit(matrix, np.log(y))
        self.width = matrix.shape[1]
        self.trees = Trees.grown([tree.tree_ for tree in model.estimators_], scale=1 / len(model.estimators_))
        return self

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        return np.exp(self.trees.predict(tree_matrix(rows)))

    def state(self) -> State:
        return {"settings": self.settings, "width": self.width}, self.trees.arrays()

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.settings, self.width = dict(meta["settings"]), int(meta["width"])
        self.trees = Trees.from_arrays(arrays, self.width)
        return self
