"""Noise of two widths: most rows scatter little, a few a lot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
STEPS = 30
APART, RARE = 2.5, 0.98
"""The broad part counts where it is so many times as wide, and the tight one is not almost everything."""
MOST = 400.0
"""How many times as much noise variance a row may have as the others."""


@dataclass(frozen=True)
class Part:
    """One normal distribution."""

    mean: float
    deviation: float

    def density(self, values: Vector) -> Vector:
        """(N,) up to a constant."""
        return np.asarray(np.exp(-0.5 * ((values - self.mean) / self.deviation) ** 2) / self.deviation)


def noise_of(residuals: Vector) -> Vector:
    """(N,) noise variance of each row, relative to the smallest, by a mixture of a tight and a broad normal.

    Expectation maximisation, started from the shortest half. All ones where one normal describes the residuals.
    """
    share, tight, broad = 0.7, _tight_half(residuals), None
    spread = max(float(residuals.std()) * 1.5, 3 * tight.deviation)
    broad = Part(float(residuals.mean()), spread)
    belongs = np.ones(len(residuals))
    for _ in range(STEPS):
        near = share * tight.density(residuals)
        belongs = near / (near + (1 - share) * broad.density(residuals) + 1e-300)
        share = float(np.clip((belongs.sum() + 2) / (len(residuals) + 2.5), 0.3, 0.995))
        tight = _weighted(residuals, belongs, 1e-4)
        broad = _weighted(residuals, 1 - belongs, 2 * tight.deviation, few=Part(broad.mean, 4 * tight.deviation))
    if broad.deviation <= APART * tight.deviation or share >= RARE:
        return np.ones(len(residuals))
    noise = np.clip(1 / np.maximum(belongs, 1e-3), 1, MOST)
    return np.asarray(noise / noise.min())


def _tight_half(residuals: Vector) -> Part:
    ordered = np.sort(residuals)
    half = max(len(ordered) // 2, 3)
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    start = int(np.argmin(widths))
    inside = ordered[start : start + half]
    return Part(float(inside.mean()), max(float(inside.std()) * 1.5, 1e-4))


def _weighted(residuals: Vector, weights: Vector, least: float, few: Part | None = None) -> Part:
    """Mean and deviation of rows with weights; `few` where these add up to hardly any row."""
    total = float(weights.sum()) + 1e-9
    if few is not None and total <= 3:
        return few
    mean = float((weights * residuals).sum() / total)
    return Part(mean, max(float(np.sqrt((weights * (residuals - mean) ** 2).sum() / total)), least))
