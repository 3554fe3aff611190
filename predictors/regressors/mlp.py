"""Small neural networks on the logarithm."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Arrays, Meta, Regressor, Rows, State
from .matrix import Standard, dense


class Mlp(Regressor):
    """The mean of some networks of rectified layers on log y, trained by scikit-learn (L-BFGS, weight decay).

    Args:
        members: how many networks, each from another start. layers: units of each hidden layer. decay: of the weights.
        steps: of L-BFGS at most.
    """

    kind: ClassVar[str] = "mlp"
    folds: ClassVar[int] = 5

    def __init__(
        self, *, members: int = 4, layers: tuple[int, ...] = (64, 64), decay: float = 0.3, steps: int = 200
    ) -> None:
        self.settings: Meta = {"members": members, "layers": list(layers), "decay": decay, "steps": steps}

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        matrix, target = dense(rows), np.log(y)
        self.standard = Standard.of(matrix)
        self.mean, self.deviation = float(target.mean()), max(float(target.std()), 1e-9)
        points, scaled = self.standard(matrix), (target - self.mean) / self.deviation
        seeds: list[int] = rng.integers(2**31, size=int(self.settings["members"])).tolist()
        self.members = [self._trained(points, scaled, seed) for seed in seeds]
        return self

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        points = self.standard(dense(rows))
        total = np.mean([_forward(layers, points) for layers in self.members], axis=0)
        return np.asarray(np.exp(self.mean + self.deviation * total))

    def state(self) -> State:
        arrays: Arrays = self.standard.arrays()
        for m, layers in enumerate(self.members):
            for i, (weights, biases) in enumerate(layers):
                arrays |= {f"{m}.{i}.weights": weights, f"{m}.{i}.biases": biases}
        return {"settings": self.settings, "mean": self.mean, "deviation": self.deviation}, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.settings = dict(meta["settings"])
        self.mean, self.deviation = float(meta["mean"]), float(meta["deviation"])
        self.standard = Standard.from_arrays(arrays)
        depth = len(self.settings["layers"]) + 1
        self.members = [
            [(arrays[f"{m}.{i}.weights"], arrays[f"{m}.{i}.biases"]) for i in range(depth)]
            for m in range(int(self.settings["members"]))
        ]
        width = len(self.standard.mean)
        for layers in self.members:
            _check(layers, width)
        return self

    def _trained(self, points: np.ndarray, scaled: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        model = MLPRegressor(
            hidden_layer_sizes=tuple(self.settings["layers"]),
            solver="lbfgs",
            alpha=self.settings["decay"],
            max_iter=self.settings["steps"],
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is part of the plan
            model.fit(points, scaled)
        return list(zip(model.coefs_, model.intercepts_, strict=True))


def _forward(layers: list[tuple[np.ndarray, np.ndarray]], points: np.ndarray) -> np.ndarray:
    for i, (weights, biases) in enumerate(layers):
        points = (np.maximum(points, 0) if i else points) @ weights + biases
    return points[:, 0]


def _check(layers: list[tuple[np.ndarray, np.ndarray]], width: int) -> None:
    for weights, biases in layers:
        if weights.ndim != 2 or weights.shape[0] != width or biases.shape != (weights.shape[1],):
            raise ValueError("the layers do not fit each other")
        width = weights.shape[1]
    if width != 1:
        raise ValueError("the last layer has several outputs")
