"""Networks that pass messages along the edges of graphs, several at once, in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..graphs import GraphBatch

if TYPE_CHECKING:
    from torch import Tensor

Weights = dict[str, np.ndarray]
BATCH = 64
"""Graphs a step."""
WARM = 0.1
"""Share of the steps in which the rate rises; then it falls to 0."""


@dataclass(frozen=True)
class MessagePassing:
    """Several networks (members) of one form; each gives one number a graph, a sum over its nodes.

    A node's state h (at first a layer of its features) becomes h + relu(S h + I r + O q + G m + b), with r the sum over
    the nodes it reads, q over those that read it, and m over all of the graph, the global node of BRP-NAS
    (Dudziak et al., arXiv:2007.08668); the sum over nodes of a layer on their last states is the output.

    Attributes:
        members: networks. features: of a node. width: of its state. rounds: of messages.
        degree, nodes: how many nodes one reads, and a graph has, in the mean: sums are in their proportion.
    """

    members: int
    features: int
    width: int
    rounds: int
    degree: float
    nodes: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights (members, in, out) and biases (members, 1, out); S, I and O are side by side."""
        k, h = self.members, self.width
        found = {"in": (k, self.features, h), "in.bias": (k, 1, h)}
        for r in range(self.rounds):
            found |= {f"{r}.nodes": (k, h, 3 * h), f"{r}.all": (k, h, h), f"{r}.bias": (k, 1, h)}
        return {**found, "out": (k, h, h), "out.bias": (k, 1, h), "cost": (k, h, 1)}

    def start(self, rng: np.random.Generator) -> Weights:
        """Random weights with which states neither grow nor vanish, and outputs are near 0."""
        found = {}
        for name, shape in self.shapes().items():
            size = 0.0 if name.endswith("bias") else 0.03 if name == "cost" else 0.5 if name[0].isdigit() else 1.0
            found[name] = (rng.standard_normal(shape) * size * np.sqrt(2 / shape[1])).astype(np.float32)
        return found

    def outputs(self, weights: Mapping[str, np.ndarray], graphs: GraphBatch) -> NDArray[np.float64]:
        """(members, N)"""
        import torch

        with torch.no_grad():
            found = self._forward({name: torch.from_numpy(own) for name, own in weights.items()}, *_tensors(graphs))
        return np.asarray(found.numpy(), np.float64)

    def trained(
        self, graphs: GraphBatch, aim: Aim, rng: np.random.Generator, *, steps: int, rate: float, decay: float
    ) -> Weights:
        """Weights after `steps` of AdamW (Loshchilov and Hutter, arXiv:1711.05101); the rate rises, then falls to 0.

        Args:
            decay: of weights, biases left out.
        """
        import torch

        weights = {name: torch.from_numpy(own).requires_grad_() for name, own in self.start(rng).items()}
        biases = [own for name, own in weights.items() if name.endswith("bias")]
        others = [own for name, own in weights.items() if not name.endswith("bias")]
        groups = [{"params": others, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=rate)
        tensors, parts = _tensors(graphs), [torch.from_numpy(np.array(own, np.float32)) for own in aim.arrays()]
        for step, own in enumerate(_batches(len(graphs.nodes), steps, rng)):
            for group in optimizer.param_groups:
                group["lr"] = rate * _rate(step / steps)
            optimizer.zero_grad()
            out = self._forward(weights, *(tensor[own] for tensor in tensors))
            loss = _loss(out, *(part[:, own] for part in parts))
            loss.backward()
            optimizer.step()
        return {name: own.detach().numpy() for name, own in weights.items()}

    def _forward(self, weights: Mapping[str, Tensor], nodes: Tensor, reads: Tensor, there: Tensor) -> Tensor:
        reads = reads / self.degree
        readers, mask = reads.transpose(1, 2), there.reshape(-1, 1)
        shape = (self.members, *there.shape, self.width)
        state = (nodes.flatten(0, 1) @ weights["in"] + weights["in.bias"]).relu() * mask
        for r in range(self.rounds):
            own, read, reader = (state @ weights[f"{r}.nodes"]).split(self.width, 2)
            message = reads @ read.reshape(shape) + readers @ reader.reshape(shape)
            whole = state.view(shape).sum(2) / self.nodes @ weights[f"{r}.all"] + weights[f"{r}.bias"]
            message = message + whole[:, :, None] + own.reshape(shape)
            state = state + message.relu().flatten(1, 2) * mask
        last = (state @ weights["out"] + weights["out.bias"]).relu() * mask
        return (last @ weights["cost"]).view(shape[:3]).sum(2) / self.nodes**0.5


@dataclass(frozen=True, eq=False)
class Aim:
    """What the members' outputs g are to make true: base + unit * g = y, by relative error.

    Attributes:
        base: (members, N). y: (N,). unit, spread: (members, 1); of the latter, that of the relative errors without g,
            larger ones count in proportion, not by their square (Huber).
        least: of what base + unit * g may be.
        seen: (members, N) whether a member may learn from a row.
    """

    base: NDArray[np.float64]
    unit: NDArray[np.float64]
    y: NDArray[np.float64]
    spread: NDArray[np.float64]
    least: float
    seen: NDArray[np.bool_]

    def arrays(self) -> list[NDArray[Any]]:
        """Relative to y, (members, N) each."""
        parts = (self.base / self.y, self.unit / self.y, self.least / self.y, self.spread, self.seen)
        return [np.broadcast_to(own, self.base.shape) for own in parts]


def _loss(out: Tensor, base: Tensor, unit: Tensor, least: Tensor, spread: Tensor, seen: Tensor) -> Tensor:
    error = (base + unit * out).maximum(least).log() / spread
    size = error.abs()
    huber = 0.5 * size.clamp(max=1) ** 2 + (size - 1).clamp(min=0)
    return (huber * seen).sum() / seen.shape[1]


def _batches(n: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Rows of each step; every row comes once before one comes again."""
    size, order = min(BATCH, n), np.empty(0, np.intp)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(n)])
        own, order = order[:size], order[size:]
        yield own


def _rate(done: float) -> float:
    return done / WARM if done < WARM else float(0.5 + 0.5 * np.cos(np.pi * (done - WARM) / (1 - WARM)))


def _tensors(graphs: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    parts = (torch.from_numpy(np.ascontiguousarray(own)) for own in (graphs.nodes, graphs.reads, graphs.there))
    nodes, reads, there = parts
    return nodes, reads, there
