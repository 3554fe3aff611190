"""From operator times to network times, fitted on a few designed networks.

    measured(a) ~ factor * (sum over operators o of a: correction(o) t(o)  +  glue)  +  extra

Operators cost something else inside a network: weights are cold, layout changes at the borders vanish, neighbours fuse.
All parameters are held near (1, 1, 0, 0) unless the networks say otherwise, so that few networks cannot make a fit run
away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import HwnasError
from ..spaces.description import SpaceDescription, SpaceError
from ..spaces.encoding import Encoding
from ..spaces.glue import GLUE
from ..spaces.usage import count, terms
from .additive import AdditiveModel, MissingKeys
from .metrics import Errors, errors

NOISE = 0.01
"""Relative error of a measured network against the model."""
FACTOR_WIDTH, EXTRA_WIDTH, GLUE_WIDTH, CORRECTION_WIDTH = 0.3, 0.1, 0.1, 0.1
"""Standard deviations of the priors; extra and glue (in all) relative to the median network."""


@dataclass(frozen=True)
class Calibration:
    """How table values become network latencies.

    Attributes:
        method: "isolated" or "in-context": where the operator times come from.
        factor, extra: latency = factor * (operators and glue) + extra (in the table's unit).
        residual: what a network costs beyond its chosen candidates: fixed modules, the runtime's overhead.
        live: operators whose result nothing uses are left out.
        glue: what each kind of glue between modules costs, before the factor (see `spaces.glue`).
        corrections: factor of single workloads, by key; 1 where none is given.
        error: on networks that took no part in the fit.
    """

    method: str
    factor: float
    extra: float
    live: bool
    glue: Mapping[str, float] = field(default_factory=dict)
    corrections: Mapping[str, float] = field(default_factory=dict)
    residual: float = 0.0
    error: Errors | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**vars(self), "error": self.error.as_dict() if self.error else None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Read what `as_dict` gave (the error on held-out networks excepted); raises HwnasError for another form."""
        glue, corrections = data.get("glue", {}), data.get("corrections", {})
        numbers = {
            name: data.get(name, default) for name, default in (("factor", 1.0), ("extra", 0.0), ("residual", 0.0))
        }
        for name, part in (("numbers", numbers), ("glue", glue), ("corrections", corrections)):
            if not isinstance(part, dict) or not all(_is_number(value) for value in part.values()):
                raise HwnasError(f"the calibration's {name} are not all finite numbers: {part!r:.200}")
        if numbers["factor"] <= 0:
            raise HwnasError(f"the calibration's factor is {numbers['factor']!r}, it must be positive")
        live = bool(data.get("live", False))
        return cls(str(data.get("method", "")), live=live, glue=glue, corrections=corrections, **numbers)

    def corrected(self, values: Mapping[str, float]) -> dict[str, float]:
        """Table values as they count inside a network, before the factor, and what glue costs."""
        return {key: value * self.corrections.get(key, 1.0) for key, value in values.items()} | dict(self.glue)


@dataclass(frozen=True)
class Observed:
    """Measured networks: (N, decisions) codes and (N,) latencies."""

    codes: np.ndarray
    latency: np.ndarray


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fit(columns: np.ndarray, measured: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Coefficients of measured ~ columns @ coefficients: relative least squares with normal priors (ridge).

    Networks far below the median (disconnected ones take almost no time) count by absolute error.

    Args:
        columns: (N, K); the first is expected to have coefficient 1, the others 0.
        measured: (N,).
        widths: (K,) standard deviations of the priors.
    """
    scale = _scale(measured) * NOISE
    prior = np.zeros(columns.shape[1])
    prior[0] = 1.0
    left = np.vstack([columns / scale[:, None], np.diag(1 / widths)])
    return np.asarray(np.linalg.lstsq(left, np.concatenate([measured / scale, prior / widths]), rcond=None)[0])


def refit_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The factor by which all predictions are brought to the measurements (relative least squares)."""
    scale = _scale(measured)
    return float((predicted * measured / scale**2).sum() / (predicted**2 / scale**2).sum())


def _scale(measured: np.ndarray) -> np.ndarray:
    """What errors are relative to: the latency, but for networks that take almost no time."""
    return np.asarray(np.maximum(measured, np.median(measured) / 4))


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
    keys = [w.key(description.batch, dtype) for w in description.workloads]
    counts = np.empty(0)
    for live in (True, False):
        try:
            needed = terms(description, live=live, classes=True, glue=True)
        except SpaceError:
            if not live:
                raise
            continue  # what is dead depends on too much to be held
        before, counts = counts, count(needed, training.codes, len(keys) + len(GLUE))
        if np.array_equal(before, counts):
            continue  # nothing is ever dead in this space
        build = partial(AdditiveModel.from_values, encoding, description, dtype=dtype, needed=needed)
        for method, table in values.items():
            try:
                build(table)
            except MissingKeys as error:
                missing = error
                continue
            own = np.array([table.get(key, 0.0) for key in keys])
            for calibration in _fits(Calibration(method, 1.0, 0.0, live), keys, own, counts, training.latency, exact):
                model = build(calibration.corrected(table)).scaled(calibration.factor, calibration.extra)
                tried.append(_judge(replace(calibration, residual=model.constant), model, training, held_out))
    if not tried:
        assert missing is not None
        raise missing
    _, best, model = min(tried, key=lambda item: item[0])
    return best, model, [calibration for _, calibration, _ in tried]


def _fits(
    start: Calibration, keys: Sequence[str], own: np.ndarray, counts: np.ndarray, measured: np.ndarray, exact: bool
) -> list[Calibration]:
    """Ways to calibrate: with and without an extra, with and without corrections of single operators."""
    each, glue = counts[:, : len(keys)] * own, counts[:, len(keys) :]
    sums = each.sum(axis=1)
    if exact:
        return [replace(start, extra=float(np.median(measured - sums)))]
    typical = float(np.median(measured))
    found = []
    for extra in (0.0, EXTRA_WIDTH):
        for correction in (0.0, CORRECTION_WIDTH):
            columns = np.concatenate([sums[:, None], np.ones((len(sums), 1)), glue, each], axis=1)
            glue_widths = [GLUE_WIDTH * typical / mean if mean else 0.0 for mean in glue.mean(axis=0)]
            widths = [FACTOR_WIDTH, extra * typical, *glue_widths, *np.full(len(keys), correction)]
            solution = fit(columns, measured, np.maximum(widths, 1e-9))
            factor, constant, costs, changes = (
                solution[0],
                solution[1],
                solution[2 : 2 + len(GLUE)],
                solution[-len(keys) :],
            )
            found.append(
                replace(
                    start,
                    factor=float(factor),
                    extra=float(constant),
                    glue=dict(zip(GLUE, (costs / factor).tolist(), strict=True)),
                    corrections=dict(zip(keys, (1 + changes / factor).tolist(), strict=True)) if correction else {},
                )
            )
    return found


def _judge(
    calibration: Calibration, model: AdditiveModel, training: Observed, held_out: Observed
) -> tuple[float, Calibration, AdditiveModel]:
    """Score (lower is better), calibration and model of one way to predict."""
    score = _rms(model, training)
    if len(held_out.codes):
        # Both count: few networks are held out, and the extremes are among the training networks.
        score = math.hypot(score, _rms(model, held_out))
        calibration = replace(calibration, error=errors(model.predict(held_out.codes), held_out.latency))
    return score, calibration, model


def _rms(model: AdditiveModel, observed: Observed) -> float:
    """In percent."""
    return float(
        100 * np.sqrt((((model.predict(observed.codes) - observed.latency) / _scale(observed.latency)) ** 2).mean())
    )
