"""Timing a program on a GPU: as a CUDA graph by events, or launched operator by operator by the host's clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

WARMUP = 3
BLOCK_MS = 0.2
"""What lies between two events lasts at least so long: their resolution is half a microsecond."""
MOST = 256
"""Repetitions of a program in one graph."""
AHEAD_CYCLES = 1_000_000
"""For so long the GPU waits before it begins (about half a millisecond), so that launches are queued by then."""

Call = Callable[..., Sequence[Any]]


class Timer(Protocol):
    """Runs a loaded model and times it."""

    def run(self, n: int) -> np.ndarray:
        """(n,) nanoseconds of one run each."""


class GraphTimer:
    """The program captured as a CUDA graph, so that no gap between launches hides the operators.

    Short programs stand in the graph many times, on inputs that take turns, and a sample is the mean of these.

    Args:
        call: the program. inputs: one or more sets of its inputs, on the GPU.
    """

    def __init__(self, call: Call, inputs: Sequence[Sequence[Tensor]]) -> None:
        import torch

        self._torch = torch
        self._call, self._inputs = call, inputs
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their algorithms here, which a capture does not allow
            for i in range(WARMUP * len(inputs)):
                call(*inputs[i % len(inputs)])
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._repeats = 1
        self._graph = self._captured()
        single = float(np.min(self.run(WARMUP))) / 1e6
        self._repeats = min(MOST, max(1, math.ceil(BLOCK_MS / max(single, 1e-4))))
        if self._repeats > 1:
            self._graph = self._captured()

    def run(self, n: int) -> np.ndarray:
        torch = self._torch
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(n)]
        torch.cuda._sleep(AHEAD_CYCLES)
        for start, end in pairs:
            start.record()
            self._graph.replay()
            end.record()
        torch.cuda.synchronize()
        ms = np.array([start.elapsed_time(end) for start, end in pairs])
        return np.asarray(np.rint(1e6 * ms / self._repeats), np.int64)

    def _captured(self) -> Any:
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph):
            for i in range(self._repeats):
                self._call(*self._inputs[i % len(self._inputs)])
        return graph


class EagerTimer:
    """The program launched operator by operator, as PyTorch runs a module; the host's clock, until all is done.

    Args:
        call, inputs: as in `GraphTimer`. synchronise: waits for the processor that runs it.
    """

    def __init__(self, call: Call, inputs: Sequence[Sequence[Tensor]], synchronise: Callable[[], None]) -> None:
        self._call, self._inputs, self._synchronise = call, inputs, synchronise
        self.run(WARMUP)

    def run(self, n: int) -> np.ndarray:
        found = np.empty(n, np.int64)
        for i in range(n):
            inputs = self._inputs[i % len(self._inputs)]
            self._synchronise()
            start = time.perf_counter_ns()
            self._call(*inputs)
            self._synchronise()
            found[i] = time.perf_counter_ns() - start
        return found
