"""The expectation of any predictor under choice probabilities, differentiable in them.

The derivative of E = E[f(a)] with respect to the probability of candidate i of decision c is the conditional mean
E[f(a) | a_c = i]. All of them together are, up to a constant for each decision (which vanishes in the softmax), the
coefficients of the additive least-squares fit of f on architectures drawn from the probabilities:

    f(a) ~ e + sum over decisions c of  w[c, a_c],      E = e + sum over c of  p[c] . w[c]

The fit explains most of the variance between architectures, so far fewer samples are needed than for plain conditional
averages; the value is the Monte-Carlo mean with the fit as control variate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..spaces.encoding import Encoding

SAMPLES = 2048
RIDGE = 1e-6
"""Relative to a candidate's share of the samples: decides for those that were never drawn, and for constants."""


class Expectation:
    """Estimates E[f] and its derivatives; the same probabilities give the same estimate.

    Args:
        f: (N, decisions) canonical codes -> (N,).
        encoding: the decisions.
        control: expectation of a function g in closed form; then `f` is what is left beyond g.
        samples: architectures drawn for an estimate; raised to four times the number of candidates where that is more.
        refresh: an estimate is kept in use until the logarithm of a probability above 1 % has moved by this much. Then
            it is a little biased, and depends on what was asked before; 0: a new one for all other probabilities.
        seed: of the draws.
    """

    def __init__(
        self,
        f: Callable[[np.ndarray], np.ndarray],
        encoding: Encoding,
        *,
        control: Callable[[Sequence[Any]], Any] | None = None,
        samples: int = SAMPLES,
        refresh: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.f = f
        self.encoding = encoding
        self.control = control
        self.samples = max(samples, 4 * sum(len(d) for d in encoding.decisions))
        self.refresh = refresh
        self.seed = seed
        self._at: list[np.ndarray] | None = None
        self._fit: tuple[float, list[np.ndarray]] = (0.0, [])

    def __call__(self, probabilities: Sequence[Any]) -> Any:
        """E at the probabilities (one vector a decision); a torch tensor where these are, else a float."""
        plain = [_plain(p) for p in probabilities]
        if self._at is None or self._moved(plain):
            self._fit, self._at = self._estimate(plain), plain
        total, weights = self._fit
        for p, w in zip(probabilities, weights, strict=True):
            total = total + p @ (w if isinstance(p, np.ndarray) else p.new_tensor(w))
        if self.control is not None:
            total = total + self.control(probabilities)
        return float(total) if all(isinstance(p, np.ndarray) for p in probabilities) else total

    def _moved(self, now: Sequence[np.ndarray]) -> bool:
        assert self._at is not None
        if not self.refresh:
            return any((a != b).any() for a, b in zip(self._at, now, strict=True))
        moves = [np.abs(np.log(np.maximum(a, 0.01) / np.maximum(b, 0.01))) for a, b in zip(self._at, now, strict=True)]
        return max(float(m.max()) for m in moves) > self.refresh

    def _estimate(self, probabilities: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Intercept and coefficients of the additive fit on rows drawn from `probabilities`."""
        rows = self._draw(probabilities)
        value = np.asarray(self.f(self.encoding.canonical(rows)), float)
        mean = float(value.mean())
        # One-hot columns of the decisions as drawn, whether reached or not, so that their independence holds.
        design = np.concatenate([_one_hot(column, len(p)) for column, p in zip(rows.T, probabilities, strict=True)], 1)
        centred = design - design.mean(axis=0)
        gram = centred.T @ centred / len(rows)
        gram[np.diag_indices_from(gram)] += RIDGE
        weights = np.linalg.solve(gram, centred.T @ (value - mean) / len(rows))
        sizes = np.cumsum([len(p) for p in probabilities])[:-1]
        return mean - float(design.mean(axis=0) @ weights), np.split(weights, sizes)

    def _draw(self, probabilities: Sequence[np.ndarray]) -> np.ndarray:
        """(N, decisions): each column stratified, so that a candidate has its share of the rows to within one."""
        rng = np.random.default_rng(self.seed)
        n = self.samples
        rows = np.empty((n, len(probabilities)), np.int16)
        for i, p in enumerate(probabilities):
            strata = (rng.permutation(n) + rng.random(n)) / n
            edges = np.cumsum(p / p.sum())[:-1]
            rows[:, i] = np.searchsorted(edges, strata, side="right")
        return rows


def _one_hot(column: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(column[:, None] == np.arange(size), float)


def _plain(p: Any) -> np.ndarray:
    return np.asarray(p if isinstance(p, np.ndarray) else p.detach().cpu().numpy(), np.float64)
