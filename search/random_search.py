"""Random search: the best of networks on target that are drawn uniformly. What other algorithms have to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .algorithm import Algorithm, Budget, SearchError, Task
from .alpha import arrays, softmax
from .derive import Derived, draw_in_band
from .objective import Objective
from .sampled import Sampled, distinct, measures

TRIES = 8
"""Rounds of drawing, each for twice as many networks, before a draw gives what it has."""
LISTED = 50_000
"""Architectures up to which a space is listed to find networks that drawing did not."""


class Scoring(Algorithm):
    """What random search and evolution share: networks on target, each scored once, ranked by their rewards.

    Weight steps draw their paths uniformly (tilted towards the target where the objective tilts), so that no network is
    trained more for having been scored.
    """

    after_training: ClassVar[bool] = True

    def __init__(self, space: SearchSpace, objective: Objective, settings: Any, budget: Budget, seed: int) -> None:
        super().__init__(space, objective, settings, budget, seed)
        if measures(objective.latency):
            raise SearchError(
                f"{self.name} search has to know which networks are on target before it scores them, which measuring "
                "each of them would not allow: give it a predictor, or use reinforce"
            )
        self.scored = Sampled(len(space.decisions))
        self._probabilities: list[NDArray[np.float64]] | None = None

    def probabilities(self) -> list[NDArray[np.float64]]:
        if self._probabilities is None:
            flat = [torch.zeros(len(d), dtype=torch.float64) for d in self.space.decisions]
            self._probabilities = arrays(softmax(self.objective.logits(flat)))
        return self._probabilities

    def ranked(self, n: int) -> Sequence[Derived]:
        """The best scored networks that the objective accepts; before any is scored, some on target.

        There are no probabilities: `log_probability` is minus the place, 0 for the first.
        """
        scored = self.scored
        if not len(scored):
            scored = Sampled(len(self.space.decisions))
            rows = draw_new(self.space, self.objective, n, np.random.default_rng([self.seed, 0xF125]), scored)
            scored.add(rows, self.ratio(rows), np.zeros(len(rows)))
        order = scored.order(scored.worth, self.objective)
        return [scored.derived(number, float(-place)) for place, number in enumerate(order[:n])]

    def score(self, task: Task, codes: Codes) -> dict[str, float]:
        """Score new networks; returns what is worth logging."""
        if not len(codes):
            return {"scored": float(len(self.scored))}
        accuracy = np.nan_to_num(np.asarray(task.accuracy(codes), float), nan=0.0)
        ratio = self.ratio(codes)
        worth = self.objective.reward(accuracy, codes, ratio)
        if not np.isfinite(worth).all():
            raise SearchError(f"rewards are not finite: {worth.tolist()}")
        self.scored.add(codes, ratio, worth)
        best = self.scored.worth[self.scored.order(self.scored.worth, self.objective)[0]]
        found = {"reward": float(worth.mean()), "best": float(best), "accuracy": float(accuracy.mean())}
        return {**found, "scored": float(len(self.scored))}

    def ratio(self, codes: Codes) -> NDArray[np.float64] | None:
        """(N,) latency / target; None where latency plays no part."""
        latency = self.objective.latency
        return None if latency is None else latency.ratio(codes)

    def state(self) -> dict[str, Any]:
        return {"scored": self.scored.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scored.load_state(state["scored"])


class RandomSearch(Scoring):
    """Different networks on target, drawn uniformly; once all of them are scored, no more are."""

    name: ClassVar[str] = "random"

    def update(self, task: Task, step: int) -> Mapping[str, float]:
        rng = np.random.default_rng([self.seed, 0x4A2D, step])
        return self.score(task, draw_new(self.space, self.objective, self.settings.batch, rng, self.scored))


def draw_new(space: SearchSpace, objective: Objective, n: int, rng: np.random.Generator, known: Sampled) -> Codes:
    """(up to n, decisions) different networks that the objective accepts and that are not known, (nearly) uniformly.

    There are fewer where that many more do not exist, or were not found in a large space. While none at all is known,
    the nearest to the target that were found stand in for accepted ones.
    """
    found: Codes = np.empty((0, len(space.decisions)), np.int16)
    rows = found
    for attempt in range(TRIES):
        rows = draw_in_band(space, objective.latency, 2**attempt * n, rng, rule=objective.rule)
        found = distinct(np.concatenate([found, accepted(objective, rows, known)]))[0]
        if len(found) >= n:
            return found[:n]
    if space.size <= LISTED:
        every = np.concatenate(list(space.encoding.enumerate()))
        found = rng.permutation(accepted(objective, every, known))
    return found[:n] if len(found) or len(known) else distinct(rows)[0][:n]


def accepted(objective: Objective, codes: Codes, known: Sampled) -> Codes:
    """Those rows that the objective accepts and that are not known."""
    new = codes[known.find(codes) < 0]
    if objective.latency is None or not len(new):
        return new
    return np.asarray(new[objective.accepts(objective.latency.ratio(new))])
