"""When a search does what: its phases, and how many architecture updates they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .algorithm import Algorithm
from .settings import SearchSettings
from .training import cosine


@dataclass(frozen=True)
class Phase:
    """A part of the search with a cosine of its own.

    Attributes:
        name: "warmup" or "search".
        epochs: passes over the data. lr: of the weights, at its start.
        first_epoch: number of its first pass. batches: in a pass.
        updates: whether there are architecture updates.
    """

    name: str
    epochs: int
    lr: float
    first_epoch: int
    batches: int
    updates: bool

    @property
    def steps(self) -> int:
        """Weight steps in it."""
        return self.epochs * self.batches

    def rate(self, step: int) -> float:
        """Learning rate of weight step number `step` of the phase."""
        return cosine(self.lr, step, self.steps)


def phases(settings: SearchSettings, batches: int, algorithm: type[Algorithm]) -> tuple[Phase, ...]:
    """The phases of a search with so many batches in an epoch."""
    warm, weights = settings.warmup_epochs, settings.weights
    return (
        Phase("warmup", warm, settings.warmup_lr, 0, batches, False),
        Phase("search", weights.epochs, weights.lr, warm, batches, not algorithm.after_training),
    )


def updates_after(settings: SearchSettings, phase: Phase, step: int) -> int:
    """Architecture updates that follow weight step number `step` of the phase."""
    early = settings.skip_first_epoch and step < phase.batches
    return settings.steps if phase.updates and not early and (step + 1) % settings.every == 0 else 0


def planned_updates(settings: SearchSettings, batches: int, algorithm: type[Algorithm], own: Any) -> int:
    """Architecture updates of a whole search.

    Args:
        batches: in an epoch.
        own: the algorithm's own settings.
    """
    if algorithm.after_training:
        return int(own.updates)
    phase = phases(settings, batches, algorithm)[-1]
    skipped = phase.batches if settings.skip_first_epoch else 0
    return max(0, phase.steps // settings.every - skipped // settings.every) * settings.steps
