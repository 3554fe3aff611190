"""What a search says of itself while it goes on: lines for the metrics, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .algorithm import Algorithm
from .alpha import normalised_entropy

COLLAPSED = 0.1
"""Mean normalised entropy below which choices count as settled."""
SETTLED = "choices settled"


class Log(Protocol):
    """Where records go (see `run.RunFolder`)."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Keep one more."""

    def position(self) -> int:
        """How much is kept."""

    def truncate(self, position: int) -> None:
        """Forget what came after."""


class Recorder:
    """Collects losses between two records; the device is asked for their sum only then.

    Attributes:
        warnings: what the user should know.
        updated: what the last architecture update said.
    """

    def __init__(self, log: Log | None, device: torch.device) -> None:
        self.log = log
        self.warnings: list[str] = []
        self.updated: dict[str, float] = {}
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._count = 0

    def add(self, loss: Tensor) -> None:
        """One weight step's loss."""
        self._sum += loss.detach()
        self._count += 1

    def record(self, algorithm: Algorithm, position: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Write a line: mean loss since the last one, probabilities, entropy, expected latency."""
        loss = float(self._sum) / self._count if self._count else None
        self._sum.zero_()
        self._count = 0
        if self.log is None:
            return
        probabilities = algorithm.probabilities()
        self.log.log(
            {
                **position,
                "loss": loss,
                **({"update": self.updated} if self.updated else {}),
                "probabilities": [p.tolist() for p in probabilities],
                "entropy": normalised_entropy(probabilities),
                "expected": algorithm.objective.log(probabilities),
                **more,
            }
        )

    def warn_of_settling(self, algorithm: Algorithm, update: int) -> None:
        """Once, where choices have settled before a third of the updates."""
        share = update / max(algorithm.budget.updates, 1)
        if not 0 < share < 1 / 3 or any(warning.startswith(SETTLED) for warning in self.warnings):
            return
        if np.mean(normalised_entropy(algorithm.probabilities())) < COLLAPSED:
            self.warnings.append(
                f"{SETTLED} after {100 * share:.0f} % of the updates (mean normalised entropy below "
                f"{COLLAPSED}): a smaller architecture learning rate, or a longer warm-up, lets them compete longer"
            )

    def state(self) -> dict[str, Any]:
        return {
            "metrics": self.log.position() if self.log is not None else 0,
            "sum": self._sum.cpu(),
            "count": self._count,
            "updated": self.updated,
            "warnings": self.warnings,
        }

    def load_state(self, state: Mapping[str, Any], *, truncate: bool = True) -> None:
        """Go on from what `state` gave; what was logged since is forgotten, unless it is of what comes after."""
        self._sum.copy_(state["sum"])
        self._count, self.updated = state["count"], dict(state["updated"])
        self.warnings = list(state["warnings"])
        if self.log is not None and truncate:
            self.log.truncate(state["metrics"])
