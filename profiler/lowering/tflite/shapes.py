"""Operators that move, cut and join tensors in TFLite."""

from __future__ import annotations

from ....spaces.tracer import Node
from .builder import Builder, Laid, Table

TABLE = Table()


@TABLE.add("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze")
def _reshape(b: Builder, node: Node) -> Laid:
    return b.view(b.laid(node.args[0]), node.outputs[0].shape)


@TABLE.add("permute", "transpose.int", "t")
def _permute(b: Builder, node: Node) -> Laid:
    """Nothing moves here: only the order in which the axes are named changes."""
    x = b.laid(node.args[0])
    rank = len(x.shape)
    axes = list(range(rank))
    if node.op == "permute":
        axes = [dim % rank for dim in node.args[1]]
    elif rank > 1:
        first, second = (0, 1) if node.op == "t" else (node.args[1] % rank, node.args[2] % rank)
        axes[first], axes[second] = second, first
    return Laid(x.tensor, node.outputs[0].shape, tuple(axes.index(axis) for axis in x.order))
