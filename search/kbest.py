"""The most probable architectures of an additive table whose latency lies between two bounds, exactly.

Each decision c takes a candidate i with log probability logs[c][i] and cost costs[c][i]. A best-first search (A*) over
the decisions in order expands the prefix with the largest upper bound: its own log probability plus that of the best
completion whose cost can still bring the sum between the bounds. The latter comes from a max-plus recursion over the
suffixes on a grid of costs; rounding is outward, so that the bound is never too small and what is found is exact.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

CELLS = 1 << 16
"""Of the grid, at most."""
FINENESS = 50
"""Grid cells that a decision's rounding takes of the distance between the bounds: one in so many."""
SLACK = 1e-9
"""Relative difference below which costs count as being on a bound."""


def k_best(
    logs: Sequence[NDArray[np.float64]],
    costs: Sequence[NDArray[np.float64]],
    low: float = -math.inf,
    high: float = math.inf,
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """(log probability, candidate of each decision) of all between the bounds, by falling probability.

    Args:
        logs: finite.
        costs: of the same shapes; sums from `low` to `high` are wanted, up to rounding.
    """
    start = sum(float(c.min()) for c in costs)
    above = [c - c.min() for c in costs]
    reach = sum(float(c.max()) for c in above)
    slack = SLACK * max(reach, abs(start), 1e-300)
    low, high = max(low - start, 0.0) - slack, min(high - start, reach) + slack
    if high < low:
        return
    bound = _Bound(logs, above, low, high)
    n = len(logs)
    # larger bounds first, then longer prefixes, so that ties are no detour
    queue: list[tuple[float, int, tuple[int, ...], float, float]] = [(-bound.of(0, 0.0), 0, (), 0.0, 0.0)]
    while queue:
        negative, depth, prefix, log, cost = heapq.heappop(queue)
        if -depth == n:
            yield -negative, prefix
            continue
        d = -depth
        following = zip(logs[d].tolist(), above[d].tolist(), strict=True)
        for i, (own_log, own_cost) in enumerate(following):
            best = bound.of(d + 1, cost + own_cost)
            if best > -math.inf:
                entry = (-(log + own_log + best), depth - 1, (*prefix, i), log + own_log, cost + own_cost)
                heapq.heappush(queue, entry)


class _Bound:
    """Largest log probability of the decisions from one on, for what was spent before."""

    def __init__(self, logs: Sequence[np.ndarray], costs: Sequence[np.ndarray], low: float, high: float) -> None:
        n = len(logs)
        self.low, self.high = low, high
        fine = (high - low) / (FINENESS * max(n, 1))
        self.cell = max(fine, high / CELLS, 1e-300)
        cells = int(high / self.cell) + 2
        best = np.full(cells, -np.inf)
        best[0] = 0.0
        self.n = n
        self._window: list[NDArray[np.float64]] = [best] * n
        self._upto: list[NDArray[np.float64]] = [best] * n
        for d in range(n - 1, -1, -1):
            best = _extended(best, logs[d], np.floor(costs[d] / self.cell).astype(np.int64))
            self._window[d] = _largest_ahead(best, int((high - low) / self.cell) + 2 + (n - d))
            self._upto[d] = np.maximum.accumulate(best)

    def of(self, d: int, spent: float) -> float:
        """-inf where no completion leads between the bounds."""
        if d == self.n:
            return 0.0 if self.low <= spent <= self.high else -math.inf
        if spent > self.high:
            return -math.inf
        # each of the remaining costs was rounded down by less than one cell
        first = math.floor((self.low - spent) / self.cell) - (self.n - d)
        if first > 0:
            return float(self._window[d][first])
        return float(self._upto[d][math.floor((self.high - spent) / self.cell)])


def _extended(best: NDArray[np.float64], logs: np.ndarray, cells: np.ndarray) -> NDArray[np.float64]:
    """best'[k] = max over candidates i of logs[i] + best[k - cells[i]]."""
    result = np.full(len(best), -np.inf)
    for log, shift in zip(logs.tolist(), cells.tolist(), strict=True):
        if shift < len(best):
            np.maximum(result[shift:], best[: len(best) - shift] + log, out=result[shift:])
    return result


def _largest_ahead(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """(same length) the largest of the next `width` values, from each one on."""
    result, done = values.copy(), 1
    while done < min(width, len(values)):
        step = min(done, width - done)
        np.maximum(result[:-step], result[step:].copy(), out=result[:-step])
        done += step
    return result
