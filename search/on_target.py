"""Networks that an objective accepts, for algorithms that score whole networks."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .derive import draw_in_band
from .goals import LISTED
from .objective import Objective
from .sampled import Sampled, distinct

TRIES = 4
"""Times that networks are drawn in a space that is too large to be listed, each time for twice as many."""


class OnTarget:
    """Finds new networks that the objective accepts."""

    def __init__(self, space: SearchSpace, objective: Objective) -> None:
        self.space = space
        self.objective = objective

    def ratio(self, codes: Codes) -> NDArray[np.float64] | None:
        """(N,) latency / target; None where latency plays no part."""
        latency = self.objective.latency
        return None if latency is None else latency.ratio(codes)

    def accepts(self, codes: Codes) -> NDArray[np.bool_]:
        """(N,) whether each network is accepted."""
        ratio = self.ratio(codes)
        return np.ones(len(codes), bool) if ratio is None else self.objective.accepts(ratio)

    @cached_property
    def listed(self) -> Codes | None:
        """All networks that are accepted, where the space has at most 50,000."""
        if self.space.size > LISTED:
            return None
        latency = self.objective.latency
        if latency is None or latency.listed is None:
            return np.concatenate(list(self.space.encoding.enumerate()))
        codes, ratio = latency.listed
        return np.asarray(codes[self.objective.accepts(ratio)])

    def exhausted(self, known: Sampled) -> bool:
        """Whether every network that is accepted is known."""
        return self.listed is not None and len(known) >= len(self.listed) > 0

    def draw(self, n: int, rng: np.random.Generator, known: Sampled) -> Codes:
        """(up to n, decisions) different networks that are accepted and not known, (nearly) uniformly.

        There are fewer where no more exist or, in large spaces, are found. Where none is accepted and none is known,
        the nearest to the target stand in.
        """
        if self.listed is not None and len(self.listed):
            new = self.listed[known.find(self.listed) < 0]
            return np.asarray(new[rng.choice(len(new), min(n, len(new)), replace=False)])
        latency, rule = self.objective.latency, self.objective.rule
        found: Codes = np.empty((0, len(self.space.decisions)), np.int16)
        for attempt in range(TRIES):
            rows = distinct(draw_in_band(self.space, latency, 2**attempt * n, rng, rule=rule))[0]
            new = rows[(known.find(rows) < 0) & self.accepts(rows)]
            found = distinct(np.concatenate([found, new]))[0]
            if len(found) >= n:
                break
        return found[:n] if len(found) or len(known) else rows[:n]
