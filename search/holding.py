"""Holding the expected latency: what is subtracted from the architecture parameters, by estimates that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .goals import Latency
from .tilt import Tilt, softmax, solve

FOLLOWS = 4
"""Times in a row that expectations are estimated anew, at most: the first tilt may lead far away."""


class Holding:
    """The tilt (see `tilt`) of architecture parameters.

    Args:
        latency: the goals.
        tilts: hold it; otherwise only its estimates follow. limit: it may be below the target.

    Attributes:
        tilt: the last one.
    """

    def __init__(self, latency: Latency, *, tilts: bool, limit: bool) -> None:
        self.latency, self.tilts, self.limit = latency, tilts, limit
        self.tilt: Tilt | None = None
        self._followed: list[float] | None = None

    def shift(self, alphas: np.ndarray) -> NDArray[np.float64]:
        """(candidates,) what to subtract from all alphas in a row; 0 without a tilt.

        The estimates are made near where that leads. They follow only alphas that are not the last ones: what a
        resumed search asks first, it has asked before.
        """
        new = bool(self.latency.near) and alphas.tolist() != self._followed
        shift = self._solved(alphas)
        for _ in range(FOLLOWS if new else 0):
            probabilities = self.latency.ratios.split(softmax(self._padded(alphas - shift)))
            if not self.latency.follow(probabilities, smooth=self.tilts):
                break
            shift = self._solved(alphas)
        self._followed = alphas.tolist() if self.latency.near else None
        return shift

    def state(self) -> dict[str, Any]:
        """What the next shift depends on."""
        return {"estimates": self.latency.state(), "followed": self._followed}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.latency.load_state(state["estimates"])
        self._followed = state["followed"]

    # -- inside

    def _solved(self, alphas: np.ndarray) -> NDArray[np.float64]:
        """By the expectations as they stand."""
        if not self.tilts:
            return np.zeros(len(alphas))
        ratios = self.latency.ratios
        self.tilt = solve(ratios, self._padded(alphas), limit=self.limit, ends=lambda: self.latency.range()[2:])
        return np.asarray(self.tilt.shift[ratios.mask])

    def _padded(self, alphas: np.ndarray) -> NDArray[np.float64]:
        """(decisions, candidates), -inf where there is none."""
        mask = self.latency.ratios.mask
        logits = np.full(mask.shape, -np.inf)
        logits[mask] = alphas
        return logits
