"""Graph -> TFLite model, built directly from a table of operators."""

from __future__ import annotations

from collections.abc import Mapping

from ....spaces.tracer import Graph
from ..fuse import fused
from ..operators import Unsupported
from . import activations, convolutions, indexing, matrices, norms, pointwise, pooling, reductions, resizing, shapes
from .builder import Builder, Handler, Laid
from .writer import write

__all__ = ["Unsupported", "emit"]


def handlers() -> dict[str, Handler]:
    """All aten operators that the emitter covers."""
    modules = (
        activations, convolutions, indexing, matrices, norms, pointwise, pooling, reductions, resizing, shapes,
    )  # fmt: skip
    return {name: handler for module in modules for name, handler in module.TABLE.items()}


def emit(graph: Graph) -> tuple[bytes, Mapping[str, str]]:
    """The file of a simplified graph, and the owner ("path#index" or "") of every tensor that its operators produce.

    Raises:
        Unsupported: an operator, dtype or option that has no TFLite form here.
    """
    graph = fused(graph)
    table = handlers()
    missing = sorted({node.op for node in graph.nodes} - table.keys())
    if missing:
        raise Unsupported(f"operator{'s' if len(missing) > 1 else ''} {', '.join('aten.' + op for op in missing)}")
    builder = Builder(graph)
    for place, node in enumerate(graph.nodes):
        builder.begin(place)
        results = table[node.op](builder, node)
        builder.end(node, [results] if isinstance(results, Laid) else results)
    subgraph = builder.subgraph()
    owners = {tensor.name: op.owner for op in subgraph.operators for tensor in op.outputs}
    return write(subgraph), owners
