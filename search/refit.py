"""What measurements of a few networks say of a predictor, and so of each of these networks.

Errors of networks that are alike are alike, so one factor for the networks near a target takes most of them out. What
is left differs from network to network by tau, and a measurement is off by its own error s. What a further measurement
of a network will find is best told from both, its own measurement m and the refitted prediction p (the normal-normal
model, in logarithms):

    log v = log p + w (log m - log p),      w = tau^2 / (tau^2 + s^2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..predictors.network_timer import Measured
from ..profiler.calibration import refit_factor

LEAST = 1e-4
"""Relative error below which none is believed."""


@dataclass(frozen=True)
class Refit:
    """A predictor as corrected by measurements.

    Attributes:
        factor: measured / predicted, of networks near the target. error: of it, relative.
        calibration_factor: the same of networks that calibrated the predictor; None without any.
        spread: relative standard deviation of what the factor leaves; infinite where it is not known.
    """

    factor: float
    error: float
    calibration_factor: float | None
    spread: float

    def expected(self, predicted: float, measured: Measured) -> tuple[float, float]:
        """(latency, its relative standard error) that a further measurement will find."""
        error = _error(measured)
        if math.isinf(self.spread):
            return measured.value, error
        refitted = self.factor * predicted
        own = self.spread**2 / (self.spread**2 + error**2)
        value = refitted * (measured.value / refitted) ** own
        return value, math.hypot(math.sqrt(own) * error, (1 - own) * self.error)


def refit(near: Sequence[tuple[float, Measured]], known: Sequence[tuple[float, Measured]]) -> Refit:
    """The factor is the geometric mean of the near networks', where all calibration networks count as one more.

    On three spaces the mean error of five candidates told nine tenths of that of further ones, the calibration
    networks half of it.

    Args:
        near, known: (predicted, measured) of candidates, and of calibration networks; one of them at least.
    """
    logs, far = _logs(near), _logs(known)
    calibration = None
    if known:
        calibration = refit_factor(np.array([p for p, _ in known]), np.array([m.value for _, m in known]))
    each = [*logs, *([] if calibration is None else [math.log(calibration)])]
    factor = math.exp(sum(each) / len(each))
    left = np.concatenate([logs - logs.mean() if len(logs) else logs, far - far.mean() if len(far) else far])
    freedom = len(left) - (len(logs) > 0) - (len(far) > 0)
    noise = float(np.mean([_error(m) ** 2 for _, m in (*near, *known)]))
    if freedom < 1:
        return Refit(factor, math.sqrt(noise), calibration, math.inf)
    total = float((left**2).sum()) / freedom
    return Refit(factor, math.sqrt(total / len(each)), calibration, math.sqrt(max(total - noise, LEAST**2)))


def _logs(pairs: Sequence[tuple[float, Measured]]) -> np.ndarray:
    return np.array([math.log(m.value / p) for p, m in pairs])


def _error(measured: Measured) -> float:
    """Relative standard error: the interval is two of them to each side."""
    return max((measured.high - measured.low) / (4 * measured.value), LEAST)
