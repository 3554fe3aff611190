"""Graph networks on what an additive model leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..graphs import GraphBatch, batch_of
from .base import Arrays, Meta, Regressor, Rows, State
from .matrix import Standard, dense
from .message_passing import Aim, MessagePassing
from .ridge import relative_ridge

Vector = NDArray[np.float64]
LEAST, BASE_LEAST = 0.1, 0.3
"""Shares of the smallest value that are predicted at least, and by the additive model."""
BLOCK = 512
"""Rows predicted at a time."""
FIRST_STEPS, MOST_STEPS = 100, 2500
"""Steps of training: the first number and the rows, not more than the second one."""


class Gcn(Regressor):
    """y ~ ridge regression on all columns by relative error + sum over a graph's nodes of what a network says of each.

    The network passes messages along the graph (see `message_passing`); the graphs are those of the networks' operators
    (see `graphs`), or, for rows without, of their columns. Each of several members is fitted on all rows but one fold;
    the mean of their predictions counts. So a row's held-out prediction is that of the one member that has not seen it,
    which is somewhat worse than the mean of several would be.

    Args:
        members: how many. width: of a node's state. rounds: of messages. rate, decay: of the training.
    """

    kind: ClassVar[str] = "gcn"
    folds: ClassVar[int] = 5

    def __init__(
        self, *, members: int = 5, width: int = 32, rounds: int = 3, rate: float = 5e-3, decay: float = 0.01
    ) -> None:
        self.settings: Meta = {"members": members, "width": width, "rounds": rounds, "rate": rate, "decay": decay}

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        n, members = len(y), int(self.settings["members"])
        self.columns, self.smallest = Standard.of(rows.numeric), float(y.min())
        graphs = batch_of(self._scaled(rows))
        self.features = Standard.of(graphs.nodes[graphs.there > 0].astype(float))
        self.network = self._network(graphs)
        fold = np.empty(n, np.intp)
        fold[rng.permutation(n)] = np.arange(n) % members
        seen = np.arange(members)[:, None] != fold
        matrix = dense(rows)
        own = [relative_ridge(_with_one(matrix[at]), y[at], np.ones(at.sum()))[0] for at in seen]
        self.ridge = np.stack(own)
        base = self._base(matrix)
        spread = [max(np.log(y[at] / of[at]).std(), 1e-9) for at, of in zip(seen, base, strict=True)]
        self.units = np.array(spread) * float(y.mean())
        ones = np.ones((1, n))
        aim = Aim(base, self.units[:, None] * ones, y, np.array(spread)[:, None] * ones, LEAST * self.smallest, seen)
        steps = min(FIRST_STEPS + n, MOST_STEPS)
        training = {"rate": float(self.settings["rate"]), "decay": float(self.settings["decay"])}
        self.weights = self.network.trained(self._standard(graphs), aim, rng, steps=steps, **training)
        self.held_out = self._by_member(rows)[fold, np.arange(n)]
        return self

    def predict(self, rows: Rows) -> Vector:
        return np.asarray(self._by_member(rows).mean(axis=0))

    def state(self) -> State:
        network, arrays = self.network, {f"weights.{name}": own for name, own in self.weights.items()}
        arrays |= {f"columns.{name}": own for name, own in self.columns.arrays().items()}
        arrays |= {f"features.{name}": own for name, own in self.features.arrays().items()}
        arrays |= {"ridge": self.ridge, "units": self.units}
        meta = {"settings": self.settings, "smallest": self.smallest, "degree": network.degree, "nodes": network.nodes}
        return meta, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.settings, self.smallest = dict(meta["settings"]), float(meta["smallest"])
        self.columns, self.features = (Standard.from_arrays(_named(name, arrays)) for name in ("columns", "features"))
        members, width, rounds = (int(self.settings[name]) for name in ("members", "width", "rounds"))
        features = len(self.features.mean)
        self.network = MessagePassing(members, features, width, rounds, float(meta["degree"]), float(meta["nodes"]))
        self.ridge, self.units = (np.asarray(arrays[name], float) for name in ("ridge", "units"))
        self.weights = {name: np.asarray(own, np.float32) for name, own in _named("weights", arrays).items()}
        if {name: own.shape for name, own in self.weights.items()} != self.network.shapes():
            raise ValueError("the weights of the graph networks do not fit each other")
        if self.ridge.ndim != 2 or len(self.ridge) != members or self.units.shape != (members,):
            raise ValueError("the additive models do not fit the graph networks")
        return self

    # -- inside

    def _by_member(self, rows: Rows) -> Vector:
        """(members, N)"""
        blocks = [np.empty((len(self.units), 0))]
        for i in range(0, len(rows), BLOCK):
            own = rows.take(slice(i, i + BLOCK))
            out = self.network.outputs(self.weights, self._standard(batch_of(self._scaled(own))))
            found = self._base(dense(own)) + self.units[:, None] * out
            blocks.append(np.maximum(found, LEAST * self.smallest))
        return np.concatenate(blocks, axis=1)

    def _base(self, matrix: Vector) -> Vector:
        """(members, N) what the additive models say."""
        return np.asarray(np.maximum(self.ridge @ _with_one(matrix).T, BASE_LEAST * self.smallest))

    def _scaled(self, rows: Rows) -> Rows:
        return rows if rows.graphs is not None else replace(rows, numeric=self.columns(rows.numeric))

    def _standard(self, graphs: GraphBatch) -> GraphBatch:
        nodes = (graphs.nodes - self.features.mean) * self.features.scale * graphs.there[:, :, None]
        return replace(graphs, nodes=nodes.astype(np.float32))

    def _network(self, graphs: GraphBatch) -> MessagePassing:
        """For graphs like these."""
        members, width, rounds = (int(self.settings[name]) for name in ("members", "width", "rounds"))
        nodes = max(float(graphs.there.sum(axis=1).mean()), 1.0)
        degree = float(graphs.reads.sum(axis=(1, 2)).mean()) / nodes
        return MessagePassing(members, graphs.nodes.shape[2], width, rounds, max(degree, 1.0), nodes)


def _with_one(matrix: Vector) -> Vector:
    return np.concatenate([matrix, np.ones((len(matrix), 1))], axis=1)


def _named(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {key.removeprefix(f"{name}."): own for key, own in arrays.items() if key.startswith(f"{name}.")}
