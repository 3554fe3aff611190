"""Graph -> ONNX model, built directly from a table of operators."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from ...spaces.tracer import Graph
from . import layers, pointwise, reductions, shapes
from .builder import Builder, Unsupported
from .fuse import fused
from .operators import Handler

__all__ = ["Unsupported", "emit"]


def handlers() -> dict[str, Handler]:
    """All aten operators that the emitter covers."""
    return {**pointwise.TABLE, **layers.TABLE, **reductions.TABLE, **shapes.TABLE}


def emit(graph: Graph) -> tuple[ModelProto, Mapping[str, str]]:
    """An ONNX model of a simplified graph, and the owner ("path#index" or "") of every tensor that its nodes produce.

    Raises:
        Unsupported: an operator, dtype or option that has no ONNX form here.
    """
    graph = fused(graph)
    table = handlers()
    missing = sorted({node.op for node in graph.nodes} - table.keys())
    if missing:
        raise Unsupported(f"operator{'s' if len(missing) > 1 else ''} {', '.join('aten.' + op for op in missing)}")
    builder = Builder(graph)
    for node in graph.nodes:
        builder.begin(node)
        names = table[node.op](builder, node)
        builder.end(node, [names] if isinstance(names, str) else names)
    return builder.model(), builder.owners
