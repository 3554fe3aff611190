"""The global random generators, lent to foreign code for a moment."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class OwnRandomness:
    """States of the global generators of torch (CPU), numpy and Python that belong to one piece of foreign code.

    Args:
        numbers: from which all of them are seeded.
        generators: further generators that the code draws from.
    """

    def __init__(self, numbers: Sequence[int], generators: Sequence[torch.Generator] = ()) -> None:
        self.generators = [torch.default_generator, *generators]
        seeds = np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(3, np.uint64)
        torch_seed, numpy_seed, python_seed = (int(s) for s in seeds)
        states = [torch.Generator().manual_seed(torch_seed + i).get_state() for i in range(len(self.generators))]
        numpy_state = np.random.RandomState(numpy_seed % 2**32).get_state(legacy=False)
        self.states = (states, numpy_state, random.Random(python_seed).getstate())

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the generators go on where they were at the end of the last time; outside, nothing has changed.

        The states are the process's own: no other thread may draw meanwhile.
        """
        outside = self._read()
        self._write(self.states)
        try:
            yield
        finally:
            self.states = self._read()
            self._write(outside)

    def _read(self) -> tuple[list[torch.Tensor], Any, Any]:
        return [g.get_state() for g in self.generators], np.random.get_state(legacy=False), random.getstate()

    def _write(self, states: tuple[list[torch.Tensor], Any, Any]) -> None:
        for generator, state in zip(self.generators, states[0], strict=True):
            generator.set_state(state)
        np.random.set_state(states[1])
        random.setstate(states[2])
