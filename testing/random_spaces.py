"""Random supernets: graphs of operators, with nested and tied choices, dead ends, strides and inputs to choose from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spaces.choices import InputChoice, LayerChoice
from ..spaces.space import SearchSpace
from .zoo_graphs import Zero

WIDTH = 2
LENGTH = 16


def random_space(seed: int) -> SearchSpace:
    """The same for the same seed."""
    return SearchSpace(lambda: RandomNet(np.random.default_rng(seed)), (WIDTH, LENGTH), name=f"random{seed}")


class RandomNet(nn.Module):
    """A random graph; each node takes one or several earlier ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng
        self.shared = LayerChoice({"conv": self._conv(), "relu": nn.ReLU(), "none": Zero()}, label="shared")
        self.ops = nn.ModuleList()
        self.joins = nn.ModuleDict()
        self.sources: list[list[int]] = []
        for n in range(1, int(rng.integers(3, 7))):
            count = int(rng.integers(1, min(n, 3) + 1))
            self.sources.append(sorted(rng.choice(n, count, replace=False).tolist()))
            if count > 1 and rng.random() < 0.7:
                self.joins[str(n)] = self._join(count)
            self.ops.append(self._operator(0))
        self.out_sources = sorted(rng.choice(len(self.ops) + 1, 2, replace=False).tolist())
        self.last = LayerChoice([nn.Identity(), nn.Tanh()])

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for n, (op, sources) in enumerate(zip(self.ops, self.sources, strict=True), 1):
            inputs = [nodes[s] for s in sources]
            if len(inputs) > 1:
                inputs = [F.adaptive_avg_pool1d(i, LENGTH) for i in inputs]
                y = self.joins[str(n)](inputs) if str(n) in self.joins else torch.stack(inputs).sum(0)
                y = y if isinstance(y, Tensor) else y[0] * y[-1]
            else:
                y = inputs[0]
            nodes.append(op(y))
        a, b = (nodes[s].mean(-1) for s in self.out_sources)
        return torch.as_tensor(self.last(torch.cat([a, b], 1)))

    def _conv(self) -> nn.Module:
        return nn.Conv1d(WIDTH, WIDTH, int(self.rng.choice([1, 3])), padding="same")

    def _join(self, count: int) -> InputChoice:
        if self.rng.random() < 0.3:
            return InputChoice(2, 1, label="pair") if count == 2 else InputChoice(3, 2, "none", label="triple")
        return InputChoice(count, None if self.rng.random() < 0.5 else 1, "mean")

    def _operator(self, depth: int) -> nn.Module:
        kind = self.rng.choice(["conv", "relu", "shared", "tied", "strides", "own", "nested", "chain"])
        if depth > 1 and kind in ("nested", "chain"):
            kind = "own"
        if kind == "shared":
            return self.shared
        if kind == "tied":
            return LayerChoice({"conv": self._conv(), "id": nn.Identity(), "none": Zero()}, label="tied")
        if kind == "strides":
            label = "strides" if self.rng.random() < 0.5 else None
            return LayerChoice({"s1": self._conv(), "s2": nn.MaxPool1d(2, ceil_mode=True)}, label=label)
        if kind == "own":
            return LayerChoice([self._conv(), nn.Identity(), Zero()][int(self.rng.integers(2)) :])
        if kind == "nested":
            deep = nn.Sequential(self._operator(depth + 1), nn.Sigmoid(), self._operator(depth + 1))
            return LayerChoice({"deep": deep, "id": nn.Identity(), "other": self._operator(depth + 1)})
        if kind == "chain":
            return nn.Sequential(self._operator(depth + 1), self._operator(depth + 1))
        return self._conv() if kind == "conv" else nn.ReLU()
