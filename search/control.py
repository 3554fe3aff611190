"""A PI controller whose output is the multiplier of latency, for where the expected latency cannot be solved for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLIP = 0.05
"""Misses count up to this, so that the first ones, far from the target, do not decide the scale of Adam's steps."""
DEAD = 0.01
"""Misses below are no reason to raise the gain."""
FLOOR, TOP = 1e-3, 1e4
"""Of the gain, relative to where it began."""


@dataclass
class Controller:
    """multiplier = gain * e + integral, where e = ratio - 1 and each step adds share * gain * e to the integral.

    How large latency's gradient must be to matter depends on that of the loss, which differs by orders of magnitude.
    So the gain grows while a miss neither shrinks nor changes sides, and falls when it changes sides.

    Attributes:
        gain, share: see above.
        grow, fall: factors of the gain; 1: it is fixed.
        positive: the multiplier is never negative (an upper limit).
    """

    gain: float
    share: float
    grow: float = 1.0
    fall: float = 1.0
    positive: bool = False

    def __post_init__(self) -> None:
        self._begun = self.gain
        self._integral = 0.0
        self._miss = 0.0
        self.multiplier = 0.0

    def observe(self, ratio: float) -> None:
        """Tell latency / target after an update."""
        miss = ratio - 1
        if miss * self._miss < 0:
            self.gain *= self.fall
        elif abs(miss) > max(DEAD, 0.98 * abs(self._miss)) and (miss > 0 or not self.positive):
            self.gain *= self.grow
        self.gain = min(max(self.gain, FLOOR * self._begun), TOP * self._begun)
        self._miss = miss
        clipped = min(max(miss, -CLIP), CLIP)
        self._integral += self.share * self.gain * clipped
        self.multiplier = self.gain * clipped + self._integral
        if self.positive:
            self._integral, self.multiplier = max(self._integral, 0.0), max(self.multiplier, 0.0)

    def state(self) -> dict[str, float]:
        """All that changes."""
        return {
            "gain": self.gain,
            "integral": self._integral,
            "miss": self._miss,
            "multiplier": self.multiplier,
        }

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self.gain, self._integral = float(state["gain"]), float(state["integral"])
        self._miss, self.multiplier = float(state["miss"]), float(state["multiplier"])
