"""How far predictions are from measurements, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import HwnasError


@dataclass(frozen=True)
class Errors:
    """Errors relative to the measured value, in percent, and rank correlations.

    Attributes:
        n: number of networks.
        mape: mean absolute error. bias: mean signed error. rmse: root mean square. max_error: largest absolute.
        within_1, within_5, within_10: share of the networks within so many percent.
        spearman, kendall: rank correlation of predicted with measured (tau-b); NaN for fewer than two networks.
    """

    n: int
    mape: float
    bias: float
    rmse: float
    max_error: float
    within_1: float
    within_5: float
    within_10: float
    spearman: float
    kendall: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form; an undefined correlation is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def errors(predicted: Sequence[float] | np.ndarray, measured: Sequence[float] | np.ndarray) -> Errors:
    """Compare (N,) predictions with (N,) measurements.

    Raises:
        HwnasError: nothing to compare, different lengths, or a measurement that is not positive.
    """
    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    if p.shape != m.shape or p.ndim != 1 or not len(p):
        raise HwnasError(f"cannot compare predictions of shape {p.shape} with measurements of shape {m.shape}")
    if not (m > 0).all() or not np.isfinite(p).all():
        raise HwnasError("measurements must be positive and predictions finite to be compared")
    relative = 100 * (p / m - 1)
    size = np.abs(relative)
    rho, tau = _correlations(p, m)
    return Errors(
        n=len(p),
        mape=float(size.mean()),
        bias=float(relative.mean()),
        rmse=float(np.sqrt((relative**2).mean())),
        max_error=float(size.max()),
        within_1=float(100 * (size <= 1).mean()),
        within_5=float(100 * (size <= 5).mean()),
        within_10=float(100 * (size <= 10).mean()),
        spearman=rho,
        kendall=tau,
    )


def bootstrap(
    predicted: Sequence[float] | np.ndarray,
    measured: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    *,
    coverage: float = 0.95,
    draws: int = 2000,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of `mape`, `bias` and `rmse` over resampled networks (Efron, 1979)."""
    relative = 100 * (np.asarray(predicted, float) / np.asarray(measured, float) - 1)
    drawn = relative[rng.integers(len(relative), size=(draws, len(relative)))]
    statistics = {
        "mape": np.abs(drawn).mean(axis=1),
        "bias": drawn.mean(axis=1),
        "rmse": np.sqrt((drawn**2).mean(axis=1)),
    }
    tails = [(1 - coverage) / 2, (1 + coverage) / 2]
    return {name: tuple(np.quantile(values, tails).tolist()) for name, values in statistics.items()}


def _correlations(p: np.ndarray, m: np.ndarray) -> tuple[float, float]:
    if len(p) < 2 or np.ptp(p) == 0 or np.ptp(m) == 0:
        return float("nan"), float("nan")
    from scipy.stats import kendalltau, spearmanr

    return float(spearmanr(p, m).statistic), float(kendalltau(p, m).statistic)
