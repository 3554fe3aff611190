"""ProxylessNAS by gradient: Cai, Zhu, Han, ICLR 2019, arXiv:1812.00332."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..spaces.space import SearchSpace
from .algorithm import Algorithm, Budget, Task
from .alpha import ArchitectureParameters, arrays, normalised_entropy, softmax
from .derive import Derived, most_probable
from .gates import GateRequest
from .objective import Objective
from .settings import GradientSettings

TRAVEL = 15.0
"""Learning rate times updates: by 3 choices hardly settle, by 30 they settle within the first third."""
FASTEST = 0.3


def learning_rate(given: float | None, updates: int) -> float:
    """Of the architecture parameters, where none is given: so that they can travel equally far in any search."""
    return min(TRAVEL / max(updates, 1), FASTEST) if given is None else given


class Gradient(Algorithm):
    """Samples a path, and moves alpha by the gates' derivatives: dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i).

    In mode "two" p is renormalised over two sampled candidates; cross-entropy and latency then move these two alone,
    and both are shifted after the step so that the probabilities of all others stay.
    """

    name: ClassVar[str] = "gradient"

    def __init__(
        self, space: SearchSpace, objective: Objective, settings: GradientSettings, budget: Budget, seed: int
    ) -> None:
        super().__init__(space, objective, settings, budget, seed)
        self.alpha = ArchitectureParameters(space.decisions, settings.init, settings.init_scale, seed)
        self.optimizer = torch.optim.Adam(
            self.alpha.tensors,
            lr=learning_rate(settings.lr, budget.updates),
            betas=(float(settings.betas[0]), float(settings.betas[1])),
            weight_decay=settings.weight_decay,
        )
        self._probabilities: list[NDArray[np.float64]] | None = None

    def probabilities(self) -> list[NDArray[np.float64]]:
        if self._probabilities is None:
            with torch.no_grad():
                self._probabilities = arrays(softmax(self.objective.logits(self.alpha.tensors)))
        return self._probabilities

    def update(self, task: Task, step: int) -> Mapping[str, float]:
        rng = np.random.default_rng([self.seed, 0x6AD, step])
        logits = self.objective.logits(self.alpha.tensors)
        everywhere = softmax(logits)
        pairs = None
        if self.settings.mode == "two":
            pairs = [_pair(p, rng) for p in arrays(everywhere)]
            near = [torch.softmax(z[pair], 0) for z, pair in zip(logits, pairs, strict=True)]
            path, partner = _draw_of_pairs(pairs, arrays(near), rng)
            result = task.gates(GateRequest(path, "two", partner))
            gated = [g[pair] @ p for g, p, pair in zip(result.gradients, near, pairs, strict=True)]
            shown = [_confined(p, n, pair) for p, n, pair in zip(everywhere, near, pairs, strict=True)]
        else:
            path = np.array([_draw(p, rng) for p in arrays(everywhere)])
            result = task.gates(GateRequest(path, self.settings.mode))
            gated = [g @ p for g, p in zip(result.gradients, everywhere, strict=True)]
            shown = everywhere
        # copies: without a tilt the logits are alpha itself, which the step changes
        start = [(z.detach().clone(), a.detach().clone()) for z, a in zip(logits, self.alpha.tensors, strict=True)]
        self._step(torch.tensor(result.loss, dtype=torch.float64, requires_grad=True), gated, shown)
        if pairs is not None:
            self._keep_others(start, pairs)
        self._probabilities = None
        return {"loss": result.loss, **self._after()}

    def _step(self, loss: Tensor, gated: Sequence[Tensor], shown: Sequence[Tensor]) -> None:
        total = self.objective.loss(loss, shown)
        (weight,) = torch.autograd.grad(total, loss, retain_graph=True, allow_unused=True)
        through_gates = sum(gated) * (0.0 if weight is None else weight)
        self.optimizer.zero_grad(set_to_none=True)
        (total + through_gates).backward()
        self.optimizer.step()

    def _keep_others(self, start: Sequence[tuple[Tensor, Tensor]], pairs: Sequence[Tensor]) -> None:
        """Shift each pair so that the sum of its exponentials is what it was before the step.

        Args:
            start: logits and alpha of each decision before the step.
        """
        with torch.no_grad():
            for alpha, (z, before), pair in zip(self.alpha.tensors, start, pairs, strict=True):
                moved = z[pair] + alpha[pair] - before[pair]  # under the tilt of this step
                alpha[pair] -= torch.logsumexp(moved, 0) - torch.logsumexp(z[pair], 0)

    def _after(self) -> dict[str, float]:
        return {"entropy": float(np.mean(normalised_entropy(self.probabilities())))}

    def ranked(self, n: int) -> Sequence[Derived]:
        return most_probable(
            self.space, self.probabilities(), self.objective.latency, rule=self.objective.rule, n=n, seed=self.seed
        )

    def state(self) -> dict[str, Any]:
        return {"alpha": self.alpha.state(), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.alpha.load_state(state["alpha"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._probabilities = None


def _draw(p: np.ndarray, rng: np.random.Generator) -> int:
    return min(int(np.searchsorted(np.cumsum(p), rng.random() * p.sum(), side="right")), len(p) - 1)


def _pair(p: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Two candidates drawn without replacement (the largest two of log p + Gumbel noise), ascending."""
    with np.errstate(divide="ignore"):
        keys = np.log(p) + rng.gumbel(size=len(p))
    return torch.from_numpy(np.sort(np.argsort(-keys)[:2]))


def _draw_of_pairs(
    pairs: Sequence[Tensor], near: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Active candidate and partner of every decision; -1 where there is but one candidate."""
    path, partner = [], []
    for pair, p in zip(pairs, near, strict=True):
        first = _draw(p, rng)
        path.append(int(pair[first]))
        partner.append(int(pair[1 - first]) if len(pair) == 2 else -1)
    return np.array(path), np.array(partner)


def _confined(p: Tensor, near: Tensor, pair: Tensor) -> Tensor:
    """The same probabilities, differentiable only in how the pair shares its own sum."""
    return p.detach().index_copy(0, pair, p.detach()[pair].sum() * near)
