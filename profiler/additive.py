"""Latency as a sum: what the operators of an architecture cost, times a factor, plus a residual.

    latency(a) = factor * sum over operators o of a: t(o)  +  residual

Prediction is a lookup. The expectation under independent choice probabilities is a multilinear form of them, exact with
nested and tied choices, changing shapes and dead operators (see `spaces.usage`), after ProxylessNAS (arXiv:1812.00332,
section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from ..spaces.description import SpaceDescription
from ..spaces.encoding import Encoding
from ..spaces.glue import GLUE
from ..spaces.usage import Term, terms

CHUNK = 8192
"""Rows predicted at a time, so that what is gathered stays in the cache."""
LISTED = 50_000
"""Architectures up to which the extremes of a space are found by predicting all of it."""


class MissingKeys(HwnasError):
    """Workloads that the values do not cover.

    Attributes:
        keys: which ones.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        shown = "; ".join(keys[:5]) + (f"; and {len(keys) - 5} more" if len(keys) > 5 else "")
        super().__init__(f"{len(keys)} workload(s) of this space are not in the table: {shown}")
        self.keys = tuple(keys)


@dataclass(frozen=True)
class CostTerm:
    """Cost by the candidates of a few decisions.

    Attributes:
        decisions: which, ascending.
        costs: one axis a decision.
        classes: where given, an axis has an entry for each class of candidates: for each decision those of its
            candidates.
    """

    decisions: tuple[int, ...]
    costs: NDArray[np.float64]
    classes: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Range:
    """The latencies a space spans: exact for small spaces and without interacting choices, else by local search.

    `smallest` and `largest` are integer-encoded architectures, `mean` the expectation at uniform probabilities.
    """

    min: float
    max: float
    mean: float
    smallest: np.ndarray
    largest: np.ndarray


