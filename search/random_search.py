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
from .derive import Derived
from .objective import Objective
from .on_target import OnTarget
from .sampled import Sampled, accuracies


class Scoring(Algorithm):
    """What random search and evolution share: networks on target, each scored once, ranked by their rewards.

    Weight steps draw their paths uniformly (tilted to the target where the objective tilts), so that no network is
    trained more for having been scored.
    """

    after_training: ClassVar[bool] = True

    def __init__(self, space: SearchSpace, objective: Objective, settings: Any, budget: Budget, seed: int) -> None:
        super().__init__(space, objective, settings, budget, seed)
        if objective.latency is not None and objective.latency.measures:
            raise SearchError(
                f"{self.name} search scores networks on target only and so would have to measure many more than it "
                "scores: give it a predictor, or search with reinforce"
            )
        if settings.batch < 1:
            raise SearchError(f"{self.name}: batch must be at least 1, not {settings.batch}")
        self.on_target = OnTarget(space, objective)
        self.scored = Sampled(len(space.decisions))
        self._probabilities: list[NDArray[np.float64]] | None = None

    def probabilities(self) -> list[NDArray[np.float64]]:
        if self._probabilities is None:
            flat = [torch.zeros(len(d), dtype=torch.float64) for d in self.space.decisions]
            self._probabilities = arrays(softmax(self.objective.logits(flat)))
        return self._probabilities

    def ranked(self, n: int) -> Sequence[Derived]:
        """The best scored networks that the objective accepts; before any is scored, some that are drawn.

        There are no probabilities: `log_probability` is minus the place, 0 for the first.
        """
        scored = self.scored
        if not len(scored):
            scored = Sampled(len(self.space.decisions))
            rows = self.on_target.draw(n, np.random.default_rng([self.seed, 0xF125]), scored)
            scored.add(rows, self.on_target.ratio(rows), np.zeros(len(rows)))
        order = scored.order(scored.worth, self.objective)[:n]
        return [scored.derived(number, float(-place)) for place, number in enumerate(order)]

    def score(self, task: Task, codes: Codes) -> dict[str, float]:
        """Score new networks; returns what is worth logging."""
        found = {"new": float(len(codes))}
        if len(codes):
            accuracy = accuracies(task, codes)
            ratio = self.on_target.ratio(codes)
            worth = self.objective.reward(accuracy, codes, self._counted(ratio))
            if not np.isfinite(worth).all():
                raise SearchError(f"rewards are not finite: {worth.tolist()}")
            self.scored.add(codes, ratio, worth)
            found |= {"reward": float(worth.mean()), "accuracy": float(accuracy.mean())}
        if len(self.scored):
            best = self.scored.order(self.scored.worth, self.objective)[0]
            found["best"] = float(self.scored.worth[best])
        return found

    def _counted(self, ratio: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """The ratios that rewards are for: what is held at a target is on it wherever in the band it lies."""
        if ratio is None or self.objective.kind not in ("hold", "limit"):
            return ratio
        return np.where(self.objective.accepts(ratio), 1.0, ratio)

    def state(self) -> dict[str, Any]:
        return {"scored": self.scored.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scored.load_state(state["scored"])


class RandomSearch(Scoring):
    """Different networks on target, drawn uniformly; once all of them are scored, no more are."""

    name: ClassVar[str] = "random"

    def update(self, task: Task, step: int) -> Mapping[str, float]:
        rng = np.random.default_rng([self.seed, 0x4A2D, step])
        return self.score(task, self.on_target.draw(self.settings.batch, rng, self.scored))
