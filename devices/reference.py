"""A fixed piece of arithmetic whose time tells at what speed the core runs right now.

Cores change their clock in steps of a few percent, several times a second, and share units with their neighbours. What
is measured between two timings of the reference can be divided by it.
"""

from __future__ import annotations

import time

import numpy as np

SIZE = 48
REPEATS = 3


class Reference:
    """A small matrix product that stays in the first-level cache, about ten microseconds."""

    def __init__(self) -> None:
        self._matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
        self._out = np.empty_like(self._matrix)

    def nanoseconds(self) -> int:
        """Wall-clock time of three products, the best of three."""
        matrix, out = self._matrix, self._out
        best = 1 << 62
        for _ in range(REPEATS):
            start = time.perf_counter_ns()
            np.dot(matrix, matrix, out=out)
            np.dot(matrix, matrix, out=out)
            np.dot(matrix, matrix, out=out)
            best = min(best, time.perf_counter_ns() - start)
        return best
