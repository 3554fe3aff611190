"""The upper end of a predictor's interval as a predictor: what a hard limit is held against."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..profiler.additive import AdditiveModel
from ..spaces.space import SearchSpace
from .base import Origin, Predictor, PredictorError
from .control import additive_control
from .lut import LutPredictor


class UpperEnd(Predictor):
    """What a measurement exceeds with probability (1 - coverage) / 2.

    Args:
        predictor: whose intervals.
        coverage: of both ends, between 0 and 1.

    Raises:
        PredictorError: no such coverage, or a predictor that measures and so has no intervals beforehand.
    """

    kind: ClassVar[str] = "upper end"

    def __init__(self, predictor: Predictor, coverage: float) -> None:
        super().__init__(predictor.space, predictor.unit)
        if not 0 < coverage < 1:
            raise PredictorError(f"coverage must be between 0 and 1, not {coverage:g}")
        if predictor.measures:
            raise PredictorError("latency that is measured has no interval beforehand: leave out the coverage")
        self.predictor = predictor
        self.coverage = coverage

    def predict_codes(self, codes: np.ndarray) -> NDArray[np.float64]:
        return self.predictor.ends(codes, self.coverage)[:, 1]

    def spread(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        return np.zeros(len(codes))

    @property
    def origin(self) -> Origin | None:
        return self.predictor.origin

    @cached_property
    def additive(self) -> AdditiveModel | None:
        """A table's intervals are as wide everywhere, as a share of the latency."""
        if not isinstance(self.predictor, LutPredictor):
            return None
        return self.predictor.model.scaled(1 + self.predictor.relative_spread(self.coverage), 0.0)

    @cached_property
    def control(self) -> AdditiveModel:
        return additive_control(self)

    def save(self, path: str | Path) -> None:
        raise PredictorError("the end of an interval is not kept in a file of its own: keep the predictor")

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Self:
        raise PredictorError("the end of an interval is not kept in a file of its own: load the predictor")
