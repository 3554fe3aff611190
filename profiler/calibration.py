"""From operator times to network times: one factor and one residual, fitted on a few designed networks.

    measured(a) ~ factor * (sum of the operators of a + fixed modules) + extra

Operators cost something else inside a network: weights are cold, layout changes at the borders vanish, neighbours fuse.
Both parameters are held near (1, 0) unless the networks say otherwise, so that a fit on few networks cannot run away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..spaces.description import SpaceDescription
from ..spaces.encoding import Encoding
from .additive import AdditiveModel, MissingKeys
from .metrics import Errors, errors

NOISE = 0.005
"""Relative error expected of a measured network."""


@dataclass(frozen=True)
class Calibration:
    """How table values become network latencies.

    Attributes:
        method: "isolated" or "in-context": where the operator times come from.
        factor, extra: latency = factor * (sum of candidates and fixed modules) + extra (in the table's unit).
        residual: what a network costs beyond its chosen candidates: fixed modules, glue, the runtime's overhead.
        live: operators whose result nothing uses are left out.
        error: on networks that took no part in the fit.
    """

    method: str
    factor: float
    extra: float
    residual: float
    live: bool
    error: Errors | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "factor": self.factor,
            "extra": self.extra,
            "residual": self.residual,
            "live": self.live,
            "error": self.error.as_dict() if self.error else None,
        }


@dataclass(frozen=True)
class Observed:
    """Measured networks: (N, decisions) codes and (N,) latencies."""

    codes: np.ndarray
    latency: np.ndarray


def fit(sums: np.ndarray, measured: np.ndarray, *, affine: bool) -> tuple[float, float]:
    """Factor and extra of measured ~ factor * sums + extra.

    Relative least squares with normal priors: factor 1 +- 0.3, extra 0 +- 10 % of the median network. Networks far
    below the median (disconnected ones take almost no time) count by absolute error.

    Args:
        sums: (N,) of candidates and fixed modules. measured: (N,).
        affine: whether there is an extra at all.
    """
    typical = np.median(measured)
    scale = np.maximum(measured, typical / 4) * NOISE
    design = np.stack([sums / scale, 1 / scale], axis=1)
    goal = measured / scale
    width = (0.1 if affine else 1e-12) * typical
    priors = np.diag([1 / 0.3, 1 / width])
    solution, *_ = np.linalg.lstsq(
        np.vstack([design, priors]), np.concatenate([goal, priors @ np.array([1.0, 0.0])]), rcond=None
    )
    factor, extra = solution
    return float(factor), float(extra)


def refit_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The factor by which all predictions are brought to the measurements (relative least squares)."""
    ratio = predicted / measured
    return float(ratio.sum() / (ratio**2).sum())


def calibrate(
    encoding: Encoding,
    description: SpaceDescription,
    values: Mapping[str, Mapping[str, float]],
    training: Observed,
    held_out: Observed,
    *,
    dtype: str = "fp32",
    exact: bool = False,
) -> tuple[Calibration, AdditiveModel, list[Calibration]]:
    """Choose and fit what predicts networks best.

    Args:
        values: method -> key -> cost of one operator.
        exact: costs are counts, not times: the factor is 1.
        training: networks to fit on. held_out: networks to choose by.

    Returns:
        the choice, its model, and all that were tried.

    Raises:
        MissingKeys: no method covers the space.
    """
    tried: list[tuple[float, Calibration, AdditiveModel]] = []
    missing: MissingKeys | None = None
    for method, table in values.items():
        for live in (True, False):
            try:
                plain = AdditiveModel.from_values(encoding, description, table, dtype=dtype, live=live)
            except MissingKeys as error:
                missing = error
                continue
            for parameters in _fits(plain, training, exact=exact):
                tried.append(_judge(method, plain, parameters, training, held_out, live=live))
    if not tried:
        assert missing is not None
        raise missing
    _, best, model = min(tried, key=lambda item: item[0])
    return best, model, [calibration for _, calibration, _ in tried]


def _fits(plain: AdditiveModel, training: Observed, *, exact: bool) -> list[tuple[float, float]]:
    """Pairs (factor, extra) to choose from."""
    sums = plain.predict(training.codes)
    if exact:
        return [(1.0, float(np.median(training.latency - sums)))]
    return [fit(sums, training.latency, affine=affine) for affine in (False, True)]


def _judge(
    method: str,
    plain: AdditiveModel,
    parameters: tuple[float, float],
    training: Observed,
    held_out: Observed,
    *,
    live: bool,
) -> tuple[float, Calibration, AdditiveModel]:
    """Score (lower is better), calibration and model of one way to predict."""
    factor, extra = parameters
    model = plain.scaled(factor, extra)
    seen = _rms(model, training)
    calibration = Calibration(method, factor, extra, model.constant, live)
    if not len(held_out.codes):
        return seen, calibration, model
    unseen = errors(model.predict(held_out.codes), held_out.latency)
    # The extremes are among the training networks: a method that misses them badly is not kept for its luck elsewhere.
    return unseen.rmse + 0.2 * seen, replace(calibration, error=unseen), model


def _rms(model: AdditiveModel, observed: Observed) -> float:
    """In percent; networks far below the median count by absolute error."""
    scale = np.maximum(observed.latency, np.median(observed.latency) / 4)
    return float(100 * np.sqrt((((model.predict(observed.codes) - observed.latency) / scale) ** 2).mean()))
