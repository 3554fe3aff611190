"""The contract of a search algorithm: where paths are drawn from, one architecture update, and the networks found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .objective import Objective

if TYPE_CHECKING:
    from .derive import Derived
    from .gates import GateRequest, GateResult


class SearchError(HwnasError):
    """A search that cannot begin or go on."""


class Task(Protocol):
    """What an algorithm may ask of the data and the supernet."""

    def accuracy(self, codes: Codes) -> NDArray[np.float64]:
        """(N,) share of right answers (0 to 1) of encoded architectures, all on the same held-out batch."""

    def gates(self, request: GateRequest) -> GateResult:
        """Loss on a held-out batch and its derivative with respect to the gates (see `gates`)."""


@dataclass(frozen=True)
class Budget:
    """How long a search will be, for schedules.

    Attributes:
        updates: architecture updates in all.
    """

    updates: int


class Algorithm(ABC):
    """Finds architectures of a space. The same seed and the same answers give the same search.

    Attributes:
        name: in the registry.
        after_training: its updates come when the weights are trained, and all see the same images, so that scores can
            be compared; otherwise updates and weight steps take turns.
        settings_type: of an algorithm from elsewhere, which begins with its defaults; needs `updates` where
            `after_training` is true.

    Args:
        space: where to search.
        objective: what accuracy and latency are worth.
        settings: this algorithm's own (see `settings`).
        budget: how long the search will be.
        seed: of every draw. Draws are made from a generator of (seed, update), so that a resumed search needs no more
            than `state`.
    """

    name: ClassVar[str]
    after_training: ClassVar[bool] = False
    settings_type: ClassVar[type | None] = None

    def __init__(self, space: SearchSpace, objective: Objective, settings: Any, budget: Budget, seed: int) -> None:
        self.space = space
        self.objective = objective
        self.settings = settings
        self.budget = budget
        self.seed = seed

    @abstractmethod
    def probabilities(self) -> list[NDArray[np.float64]]:
        """One vector a decision: from what weight steps draw their paths."""

    @abstractmethod
    def update(self, task: Task, step: int) -> Mapping[str, float]:
        """Make architecture update number `step` (from 0); returns what is worth logging."""

    @abstractmethod
    def ranked(self, n: int) -> Sequence[Derived]:
        """The n best networks that the objective accepts, best first; deterministic."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that changes: tensors, numbers, texts, lists and dicts of them."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