class AdditiveModel:
    """Sums of cost terms over the decisions of one space.

    Args:
        encoding: the decisions.
        cost_terms: what depends on them.
        constant: what every architecture costs.
    """

    def __init__(self, encoding: Encoding, cost_terms: Sequence[CostTerm], constant: float) -> None:
        self.encoding = encoding
        self.cost_terms = tuple(cost_terms)
        self.constant = constant

    @classmethod
    def from_values(
        cls,
        encoding: Encoding,
        description: SpaceDescription,
        values: Mapping[str, float],
        *,
        dtype: str = "fp32",
        live: bool = True,
        needed: Sequence[Term] | None = None,
    ) -> AdditiveModel:
        """Sum `values` (by workload key, and by kind of glue; any unit) over what each architecture uses.

        Args:
            live: leave out operators whose result nothing uses.
            needed: the space's terms, where they are at hand.

        Raises:
            MissingKeys: `values` lacks a workload of the space.
        """
        keys = [w.key(description.batch, dtype) for w in description.workloads]
        needed = terms(description, live=live, classes=True, glue=True) if needed is None else needed
        used = {int(i) for term in needed for i in np.unique(term.workloads) if 0 <= i < len(keys)}
        missing = [keys[i] for i in sorted(used) if keys[i] not in values]
        if missing:
            raise MissingKeys(missing)
        glue = [values.get(name, 0.0) for name in GLUE]
        costs = np.array([*(values.get(key, np.nan) for key in keys), *glue, 0.0])
        summed = [CostTerm(t.decisions, _costs(t, costs), t.classes) for t in needed]
        constant = float(sum(float(t.costs) for t in summed if not t.decisions))
        return cls(encoding, [t for t in summed if t.decisions], constant)

    def scaled(self, factor: float, extra: float) -> AdditiveModel:
        """The same model times `factor`, plus `extra`."""
        scaled = [CostTerm(t.decisions, factor * t.costs, t.classes) for t in self.cost_terms]
        return AdditiveModel(self.encoding, scaled, factor * self.constant + extra)

    # -- prediction

    def predict(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N,) of integer-encoded architectures (N, decisions); -1 where a choice is not reached."""
        rows = np.asarray(codes)
        result = np.full(len(rows), self.constant)
        for start in range(0, len(rows), CHUNK):
            block = np.ascontiguousarray(rows[start : start + CHUNK].T, dtype=np.int32)
            if self._conditional:
                np.maximum(block, 0, out=block)  # an unreached choice costs nothing under any of its candidates
            out = result[start : start + CHUNK]
            if self._single.size:
                out += np.take(self._single, block[self._single_decisions] + self._single_offsets).sum(axis=0)
            for term in self._joint:
                columns = list(block[list(term.decisions)])
                if term.classes is not None:
                    columns = [np.take(own, column) for own, column in zip(term.classes, columns, strict=True)]
                index = np.ravel_multi_index(tuple(columns), term.costs.shape)
                out += np.take(term.costs.ravel(), index)
        return result

    def expected(self, probabilities: Sequence[Any]) -> Any:
        """E[latency] with each decision drawn independently.

        Args:
            probabilities: one vector a decision: numpy arrays (gives a float), or torch tensors (gives a tensor that is
                differentiable in them).
        """
        total: Any = self.constant
        for term in self.cost_terms:
            rest = _like(term.costs, probabilities[term.decisions[0]])
            for axis, d in enumerate(term.decisions):
                rest = rest.reshape(term.costs.shape[axis], -1)
                if term.classes is not None:
                    rest = rest[list(term.classes[axis])]  # of each candidate
                rest = probabilities[d] @ rest
            total = total + rest.reshape(())
        if all(isinstance(p, np.ndarray) for p in probabilities):
            return float(total)
        for d in self._idle:  # their gradient is zero, not missing
            total = total + 0.0 * probabilities[d].sum()
        return total

    @cached_property
    def _idle(self) -> list[int]:
        """Decisions that change nothing."""
        used = {d for term in self.cost_terms for d in term.decisions}
        return [d for d in range(len(self.encoding.decisions)) if d not in used]

    # -- extremes

    @cached_property
    def range(self) -> Range:
        """Smallest, largest and mean latency of the space."""
        uniform = [np.full(len(d), 1 / len(d)) for d in self.encoding.decisions]
        smallest, largest = self._extreme(1), self._extreme(-1)
        low, high = self.predict(np.stack([smallest, largest])).tolist()
        return Range(low, high, self.expected(uniform), smallest, largest)

    def _extreme(self, sign: int) -> np.ndarray:
        """By prediction of all, or else by coordinate descent from several starts.

        One sweep is exact where every term has one decision.
        """
        if self._joint and self.encoding.size <= LISTED:
            codes = np.concatenate(list(self.encoding.enumerate()))
            return np.asarray(codes[int(np.argmin(sign * self.predict(codes)))])
        rng = np.random.default_rng(0)
        starts = self.encoding.sample(1 if not self._joint else 24, rng)
        best = min((self._descend(row.copy(), sign) for row in starts), key=lambda item: item[0])
        return best[1]

    def _descend(self, row: np.ndarray, sign: int) -> tuple[float, np.ndarray]:
        row = np.maximum(row, 0)
        value = np.inf
        while True:
            for d, decision in enumerate(self.encoding.decisions):
                options = np.repeat(row[None], len(decision), axis=0)
                options[:, d] = range(len(decision))
                row = options[int(np.argmin(sign * self.predict(options)))]
            now = float(sign * self.predict(row[None])[0])
            if now >= value:
                return now, self.encoding.canonical(row[None])[0]
            value = now

    # -- layout of the lookups

    @cached_property
    def _conditional(self) -> bool:
        return any(() not in d.reach for d in self.encoding.decisions)

    @cached_property
    def _singles(self) -> list[CostTerm]:
        return [t for t in self.cost_terms if len(t.decisions) == 1]

    @cached_property
    def _joint(self) -> list[CostTerm]:
        return [t for t in self.cost_terms if len(t.decisions) > 1]

    @cached_property
    def _single(self) -> np.ndarray:
        return np.concatenate([t.costs for t in self._singles]) if self._singles else np.empty(0)

    @cached_property
    def _single_decisions(self) -> list[int]:
        return [t.decisions[0] for t in self._singles]

    @cached_property
    def _single_offsets(self) -> np.ndarray:
        sizes = [len(t.costs) for t in self._singles]
        return np.cumsum([0, *sizes[:-1]], dtype=np.int32)[:, None]


def _costs(term: Term, costs: np.ndarray) -> np.ndarray:
    return np.asarray(costs[term.workloads].sum(axis=0).reshape(term.sizes))


def _like(costs: np.ndarray, sample: Any) -> Any:
    """The costs as numpy, or as a torch tensor beside `sample`."""
    return costs if isinstance(sample, np.ndarray) else sample.new_tensor(costs)
