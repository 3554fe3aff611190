"""Timing one call after the other by two clocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def time_calls(call: Callable[[], object], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) wall-clock nanoseconds and CPU nanoseconds of this thread, of `n` calls in a row."""
    wall, cpu = np.empty(n, np.int64), np.empty(n, np.int64)
    wall_ns, cpu_ns = time.perf_counter_ns, time.thread_time_ns
    for i in range(n):
        cpu_start = cpu_ns()
        wall_start = wall_ns()
        call()
        wall_end = wall_ns()
        cpu[i] = cpu_ns() - cpu_start
        wall[i] = wall_end - wall_start
    return wall, cpu
