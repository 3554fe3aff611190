"""Graph networks on what an additive model leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..graphs import GraphBatch, batch_of
from .base import Arrays, Meta, Regressor, Rows, State, nested, part
from .linear import SHARES, Linear
from .matrix import Standard
from .message_passing import Aim, MessagePassing

Vector = NDArray[np.float64]
LEAST = 0.1
"""Share of the smallest value that is predicted at least."""
PLAIN = SHARES[:3]
"""Priors of the additive models: without pairs of choices, which are left to the graph networks."""
SHARES_TRIED = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of what the graph networks say: what serves held-out rows best is added."""
BLOCK = 256
"""Rows predicted at a time."""
FIRST_STEPS, MOST_STEPS = 100, 2500
"""Steps of training: the first number and the rows, not more than the second one."""


class Gcn(Regressor):
    """y ~ an additive model (see `linear`) + sum over the nodes of a graph of what a graph network says of each.

    The network passes messages along the graph (see `message_passing`); the graphs are those of the networks' operators
    (see `graphs`), or, for rows without, of their columns. Each of several members, an additive model and a graph
    network, is fitted on all rows but one fold; the mean of their predictions counts. So a row's held-out prediction is
    that of the one member that has not seen it, which is somewhat worse than the mean of several would be.

    Args:
        members: how many. width: of a node's state. rounds: of messages. rate, decay: of the training.
    """

    kind: ClassVar[str] = "gcn"
    own_from: ClassVar[int] = 0

    def __init__(
        self, *, members: int = 8, width: int = 32, rounds: int = 3, rate: float = 5e-3, decay: float = 0.01
    ) -> None:
        self.settings: Meta = {"members": members, "width": width, "rounds": rounds, "rate": rate, "decay": decay}

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        n, members = len(y), int(self.settings["members"])
        self.columns, self.least = Standard.of(rows.numeric), LEAST * float(y.min())
        graphs = batch_of(self._scaled(rows))
        self.features = Standard.of(graphs.nodes[graphs.there > 0].astype(float))
        self.network = self._network(graphs)
        fold = np.empty(n, np.intp)
        fold[rng.permutation(n)] = np.arange(n) % members
        seen = np.arange(members)[:, None] != fold
        self.tables = [Linear(shares=PLAIN).fit(rows.take(at), y[at], rng) for at in seen]
        base = self._base(rows)
        spread = np.array([max(np.log(y[at] / own[at]).std(), 1e-9) for at, own in zip(seen, base, strict=True)])
        units = spread * float(y.mean())
        aim = Aim(base, units[:, None], y, spread[:, None], self.least, seen)
        steps = min(FIRST_STEPS + n, MOST_STEPS)
        training = {"rate": float(self.settings["rate"]), "decay": float(self.settings["decay"])}
        self.weights = self.network.trained(self._standard(graphs), aim, rng, steps=steps, **training)
        self.units = units
        held = fold, np.arange(n)
        more = self._by_member(rows)[held] - base[held]
        share = min(SHARES_TRIED, key=lambda own: float(np.abs((base[held] + own * more) / y - 1).mean()))
        self.units = share * units
        self.held_out = np.maximum(base[held] + share * more, self.least)
        return self

    def predict(self, rows: Rows) -> Vector:
        return np.asarray(self._by_member(rows).mean(axis=0))

    def state(self) -> State:
        network, arrays = self.network, {f"weights.{name}": own for name, own in self.weights.items()}
        arrays |= {f"columns.{name}": own for name, own in self.columns.arrays().items()}
        arrays |= {f"features.{name}": own for name, own in self.features.arrays().items()}
        arrays |= {"units": self.units}
        tables, own = nested({str(i): table.state() for i, table in enumerate(self.tables)})
        meta = {"settings": self.settings, "least": self.least, "degree": network.degree, "nodes": network.nodes}
        return {**meta, "tables": tables}, arrays | own

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.settings, self.least = dict(meta["settings"]), float(meta["least"])
        self.columns, self.features = (Standard.from_arrays(_named(name, arrays)) for name in ("columns", "features"))
        members, width, rounds = (int(self.settings[name]) for name in ("members", "width", "rounds"))
        features = len(self.features.mean)
        self.network = MessagePassing(members, features, width, rounds, float(meta["degree"]), float(meta["nodes"]))
        self.units = np.asarray(arrays["units"], float)
        self.tables = [Linear.from_state(*part(str(i), meta["tables"], arrays)) for i in range(members)]
        self.weights = {name: np.asarray(own, np.float32) for name, own in _named("weights", arrays).items()}
        if {name: own.shape for name, own in self.weights.items()} != self.network.shapes():
            raise ValueError("the weights of the graph networks do not fit each other")
        if self.units.shape != (members,):
            raise ValueError("there are not as many units as graph networks")
        return self

    # -- inside

    def _by_member(self, rows: Rows) -> Vector:
        """(members, N)"""
        if not self.units.any():
            return self._base(rows)
        blocks = [np.empty((len(self.units), 0))]
        for i in range(0, len(rows), BLOCK):
            own = rows.take(slice(i, i + BLOCK))
            out = self.network.outputs(self.weights, self._standard(batch_of(self._scaled(own))))
            blocks.append(np.maximum(self._base(own) + self.units[:, None] * out, self.least))
        return np.concatenate(blocks, axis=1)

    def _base(self, rows: Rows) -> Vector:
        """(members, N) what the additive models say."""
        return np.stack([table.predict(rows) for table in self.tables])

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


def _named(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {key.removeprefix(f"{name}."): own for key, own in arrays.items() if key.startswith(f"{name}.")}
