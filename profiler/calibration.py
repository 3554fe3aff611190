"""From operator times to network times, fitted on a few designed networks.

    measured(a) ~ factor * (sum over operators o of a: correction(o) t(o)  +  cold * weights(o)  +  glue)  +  extra

Operators cost something else inside a network: weights, which stay in the caches while an operator runs alone, are
cold; layout changes at the borders vanish, neighbours fuse. All parameters are held near (1, 1, 0, 0, 0) unless the
networks say otherwise, so that few networks cannot make a fit run away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import HwnasError
from ..spaces.description import SpaceDescription, SpaceError
from ..spaces.encoding import Encoding
from ..spaces.glue import GLUE
from ..spaces.usage import Term, count, terms
from .additive import AdditiveModel, MissingKeys
from .metrics import Errors, errors

COMBINED = "combined"
NOISE = 0.015
"""Relative error of a measured network against the model."""
FACTOR_WIDTH, EXTRA_WIDTH, GLUE_WIDTH, COLD_WIDTH, CORRECTION_WIDTH = 0.3, 0.1, 0.1, 0.05, 0.05
"""Standard deviations of the priors; extra, glue and cold weights (in all) relative to the median network."""
PREFERENCE = {COMBINED: 0.75, "in-context": 1.0, "isolated": 1.1}
"""By what the score of a way (lower is better) is multiplied."""


@dataclass(frozen=True)
class Calibration:
    """How table values become network latencies.

    Attributes:
        method: where the operator times come from: "isolated", "in-context" or "combined" (their mean).
        factor, extra: latency = factor * (operators and glue) + extra (in the table's unit).
        residual: what a network costs beyond its chosen candidates: fixed modules, the runtime's overhead.
        live: operators whose result nothing uses are left out.
        glue: what each kind of glue between modules costs, before the factor (see `spaces.glue`).
        corrections: factor of single workloads, by key, with what their cold weights cost; 1 where none is given.
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


def combined(isolated: Mapping[str, float], in_context: Mapping[str, float]) -> dict[str, float]:
    """Mean of two independent estimates of the same operators."""
    return {key: (isolated[key] + in_context[key]) / 2 for key in isolated if key in in_context}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fit(columns: np.ndarray, measured: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Coefficients of measured ~ columns @ coefficients: relative least squares with normal priors (ridge).

    Networks far below the median (disconnected ones take almost no time) count by absolute error.

    Args:
        columns: (N, K); the first is expected to have coefficient 1, the others 0.
        measured: (N,).
        widths: (K,) standard deviations of the priors; 0 for a coefficient that is given.
    """
    scale = _scale(measured) * NOISE
    prior = _prior(columns)
    # Solved for the deviations in units of their priors, which keeps the numbers of one size.
    left = np.vstack([columns * widths / scale[:, None], np.eye(len(prior))])
    right = np.concatenate([(measured - columns @ prior) / scale, np.zeros(len(prior))])
    return np.asarray(prior + widths * np.linalg.lstsq(left, right, rcond=None)[0])


def evidence(columns: np.ndarray, measured: np.ndarray, widths: np.ndarray) -> float:
    """Logarithm of the probability density of the measurements under priors of these widths; arguments as in `fit`."""
    scale = _scale(measured) * NOISE
    spread = columns * widths / scale[:, None]
    off = (measured - columns @ _prior(columns)) / scale
    covariance = np.eye(len(measured)) + spread @ spread.T
    _, size = np.linalg.slogdet(covariance)
    return float(-0.5 * (off @ np.linalg.solve(covariance, off) + size))


def _prior(columns: np.ndarray) -> np.ndarray:
    """(K,) the factor 1, all else 0."""
    return np.eye(1, columns.shape[1])[0]


def refit_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The factor by which all predictions are brought to the measurements (relative least squares)."""
    scale = np.maximum(measured, np.median(measured) / 4)  # one factor says nothing about networks that do nothing
    return float((predicted * measured / scale**2).sum() / (predicted**2 / scale**2).sum())


def _scale(measured: np.ndarray) -> np.ndarray:
    """What errors are relative to: the latency, but for networks that take almost no time."""
    return np.asarray(np.maximum(measured, np.median(measured) / 200))


@dataclass(frozen=True)
class _Way:
    """One way to predict networks, and its design matrix over the measured ones.

    Attributes:
        weights: parameters of each of `keys`, as a share of what all parameters of a network come to on average.
        widths: standard deviations of the coefficients' priors: with operators corrected one by one, and without.
    """

    start: Calibration
    values: Mapping[str, float]
    keys: Sequence[str]
    weights: np.ndarray
    needed: Sequence[Term]
    columns: np.ndarray
    widths: Sequence[np.ndarray]

    def coefficients(self, measured: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Fitted on the networks that the mask `used` names: the mean of the fits with each set of priors.

        Each counts as probable as it makes the measurements (Bayesian model averaging; Hoeting et al., 1999). Where the
        networks have nothing to do with their operators, the factor stays 1.
        """
        columns, seen = self.columns[used], measured[used]
        logs = np.array([evidence(columns, seen, widths) for widths in self.widths])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        found = weights @ np.array([fit(columns, seen, widths) for widths in self.widths])
        if found[0] <= 0:
            given = [widths * (np.arange(len(widths)) > 0) for widths in self.widths]
            found = weights @ np.array([fit(columns, seen, widths) for widths in given])
        return np.asarray(found)

    def calibration(self, coefficients: np.ndarray) -> Calibration:
        factor, extra, cold, *rest = coefficients.tolist()
        costs, changes = rest[: len(GLUE)], rest[len(GLUE) :]
        corrections = {}
        for key, change, weights in zip(self.keys, changes, self.weights.tolist(), strict=True):
            value = self.values.get(key, 0.0)
            correction = 1 + (change + (cold * weights / value if value else 0.0)) / factor
            if correction != 1:
                corrections[key] = correction
        glue = {name: round(cost / factor, 12) for name, cost in zip(GLUE, costs, strict=True)}
        return replace(self.start, factor=factor, extra=extra, glue=glue, corrections=corrections)


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

    Each way is fitted on the training networks and judged on the held-out ones; the one that is kept is fitted once
    more on all of them, and carries the error it had on the held-out ones before.

    Args:
        values: method -> key -> cost of one operator.
        exact: costs are counts, not times: the factor is 1.
        training: networks to fit on. held_out: networks to choose by.

    Returns:
        the choice, its model, and all that were tried.

    Raises:
        MissingKeys: no method covers the space.
    """
    measured = np.concatenate([training.latency, held_out.latency])
    codes = np.concatenate([training.codes, held_out.codes])
    unseen = np.arange(len(measured)) >= len(training.latency)
    tried: list[tuple[float, _Way, Calibration]] = []
    for way in _ways(encoding, description, values, codes, measured, dtype=dtype, exact=exact):
        coefficients = way.coefficients(measured, ~unseen)
        calibration = way.calibration(coefficients)
        if unseen.any():
            predicted = way.columns[unseen] @ coefficients
            calibration = replace(calibration, error=errors(predicted, held_out.latency))
        tried.append((_score(way, measured, unseen), way, calibration))
    _, way, judged = min(tried, key=lambda item: item[0])
    every = np.ones(len(measured), bool)
    kept = replace(way.calibration(way.coefficients(measured, every)), error=judged.error)
    model = AdditiveModel.from_values(encoding, description, kept.corrected(way.values), dtype=dtype, needed=way.needed)
    model = model.scaled(kept.factor, kept.extra)
    kept = replace(kept, residual=model.constant)
    return kept, model, [kept if c is judged else c for _, _, c in tried]


def _ways(
    encoding: Encoding,
    description: SpaceDescription,
    values: Mapping[str, Mapping[str, float]],
    codes: np.ndarray,
    measured: np.ndarray,
    *,
    dtype: str,
    exact: bool,
) -> Iterator[_Way]:
    """Operator times by each method, dead operators in or out."""
    keys = [w.key(description.batch, dtype) for w in description.workloads]
    missing: MissingKeys | None = None
    covered = False
    counts = np.empty((0, 0))
    for live in (True, False):
        try:
            needed = terms(description, live=live, classes=True, glue=True)
        except SpaceError:
            if not live:
                raise
            continue  # what is dead depends on too much to be held
        before, counts = counts, count(needed, codes, len(keys) + len(GLUE))
        if np.array_equal(before[:, : len(keys)], counts[:, : len(keys)]):
            continue  # nothing is ever dead in this space
        for method, table in values.items():
            try:
                AdditiveModel.from_values(encoding, description, table, dtype=dtype, needed=needed)
            except MissingKeys as error:
                missing = error
                continue
            covered = True
            own = counts * np.array([*(table.get(key, 0.0) for key in keys), *([1.0] * len(GLUE))])
            weights = _weights(description, counts) * np.array([table.get(key, 0.0) > 0 for key in keys])
            cold = counts[:, : len(keys)] @ weights
            columns, widths = _design(own, cold, measured, exact=exact)
            start = Calibration(method, 1.0, 0.0, live)
            yield _Way(start, table, keys, weights, needed, columns, widths)
    if missing is not None and not covered:
        raise missing


def _weights(description: SpaceDescription, counts: np.ndarray) -> np.ndarray:
    """(workloads,) parameters, as a share of what those of a network come to on average."""
    own = np.array([sum(op["params"] for op in w.info.get("operators", ())) for w in description.workloads], float)
    average = float((counts[:, : len(own)] @ own).mean())
    return own / average if average else own


def _design(
    own: np.ndarray, cold: np.ndarray, measured: np.ndarray, *, exact: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Columns (sum, one, weights, kinds of glue, single workloads) and the widths of their coefficients' priors."""
    n = own.shape[1] - len(GLUE)
    each, glue = own[:, :n], own[:, n:]
    typical = float(np.median(measured))
    columns = np.concatenate([each.sum(axis=1)[:, None], np.ones((len(own), 1)), cold[:, None], glue, each], axis=1)
    if exact:
        return columns, [np.array([0.0, 1e3 * typical, *np.zeros(columns.shape[1] - 2)])]
    glue_widths = [GLUE_WIDTH * typical / mean if mean else 0.0 for mean in glue.mean(axis=0)]
    common = [FACTOR_WIDTH, EXTRA_WIDTH * typical, COLD_WIDTH * typical, *glue_widths]
    return columns, [np.array([*common, *np.full(n, width)]) for width in (CORRECTION_WIDTH, 0.0)]


def _score(way: _Way, measured: np.ndarray, unseen: np.ndarray) -> float:
    """Lower is better: each held-out network predicted from all others; training residuals count a little.

    So few held-out networks tell little apart. The mean of both kinds of operator times, which has the least noise, is
    kept unless another way is clearly better; then times from inside networks, which need the least correction.
    """
    scale = _scale(measured)

    def residual(used: np.ndarray, judged: np.ndarray) -> np.ndarray:
        predicted = way.columns[judged] @ way.coefficients(measured, used)
        return np.asarray((predicted - measured[judged]) / scale[judged])

    seen = float(np.sqrt((residual(~unseen, ~unseen) ** 2).mean()))
    if not unseen.any():
        return seen
    every = np.arange(len(measured))
    left_out = [residual(every != h, every == h)[0] for h in every[unseen]]
    score = math.hypot(float(np.sqrt(np.mean(np.square(left_out)))), 0.3 * seen)
    return score * PREFERENCE.get(way.start.method, 1.0)
