"""What algorithms that score whole networks keep of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..spaces.encoding import Codes
from .algorithm import Task
from .derive import Derived
from .objective import LOW, Objective


class Sampled:
    """Networks in the order in which they were scored, none of them twice.

    Args:
        decisions: of the space.

    Attributes:
        codes: (N, decisions) canonical.
        ratio: (N,) latency / target; NaN where latency plays no part.
        worth: (N,) rewards.
    """

    def __init__(self, decisions: int) -> None:
        self.codes: Codes = np.empty((0, decisions), np.int16)
        self.ratio: NDArray[np.float64] = np.empty(0)
        self.worth: NDArray[np.float64] = np.empty(0)
        self._index: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.codes)

    def find(self, codes: Codes) -> NDArray[np.intp]:
        """(N,) numbers of the networks, -1 for those that are not there."""
        return np.array([self._index.get(key, -1) for key in _keys(codes)], np.intp)

    def add(self, codes: Codes, ratio: NDArray[np.float64] | None, worth: NDArray[np.float64]) -> None:
        """Keep new networks: (N, decisions), (N,) and (N,)."""
        ratio = np.full(len(codes), np.nan) if ratio is None else ratio
        start = len(self.codes)
        self.codes = np.concatenate([self.codes, np.asarray(codes, np.int16)])
        self.ratio = np.concatenate([self.ratio, ratio])
        self.worth = np.concatenate([self.worth, worth])
        self._index |= {key: start + i for i, key in enumerate(_keys(codes))}

    def order(self, value: NDArray[np.float64], objective: Objective) -> NDArray[np.intp]:
        """Numbers of the networks that the objective accepts by falling `value`, of equal ones the first scored first.

        Where it accepts none, of all networks, those nearest to the target first.
        """
        accepted = np.flatnonzero(objective.accepts(self.ratio))
        if len(accepted):
            return np.asarray(accepted[np.argsort(-value[accepted], kind="stable")])
        low = 0.0 if objective.rule == "limit" else LOW
        return np.lexsort((-value, np.maximum(self.ratio - 1, 0) + np.maximum(low - self.ratio, 0)))

    def derived(self, number: int, log_probability: float) -> Derived:
        """One of the networks as a result."""
        ratio = float(self.ratio[number])
        return Derived(self.codes[number], log_probability, None if np.isnan(ratio) else ratio)

    def state(self) -> dict[str, Any]:
        """As tensors."""
        arrays: dict[str, np.ndarray] = {"codes": self.codes, "ratio": self.ratio, "worth": self.worth}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.codes = state["codes"].numpy().copy()
        self.ratio = state["ratio"].numpy().copy()
        self.worth = state["worth"].numpy().copy()
        self._index = {key: i for i, key in enumerate(_keys(self.codes))}


def distinct(codes: Codes) -> tuple[Codes, NDArray[np.intp]]:
    """The different rows, in the order in which they first occur, and for each row its number among them."""
    numbers: dict[bytes, int] = {}
    each = np.array([numbers.setdefault(key, len(numbers)) for key in _keys(codes)], np.intp)
    return codes[np.unique(each, return_index=True)[1]], each


def accuracies(task: Task, codes: Codes) -> NDArray[np.float64]:
    """(N,) from the task; a network that cannot be scored (NaN) counts as never right."""
    found = np.asarray(task.accuracy(codes), float)
    return np.where(np.isnan(found), 0.0, found)


def _keys(codes: Codes) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(codes, np.int16)]
