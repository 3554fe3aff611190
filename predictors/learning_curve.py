"""How much more measuring would help: the error over the number of measured networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..profiler.metrics import errors
from ..profiler.progress import Progress, Silent
from .regressors.base import Rows
from .regressors.registry import regressor_type
from .threads import one_thread

DRAWS = 3
"""Random parts of each size."""
STEEPEST = 2.0
"""Exponent above which a fit to three noisy points is not believed."""


@dataclass(frozen=True)
class LearningCurve:
    """Cross-validated error by the number of networks fitted on.

    Attributes:
        points: (networks, MAPE in percent), ascending.
        exponent: b of error ~ n^-b (Hestness et al., 2017), least squares in the logarithms; None for one point only.
    """

    points: tuple[tuple[int, float], ...]
    exponent: float | None

    @classmethod
    def through(cls, points: list[tuple[int, float]]) -> LearningCurve:
        """With the exponent that fits the points."""
        known = tuple(sorted(points))
        if len(known) < 2 or min(error for _, error in known) <= 0:
            return cls(known, None)
        x, y = np.log(np.array(known, float)).T
        return cls(known, float(np.clip(-np.polyfit(x, y, 1)[0], 0.0, STEEPEST)))

    def at(self, n: int) -> float | None:
        """MAPE expected with so many networks, from the last point on; the noise of the measurements not counted."""
        if self.exponent is None:
            return None
        last, error = self.points[-1]
        return error * (n / last) ** -self.exponent

    def needed(self, mape: float) -> int | None:
        """Networks with which so small an error is expected; None where more do not help."""
        if not self.exponent or not mape > 0:
            return None
        last, error = self.points[-1]
        wanted = math.log(last) + math.log(error / mape) / self.exponent
        return math.ceil(math.exp(wanted) * (1 - 1e-9)) if wanted < math.log(1e9) else None

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"points": [{"n": n, "mape": error} for n, error in self.points], "exponent": self.exponent}


@one_thread()
def learning_curve(
    kind: str,
    rows: Rows,
    y: NDArray[np.float64],
    whole: float,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> LearningCurve:
    """Fit on a quarter and on half of the rows and judge by the rest; whole is known.

    Args:
        whole: MAPE of cross-validation on all rows.
    """
    made = regressor_type(kind)
    n, progress = len(y), progress or Silent()
    points = [(round(n * (1 - 1 / min(made.folds, n))), whole)]
    sizes = [size for size in (n // 4, n // 2) if max(made.min_rows, 1) <= size < points[0][0]]
    for i, size in enumerate(sizes):
        each = []
        for draw in range(DRAWS):
            progress.step("learning curve", i * DRAWS + draw, len(sizes) * DRAWS)
            order = rng.permutation(n)
            fitted = made().fit(rows.take(order[:size]), y[order[:size]], rng)
            each.append(errors(fitted.predict(rows.take(order[size:])), y[order[size:]]).mape)
        points.append((size, float(np.mean(each))))
        progress.step("learning curve", (i + 1) * DRAWS, len(sizes) * DRAWS)
    return LearningCurve.through(points)
