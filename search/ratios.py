"""Expected latency / target of product distributions with its derivatives, in numpy, for the solver of the tilt.

Probabilities are one matrix (decisions, candidates), padded with zeros. For a table, or an estimate, the
expectation is multilinear:

    R(p) = offset + sum over terms of  costs[i, j, ...] p[c, i] p[d, j] ...

so dR/dp[c, i] contracts each term that holds decision c with the other decisions' probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..profiler.additive import AdditiveModel, CostTerm
from ..spaces.description import Decision

Matrix = NDArray[np.float64]


class Expecting(Protocol):
    """What has an expected latency: a predictor, or an estimate."""

    @property
    def additive(self) -> AdditiveModel | None:
        """As `Predictor.additive`."""

    def expected(self, probabilities: Sequence[Any]) -> Any:
        """As `Predictor.expected`."""


@dataclass(frozen=True)
class Linear:
    """R_k(p) = offset[k] + sum of costs[k] * p.

    Attributes:
        offset: (ratios,).
        costs: (ratios, decisions, candidates), 0 where padded.
    """

    offset: Matrix
    costs: Matrix


class Ratios:
    """Weighted sums of the expected latencies of several predictors.

    Args:
        decisions: of the space.
        predictors: with closed-form expectations, or estimates.
        weights: (ratios, predictors).

    Attributes:
        mask: (decisions, candidates) True where there is a candidate.
        linear: all of it, where it is linear (no term has more than one decision), else None.
    """

    def __init__(self, decisions: Sequence[Decision], predictors: Sequence[Expecting], weights: np.ndarray) -> None:
        self.sizes = [len(d) for d in decisions]
        self.mask = np.arange(max(self.sizes)) < np.array(self.sizes)[:, None]
        shape = (len(weights), *self.mask.shape)
        self._linear = Linear(np.zeros(len(weights)), np.zeros(shape))
        self._joint: list[tuple[Matrix, CostTerm]] = []
        self._others: list[tuple[Matrix, Expecting]] = []
        for predictor, weight in zip(predictors, np.asarray(weights, float).T, strict=True):
            self._add(predictor, weight)
        self.linear = None if self._joint or self._others else self._linear

    def __call__(self, p: Matrix) -> tuple[Matrix, Matrix]:
        """((ratios,), (ratios, decisions, candidates)): R and dR/dp at probabilities (decisions, candidates)."""
        value = self._linear.offset + (self._linear.costs * p).sum(axis=(1, 2))
        slopes = self._linear.costs.copy()
        for weight, term in self._joint:
            expected, by_decision = _differentiate(term, p)
            value += weight * expected
            for d, slope in zip(term.decisions, by_decision, strict=True):
                slopes[:, d, : self.sizes[d]] += weight[:, None] * slope
        for weight, predictor in self._others:
            expected, slope = self._autograd(predictor, p)
            value += weight * expected
            slopes += weight[:, None, None] * slope
        return value, slopes

    def split(self, matrix: np.ndarray) -> list[np.ndarray]:
        """One vector a decision, without the padding."""
        return [row[:n] for row, n in zip(matrix, self.sizes, strict=True)]

    def join(self, vectors: Sequence[np.ndarray], padding: float) -> Matrix:
        """(decisions, candidates), the inverse of `split`."""
        matrix = np.full(self.mask.shape, padding)
        matrix[self.mask] = np.concatenate(vectors)
        return matrix

    # -- inside

    def _add(self, predictor: Expecting, weight: Matrix) -> None:
        if (model := predictor.additive) is None:
            self._others.append((weight, predictor))
            return
        self._linear.offset[:] += weight * model.constant
        for term in model.cost_terms:
            if len(term.decisions) > 1:
                self._joint.append((weight, term))
                continue
            costs = term.costs if term.classes is None else term.costs[list(term.classes[0])]
            self._linear.costs[:, term.decisions[0], : len(costs)] += weight[:, None] * costs

    def _autograd(self, predictor: Expecting, p: Matrix) -> tuple[float, Matrix]:
        import torch

        vectors: list[Any] = [torch.tensor(row, requires_grad=True) for row in self.split(p)]
        with torch.enable_grad():
            expected = predictor.expected(vectors)
            slopes = torch.autograd.grad(expected, vectors, allow_unused=True)
        plain = [np.zeros(n) if s is None else s.numpy() for s, n in zip(slopes, self.sizes, strict=True)]
        return float(expected.detach()), self.join(plain, 0.0)


def _differentiate(term: CostTerm, p: Matrix) -> tuple[float, list[Matrix]]:
    """Expectation of a term, and its derivative by the probabilities of each of its decisions."""
    vectors: list[Matrix] = [
        p[d, :size] if term.classes is None else _by_class(p[d], term.classes[axis], size)
        for axis, (d, size) in enumerate(zip(term.decisions, term.costs.shape, strict=True))
    ]
    slopes = _contracted(term.costs, vectors)
    expected = float(slopes[0] @ vectors[0])
    if term.classes is not None:
        slopes = [slope[list(own)] for slope, own in zip(slopes, term.classes, strict=True)]
    return expected, slopes


def _by_class(p: Matrix, classes: Sequence[int], size: int) -> Matrix:
    return np.bincount(classes, p[: len(classes)], size).astype(float)


def _contracted(costs: Matrix, vectors: Sequence[Matrix]) -> list[Matrix]:
    """For each axis the costs contracted with the vectors of all other axes, by halves."""
    if len(vectors) == 1:
        return [costs]
    half = len(vectors) // 2
    head, tail = costs, costs
    for vector in reversed(vectors[half:]):
        head = head @ vector
    for vector in vectors[:half]:
        tail = (vector @ tail.reshape(len(vector), -1)).reshape(tail.shape[1:])
    return _contracted(head, vectors[:half]) + _contracted(tail, vectors[half:])
