"""Patterns that torch spreads over several aten operators, put together again before they are emitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ...spaces.tracer import Graph, Node, Ref, Value

_POOLS_2D = frozenset({"max_pool2d_with_indices", "avg_pool2d"})


def fused(graph: Graph) -> Graph:
    """A simplified graph with matrix products in the rank that the module's author wrote.

    aten folds the leading dimensions of a linear layer's or matmul's operands into one and unfolds the result; here
    ``view, addmm, view`` becomes ``linear(x, weight, bias)`` and ``view, view, bmm, view`` becomes ``matmul``; pooling
    over one dimension, which aten does in two, becomes ``max_pool1d`` or ``avg_pool1d``.
    """
    return _Fuser(graph).run().simplified()


class _Fuser:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = dict(graph.values)
        self.made_by = {value.id: node for node in graph.nodes for value in node.outputs}
        self.readers = Counter(i for node in graph.nodes for i in node.input_ids)
        self.next_id = max(self.values, default=-1) + 1

    def run(self) -> Graph:
        nodes: list[Node] = []
        for node in self.graph.nodes:
            new = None
            if node.op in ("mm", "addmm") and not node.kwargs:
                new = self._linear(node)
            elif node.op == "bmm":
                new = self._matmul(node)
            elif node.op in _POOLS_2D:
                new = self._pool1d(node)
            nodes.extend(new or [node])
        return replace(self.graph, nodes=nodes, values=self.values, dependent=None)

    def _viewed(self, ref: Ref) -> Value | None:
        """The value of which ``ref`` is a reshape."""
        node = self.made_by.get(ref.id)
        return self.values[node.args[0].id] if node is not None and node.op == "view" else None

    def _with_view(self, node: Node, op: str, args: tuple[object, ...], shape: Sequence[int]) -> list[Node]:
        """``op`` with a result of ``shape``, and the view of it that stands for the result of ``node``."""
        out = node.outputs[0]
        value = Value(self.next_id, tuple(shape), out.dtype)
        self.next_id += 1
        self.values[value.id] = value
        return [
            Node(op, args, {}, (value,), node.call),
            Node("view", (Ref(value.id), out.shape), {}, (out,), node.call),
        ]

    def _linear(self, node: Node) -> list[Node] | None:
        bias, x, weight = node.args if node.op == "addmm" else (None, *node.args)
        source = self._viewed(x)
        if source is None or len(source.shape) < 3 or source.shape[-1] != self.values[x.id].shape[1]:
            return None
        if bias is not None and len(self.values[bias.id].shape) != 1:
            return None
        shape = (*source.shape[:-1], node.outputs[0].shape[1])
        return self._with_view(node, "linear", (Ref(source.id), weight, bias), shape)

    def _matmul(self, node: Node) -> list[Node] | None:
        left, right = (self._viewed(arg) for arg in node.args)
        if left is None or right is None or len(left.shape) < 4:
            return None
        lead, shapes = left.shape[:-2], [self.values[arg.id].shape for arg in node.args]
        kept = left.shape[-2:] == shapes[0][1:] and right.shape[-2:] == shapes[1][1:] and right.shape[:-2] == lead
        if not kept:
            return None
        return self._with_view(node, "matmul", (Ref(left.id), Ref(right.id)), (*lead, *node.outputs[0].shape[1:]))

    def _pool1d(self, node: Node) -> list[Node] | None:
        source, shape = self._viewed(node.args[0]), self.values[node.args[0].id].shape
        out = node.outputs[0].shape
        if source is None or len(source.shape) != 3 or shape != (*source.shape[:2], 1, source.shape[2]) or out[2] != 1:
            return None
        if any(self.readers[value.id] for value in node.outputs[1:]):
            return None
        args = (Ref(source.id), *(arg[-1:] if isinstance(arg, tuple) else arg for arg in node.args[1:]))
        return self._with_view(node, node.op.replace("2d", "1d"), args, (*out[:2], out[3]))
