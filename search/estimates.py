"""Expectations that are estimated, and kept while a search stays near where that was done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..predictors.base import Predictor, PredictorError
from ..predictors.expectation import Estimate
from ..profiler.additive import AdditiveModel

REACH = 0.1
"""An estimate is kept until more than this share of some choice's draws has fallen to other candidates. On spaces of 6
and 21 choices value and derivatives were then off by up to 0.25 % of the latency with fitted predictors, and by up to
0.6 % where 10 % of the latency hangs on pairs of choices; the tests allow 1 %. A whole search takes 10 to 40
estimates, whatever its length."""
PRECISION = 1e-3
"""Standard error of the value, as a share of it, at which fewer samples do."""


class Near:
    """The expected latency of a predictor without a closed form, near where a search is: an additive model.

    It begins at uniform probabilities.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._estimate: Estimate | None = None

    @property
    def estimate(self) -> Estimate:
        """The one in use; raises PredictorError where it is no number."""
        if self._estimate is None:
            self._estimate = self._made([np.full(len(d), 1 / len(d)) for d in self.predictor.space.decisions])
        return self._estimate

    def follow(self, probabilities: Sequence[np.ndarray], *, smooth: bool) -> bool:
        """Estimate anew where the probabilities have moved by more than `REACH`; tells whether they had.

        Args:
            smooth: average the slopes with those before. Probabilities that are tilted to a target follow the slopes,
                and where choices have settled by much: they would go to and fro between two of their own makings.
        """
        before = self.estimate
        if before.moved(probabilities) <= REACH:
            return False
        found = self._made(probabilities)
        self._estimate = found.after(before) if smooth else found
        return True

    def _made(self, at: Sequence[np.ndarray]) -> Estimate:
        found = self.predictor.expectation.estimate(at, precision=PRECISION)
        if not math.isfinite(value := found.expected(at)):
            raise PredictorError(f"{self.predictor!r} gives an expected latency of {value}: it cannot be searched with")
        return found

    def expected(self, probabilities: Sequence[Any]) -> Any:
        """As `Predictor.expected`."""
        return self.estimate.expected(probabilities)

    @property
    def additive(self) -> AdditiveModel:
        """As `Predictor.additive`."""
        return self.estimate.additive

    def state(self) -> dict[str, Any] | None:
        """The estimate's numbers, so that none has to be made again."""
        return None if self._estimate is None else self._estimate.state()

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """The inverse of `state`."""
        control = self.predictor.expectation.control
        self._estimate = None if state is None else Estimate.from_state(state, control)
