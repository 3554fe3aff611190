"""REINFORCE over architecture parameters, as in ProxylessNAS: Cai, Zhu, Han, ICLR 2019, arXiv:1812.00332, 3.3."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .algorithm import Algorithm, Budget, SearchError, Task
from .alpha import ArchitectureParameters, arrays, normalised_entropy, softmax
from .derive import Derived, most_probable
from .objective import Objective
from .sampled import Sampled, accuracies, distinct
from .settings import ReinforceSettings

TRAVEL = 5.0
"""Learning rate times updates. In simulated searches the network found was as good with 3 as with 10; from 15 on the
samples were all alike long before the end."""
FASTEST = 0.3


class Reinforce(Algorithm):
    """Samples networks a from p = softmax(logits), and moves alpha by what they are worth:

        L = - mean over a of  log p(a) * (R(a) - b)  -  entropy * H(p)

    log p(a) is over the decisions that a reaches. The baseline b is a running mean of the updates' mean rewards,
    b <- decay * b + (1 - decay) * mean R; the first update's mean is what it begins with. A network that was drawn
    several times in an update is scored once; one that cannot be scored (NaN) counts as never right.

    Where latency is measured instead of predicted, each network is measured once, and only networks that were sampled
    are ranked.
    """

    name: ClassVar[str] = "reinforce"

    def __init__(
        self, space: SearchSpace, objective: Objective, settings: ReinforceSettings, budget: Budget, seed: int
    ) -> None:
        super().__init__(space, objective, settings, budget, seed)
        _check(settings)
        self.alpha = ArchitectureParameters(space.decisions, settings.init, settings.init_scale, seed)
        self.optimizer = torch.optim.Adam(
            self.alpha.tensors,
            lr=min(TRAVEL / max(budget.updates, 1), FASTEST) if settings.lr is None else settings.lr,
            betas=(float(settings.betas[0]), float(settings.betas[1])),
        )
        self.baseline: float | None = None
        measures = objective.latency is not None and objective.latency.measures
        self.measured = Sampled(len(space.decisions)) if measures else None
        self._probabilities: list[NDArray[np.float64]] | None = None

    def probabilities(self) -> list[NDArray[np.float64]]:
        if self._probabilities is None:
            with torch.no_grad():
                self._probabilities = arrays(softmax(self.objective.logits(self.alpha.tensors)))
        return self._probabilities

    def update(self, task: Task, step: int) -> Mapping[str, float]:
        rng = np.random.default_rng([self.seed, 0x2E1F, step])
        logits = self.objective.logits(self.alpha.tensors)
        drawn = self.space.encoding.sample(self.settings.samples, rng, arrays(softmax(logits)))
        codes, each = distinct(drawn)
        accuracy = accuracies(task, codes)
        ratio = self._ratio(codes)
        rewards = self.objective.reward(accuracy, codes, ratio)[each]
        if not np.isfinite(rewards).all():
            raise SearchError(f"architecture update {step}: rewards are not finite: {rewards.tolist()}")
        mean = float(rewards.mean())
        decay = self.settings.baseline_decay
        self.baseline = mean if self.baseline is None else decay * self.baseline + (1 - decay) * mean
        self._step(logits, drawn, rewards - self.baseline)
        return {
            "reward": mean,
            "baseline": self.baseline,
            "accuracy": float(accuracy[each].mean()),
            **self._after(None if ratio is None else float(ratio[each].mean())),
        }

    def ranked(self, n: int) -> Sequence[Derived]:
        p, objective = self.probabilities(), self.objective
        if self.measured is None:
            return most_probable(self.space, p, objective.latency, rule=objective.rule, n=n, seed=self.seed)
        if not len(self.measured):
            return most_probable(self.space, p, None, rule="argmax", n=n, seed=self.seed)
        with np.errstate(divide="ignore"):
            logs = log_probability([torch.from_numpy(np.log(q)) for q in p], self.measured.codes).numpy()
        return [self.measured.derived(i, float(logs[i])) for i in self.measured.order(logs, objective)[:n]]

    def state(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha.state(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "baseline": self.baseline,
            "measured": None if self.measured is None else self.measured.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.alpha.load_state(state["alpha"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.baseline = state["baseline"]
        if self.measured is not None and state["measured"] is not None:
            self.measured.load_state(state["measured"])
        self._probabilities = None

    # -- inside

    def _ratio(self, codes: Codes) -> NDArray[np.float64] | None:
        """(N,) latency / target of different networks."""
        latency = self.objective.latency
        if latency is None or self.measured is None:
            return None if latency is None else latency.ratio(codes)
        new = codes[self.measured.find(codes) < 0]
        if len(new):
            self.measured.add(new, latency.ratio(new), np.zeros(len(new)))
        return np.asarray(self.measured.ratio[self.measured.find(codes)])

    def _step(self, logits: Sequence[Tensor], drawn: Codes, advantage: NDArray[np.float64]) -> None:
        logs = [torch.log_softmax(z, 0) for z in logits]
        loss = -(log_probability(logs, drawn) * torch.from_numpy(advantage)).mean()
        if self.settings.entropy:
            loss = loss + self.settings.entropy * sum((log.exp() * log).sum() for log in logs)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._probabilities = None

    def _after(self, sampled: float | None) -> dict[str, float]:
        """Tell the objective the mean ratio of the samples."""
        found = {"entropy": float(np.mean(normalised_entropy(self.probabilities())))}
        if sampled is None:
            return found
        self.objective.observe(sampled)
        return {**found, "ratio": sampled}


def log_probability(logs: Sequence[Tensor], codes: Codes) -> Tensor:
    """(N,) log p of encoded networks, over the decisions that each of them reaches.

    Args:
        logs: logarithms of the candidates' probabilities, one vector a decision.
        codes: (N, decisions) canonical.
    """
    total = torch.zeros(len(codes), dtype=torch.float64)
    for log, column in zip(logs, torch.from_numpy(codes.astype(np.int64)).T, strict=True):
        total = total + torch.where(column >= 0, log[column.clamp(min=0)], 0.0)
    return total


def _check(settings: ReinforceSettings) -> None:
    """Raise SearchError for settings with which there is nothing to learn from."""
    if settings.samples < 1:
        raise SearchError(f"reinforce needs at least one sample in an update, not {settings.samples}")
    if not 0 <= settings.baseline_decay <= 1:
        raise SearchError(f"reinforce: baseline_decay must be between 0 and 1, not {settings.baseline_decay:g}")
