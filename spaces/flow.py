"""Who feeds whom in a traced run of a supernet."""

from __future__ import annotations

from collections.abc import Mapping

from .description import INPUT
from .graph import Graph


class Flow:
    """For each value of a run: the nearest watched calls that its data, or at least its shape, come from.

    Args:
        nodes: position in `graph.calls` -> node; calls left out are seen through.

    Attributes:
        data, shape: value id -> nodes, where the output of a watched call counts as that call alone.
        inner_data, inner_shape: the same, but for the output of a watched call what it was made of.
        order: (position in `graph.calls`, node), inner calls before the ones around them.
    """

    def __init__(self, graph: Graph, nodes: Mapping[int, int]) -> None:
        exits = {value: v for at, v in nodes.items() for value in graph.calls[at].outputs}
        self.data: dict[int, frozenset[int]] = {i: frozenset() for i in graph.constants}
        self.shape: dict[int, frozenset[int]] = dict(self.data)
        self.inner_data: dict[int, frozenset[int]] = dict(self.data)
        self.inner_shape: dict[int, frozenset[int]] = dict(self.data)
        for value in graph.inputs:
            self.data[value.id] = self.shape[value.id] = frozenset({INPUT})
        for node in graph.nodes:
            data = frozenset().union(*(self.data[i] for i in node.data_ids))
            shape = frozenset().union(*(self.shape[i] for i in node.input_ids))
            for out in node.outputs:
                self.inner_data[out.id], self.inner_shape[out.id] = data, shape
                own = frozenset({exits[out.id]}) if out.id in exits else None
                self.data[out.id], self.shape[out.id] = own or data, own or shape
        self.order = [(at, nodes[at]) for at in _inner_first(graph) if at in nodes]


def _inner_first(graph: Graph) -> list[int]:
    children: dict[int | None, list[int]] = {}
    for at, call in enumerate(graph.calls):
        children.setdefault(call.parent, []).append(at)

    def below(parent: int | None) -> list[int]:
        return [x for at in children.get(parent, []) for x in (*below(at), at)]

    return below(None)


def input_positions(graph: Graph) -> tuple[int, ...]:
    """Which inputs the outputs of a graph depend on."""
    needed = {value.id for value in graph.outputs}
    for node in reversed(graph.nodes):
        if any(out.id in needed for out in node.outputs):
            needed.update(node.data_ids)
    return tuple(i for i, value in enumerate(graph.inputs) if value.id in needed)
