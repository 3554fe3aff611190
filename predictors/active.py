"""Which networks to measure, and when enough of them are: measuring until the error is small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..profiler.metrics import Errors
from .base import PredictorError
from .learning_curve import LearningCurve
from .regressors.base import Rows
from .regressors.matrix import Standard, dense

Points = NDArray[np.float32]
FIRST, STEP = 64, 32
"""Networks before the first look at the error; more before the next one, at least."""
JUDGES = 30
"""Random networks, at least, by which the error is judged."""
BUDGET, MOST = 1000, 5000
"""Networks that are measured at most: by default, and if asked for."""
WINDOW = 1024
"""Networks among which the next one is chosen."""
LINEAR, CURVED, NOISE = 0.05, 0.1, 0.02
"""Deviations of log latency that are believed before any measurement (see `measuring_order`)."""

RULE = (
    f"judged by the random ones among the measured networks, at least {JUDGES}, each predicted without having been "
    "learned from; reached: MAPE plus its standard error is at most what was asked for"
)


@dataclass(frozen=True)
class Round:
    """What was known of the error after so many networks.

    Attributes:
        networks: that were measured. judges: the random ones among them.
        mape, mape_se: of these, each predicted by a regressor that had not seen it; percent, with standard error.
    """

    networks: int
    judges: int
    mape: float
    mape_se: float

    @classmethod
    def of(cls, networks: int, error: Errors) -> Self:
        """From the errors of the judges."""
        # The mean of squares less the square of the mean is the variance of the errors' sizes.
        variance = max(error.rmse**2 - error.mape**2, 0.0)
        return cls(networks, error.n, error.mape, math.sqrt(variance / max(error.n - 1, 1)))

    def reaches(self, mape: float) -> bool:
        """Whether the error is small enough.

        By one standard error smaller than needed: the first of several looks that happens to be a lucky one would else
        end the measuring.
        """
        return self.judges >= JUDGES and self.mape + self.mape_se <= mape

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def curve_of(rounds: Sequence[Round]) -> LearningCurve:
    """How the error fell."""
    return LearningCurve.through([(one.networks, one.mape) for one in rounds])


def check_until(mape: float, budget: int) -> None:
    """Raise PredictorError for an error that cannot be reached, or a budget that cannot show it."""
    if not (math.isfinite(mape) and 0 < mape < 100):
        raise PredictorError(f"a MAPE to measure until must be a percentage above 0 and below 100, not {mape:g}")
    if not FIRST <= budget <= MOST:
        raise PredictorError(
            f"to measure until an error is reached takes from {FIRST} to {MOST} networks, not {budget}: {JUDGES} "
            "random ones among them, at least, are the judges"
        )


def looks(n: int) -> Iterator[int]:
    """After how many of n networks the error is looked at: steps of a quarter, so that few looks can be lucky."""
    now = min(FIRST, n)
    while now < n:
        yield now
        now += max(STEP, now // 4 // STEP * STEP)
    yield n


def is_random(n: int) -> NDArray[np.bool_]:
    """(n,) which places of a measuring order are random ones: every other."""
    return np.arange(n) % 2 == 0


def needed(n: int) -> int:
    """Rows, in random order, that `measuring_order` wants to see for n networks."""
    return 2 * (WINDOW + n // 2)


def measuring_order(rows: Rows, n: int) -> NDArray[np.intp]:
    """(n,) numbers of the rows to measure, in order; more of the same rows begin with the same ones.

    Random networks and chosen ones take turns. The random ones come from other rows than the chosen ones, so that they
    are a uniform draw whatever is chosen: by them alone the error can be judged, and intervals calibrated.

    Chosen is what a Gaussian process knows least of, given all before (greedy D-optimal design, pivoted Cholesky;
    Seeger et al., 2003): largest is k(x, x) - k(x, S) (k(S, S) + noise)^-1 k(S, x), with k(x, z) = LINEAR^2 x.z +
    CURVED^2 exp(-|x - z|^2 / 2 F) over F standardised columns. This asks for no latency, so that what is measured for
    one kind serves for the others. The disagreement of learners, and variance with a covariance tuned by the
    latencies, chose no better where they were tried (two to four devices of NAS-Bench-201).

    Args:
        rows: in uniformly random order; at least n.
    """
    matrix = dense(rows)
    points = Standard.of(matrix[:WINDOW])(matrix).astype(np.float32)
    random = np.arange(0, len(rows), 2)[: (n + 1) // 2]
    offered = np.arange(1, len(rows), 2)[: WINDOW + n // 2]
    unknown = _Unknown(points[np.concatenate([random, offered])], n)
    order: list[int] = []
    for i in range(n):
        if i % 2 == 0:
            place = i // 2
        else:
            among = slice(len(random), len(random) + WINDOW + i // 2)
            place = among.start + int(np.argmax(unknown.variance[among]))
        unknown.measure(place)
        order.append(place)
    return np.concatenate([random, offered])[order].astype(np.intp)


class _Unknown:
    """The variance that a Gaussian process leaves at (P, F) points, of which up to n are measured."""

    def __init__(self, points: Points, n: int) -> None:
        self.points = points
        self.squares = (points**2).sum(axis=1)
        self.variance = CURVED**2 + LINEAR**2 * self.squares
        self.factor = np.empty((n, len(points)), np.float32)
        self.measured: list[int] = []

    def measure(self, i: int) -> None:
        """Point i is measured; it is not chosen again."""
        known = self.factor[: len(self.measured)]
        inner = self.points @ self.points[i]
        distance = np.maximum(self.squares + self.squares[i] - 2 * inner, 0) / max(self.points.shape[1], 1)
        covariance = CURVED**2 * np.exp(-0.5 * distance) + LINEAR**2 * inner - known[:, i] @ known
        row = covariance / math.sqrt(max(float(covariance[i]), 0.0) + NOISE**2)
        self.factor[len(self.measured)] = row
        self.measured.append(i)
        self.variance = self.variance - row**2
        self.variance[self.measured] = -np.inf
