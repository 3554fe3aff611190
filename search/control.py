"""A PI controller whose output is the multiplier of latency, for where latency can only be sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLIP = 0.05
"""Misses count up to this, so that the first ones, far from the target, do not decide the scale of what follows."""


@dataclass
class Controller:
    """multiplier = gain * e + integral, where e = ratio - 1 and each step adds share * gain * e to the integral.

    Attributes:
        gain, share: see above.
        positive: the multiplier is never negative (an upper limit).
    """

    gain: float
    share: float
    positive: bool = False

    def __post_init__(self) -> None:
        self._integral = 0.0
        self.multiplier = 0.0

    def observe(self, ratio: float) -> None:
        """Tell latency / target after an update."""
        clipped = min(max(ratio - 1, -CLIP), CLIP)
        self._integral += self.share * self.gain * clipped
        self.multiplier = self.gain * clipped + self._integral
        if self.positive:
            self._integral, self.multiplier = max(self._integral, 0.0), max(self.multiplier, 0.0)

    def state(self) -> dict[str, float]:
        """All that changes."""
        return {"integral": self._integral, "multiplier": self.multiplier}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self._integral, self.multiplier = float(state["integral"]), float(state["multiplier"])
