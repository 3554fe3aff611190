"""Counts of a space's operators under each hypothesis of what a runtime makes of its networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..spaces.space import SearchSpace
from .hypotheses import HYPOTHESES, MORE, RUN, Hypothesis, core_names, count
from .regressors.base import Block
from .segments import Segment, segments

SAMPLE = 512
"""Architectures on which it is tried whether hypotheses differ."""
LONGEST = 300
"""Steps of one segment beyond which hypotheses are not worked out."""
LARGEST = MORE[0]
"""Of this one, the largest of all segments counts, of all others the sum."""


@dataclass(frozen=True, eq=False)
class GraphFeatures:
    """For the hypotheses that differ in this space; none where all come to the same, as in a chain of operators.

    Args:
        space: whose architectures.
    """

    space: SearchSpace

    @cached_property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Those that tell some architectures apart from each other, the first of those that come to the same."""
        if not self._segments or max(len(s.steps) for s in self._segments) > LONGEST:
            return ()
        codes = self.space.encoding.sample(SAMPLE, np.random.default_rng(0))
        found: dict[bytes, Hypothesis] = {}
        for hypothesis in HYPOTHESES:
            found.setdefault(self._counts(codes, hypothesis).tobytes(), hypothesis)
        return tuple(found.values()) if len(found) > 1 else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(f"{h.name}: {name}" for h in self.hypotheses for name in self._counted)

    def matrix(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N, columns) of (N, decisions) codes."""
        parts = [self._counts(codes, hypothesis) for hypothesis in self.hypotheses]
        return np.concatenate([np.empty((len(codes), 0)), *parts], axis=1)

    def blocks(self, offset: int, *, live: bool) -> tuple[Block, ...]:
        """Where the columns are.

        Args:
            offset: number of the first of them in the rows.
            live: whether the rows have the decisions a second time, as far as these are live.
        """
        n, width, core = len(self.space.decisions), len(self._counted), len(self._core)
        found = []
        for i, hypothesis in enumerate(self.hypotheses):
            own = range(offset + i * width, offset + (i + 1) * width)
            choices = range(n, 2 * n) if live and hypothesis.zeros != RUN else range(n)
            found.append(Block(hypothesis.name, tuple(own[:core]), tuple(own[core:]), tuple(choices)))
        return tuple(found)

    # -- inside

    @cached_property
    def _segments(self) -> dict[Segment, int]:
        return segments(self.space.description)

    @cached_property
    def _core(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for segment in self._segments for name in core_names(segment)))

    @property
    def _counted(self) -> tuple[str, ...]:
        return (*self._core, *MORE)

    def _counts(self, codes: np.ndarray, hypothesis: Hypothesis) -> NDArray[np.float64]:
        """(N, counted) of whole networks."""
        total = {name: np.zeros(len(codes)) for name in self._counted}
        for segment, times in self._segments.items():
            own = codes[:, list(segment.decisions)]
            _, first, back = np.unique(own, axis=0, return_index=True, return_inverse=True)
            for name, values in count(segment, codes[first], hypothesis).items():
                here = values[back.ravel()]
                total[name] = np.maximum(total[name], here) if name == LARGEST else total[name] + times * here
        return np.stack(list(total.values()), axis=1)
