"""Boosted trees on the logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Meta, Regressor, Rows, State
from .matrix import tree_matrix
from .trees import Trees

HELD = 0.3
"""Share of the rows on which it is tried how many trees are enough."""


class BoostedTrees(Regressor):
    """Gradient boosting of small regression trees on log y (Friedman, 2001 and 2002), by scikit-learn.

    Args:
        trees: how many. rate: share of each. leaves: of each; up to 8 are fast to evaluate.
        rows: share of the rows that each sees.
        stop: grow only so many as do well on rows that are held out for that; perhaps none.
    """

    kind: ClassVar[str] = "gbdt"

    def __init__(
        self, *, trees: int = 500, rate: float = 0.06, leaves: int = 8, rows: float = 0.7, stop: bool = False
    ) -> None:
        self.stop = stop
        self.settings: Meta = {
            "n_estimators": trees,
            "learning_rate": rate,
            "max_leaf_nodes": leaves,
            "subsample": rows,
        }

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        return self.fit_log(rows, np.log(y), rng)

    def fit_log(self, rows: Rows, target: NDArray[np.float64], rng: np.random.Generator) -> Self:
        """Learn (N,) logarithms."""
        matrix = tree_matrix(rows)
        seed = int(rng.integers(2**31))
        kept = self._enough(matrix, target, seed, rng) if self.stop else self.settings["n_estimators"]
        model = self._grown(matrix, target, seed, kept)
        rate = self.settings["learning_rate"]
        start = float(np.ravel(model.init_.predict(matrix[:1]))[0])
        self.width = matrix.shape[1]
        self.trees = Trees.grown([tree.tree_ for tree in model.estimators_[:kept, 0]], scale=rate, constant=start)
        return self

    def _grown(self, matrix: np.ndarray, target: np.ndarray, seed: int, trees: int) -> Any:
        from sklearn.ensemble import GradientBoostingRegressor

        leaf = min(5, len(target) // 8 + 1)
        settings = {**self.settings, "n_estimators": max(trees, 1), "max_depth": None}
        made = GradientBoostingRegressor(**settings, max_features=0.3, min_samples_leaf=leaf, random_state=seed)
        return made.fit(matrix, target)

    def _enough(self, matrix: np.ndarray, target: np.ndarray, seed: int, rng: np.random.Generator) -> int:
        """The number of trees with the smallest absolute error on rows that were held out; perhaps none."""
        order = rng.permutation(len(target))
        held, rest = np.split(order, [int(HELD * len(target))])
        model = self._grown(matrix[rest], target[rest], seed, self.settings["n_estimators"])
        stages = [np.full(len(held), target[rest].mean()), *model.staged_predict(matrix[held])]
        return int(np.argmin([np.abs(stage - target[held]).mean() for stage in stages]))

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        return np.exp(self.predict_log(rows))

    def predict_log(self, rows: Rows) -> NDArray[np.float64]:
        """(N,) logarithms."""
        return self.trees.predict(tree_matrix(rows))

    def state(self) -> State:
        return {"settings": self.settings, "width": self.width}, self.trees.arrays()

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.settings, self.width = dict(meta["settings"]), int(meta["width"])
        self.trees = Trees.from_arrays(arrays, self.width)
        return self
