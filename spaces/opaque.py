"""A module that runs but cannot be traced, as a graph of one operator: it keeps its place, its shapes and its key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .graph import Graph, Node, Ref, Value
from .tracer import evaluating, tensors_in


def opaque_graph(module: nn.Module, inputs: Sequence[Tensor]) -> Graph:
    """Run the module once; its operator is named after its class and its printed structure.

    Raises:
        Exception: whatever the module's own `forward` raises.
    """
    with torch.no_grad(), evaluating(module):
        outputs = list(tensors_in(module(*(t.clone() for t in inputs))))
    values = [Value(i, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for i, t in enumerate((*inputs, *outputs))]
    given, made = values[: len(inputs)], values[len(inputs) :]
    structure = hashlib.sha256(f"{type(module).__qualname__} {module!r}".encode()).hexdigest()
    node = Node(f"opaque {structure}", tuple(Ref(v.id) for v in given), {}, tuple(made), None)
    return Graph(inputs=given, outputs=made, nodes=[node], values={v.id: v for v in values})
