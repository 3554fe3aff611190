"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listens to long work."""

    def step(self, name: str, done: float, total: float) -> None:
        """Step `name` has done so much of `total`; a new name begins a new step."""


class Silent:
    """Nobody listens."""

    def step(self, name: str, done: float, total: float) -> None:
        return
