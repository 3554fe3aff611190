"""The "ops" format: a module as a list of operators with shapes and MACs, without weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...devices.flops import count
from ...spaces.tracer import Graph, Node


def describe(module: nn.Module, inputs: Sequence[Tensor], graph: Graph | None) -> bytes:
    """JSON: ``macs``, ``params``, ``activation_bytes`` (see :func:`hwnas.devices.flops.count`) and ``ops``.

    Each operator of the simplified graph is ``{"op", "inputs", "outputs", "macs", "call"}``: shapes of its inputs
    (weights included) and outputs, its multiply-accumulates and the watched call around it ("path#index", "" for none).
    A module that cannot be traced has no operators (``ops`` is empty) but its counts.

    Raises:
        DeviceError: the module cannot be run for counting.
    """
    total = count(module, inputs)
    listed = [] if graph is None else [_operator(graph, node) for node in graph.nodes]
    counts = {"macs": total.macs, "params": total.params, "activation_bytes": total.activation_bytes}
    return json.dumps({**counts, "ops": listed}, separators=(",", ":")).encode()


def _operator(graph: Graph, node: Node) -> dict[str, Any]:
    call = None if node.call is None else graph.calls[node.call]
    return {
        "op": node.op,
        "inputs": [list(graph.values[i].shape) for i in node.input_ids],
        "outputs": [list(value.shape) for value in node.outputs],
        "macs": _macs(graph, node),
        "call": "" if call is None else f"{call.path}#{call.index}",
    }


def _macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of convolutions and matrix products, as torch's FLOP counter counts them; 0 for the rest."""
    shapes = [graph.values[i].shape for i in node.input_ids]
    if node.op == "convolution":
        # Each element of the output (of the input, where transposed) meets one filter.
        swept = shapes[0] if node.args[6] else node.outputs[0].shape
        spatial = math.prod(swept[-(len(shapes[1]) - 2) :])
        batch = shapes[0][0] if len(shapes[0]) == len(shapes[1]) else 1
        return batch * spatial * math.prod(shapes[1])
    if node.op in ("addmm", "baddbmm"):
        shapes = shapes[1:]
    if node.op in ("addmm", "baddbmm", "mm", "bmm"):
        return math.prod(shapes[0]) * shapes[1][-1]
    return 0
