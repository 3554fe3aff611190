"""What a workload consists of: its operators as plain data, so that others can tell large ones from small ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .graph import Graph, Node

_FAMILIES = {
    "pool": "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d adaptive_max_pool2d mean sum amax",
    "activation": "relu hardtanh clamp clamp_min sigmoid silu hardswish hardsigmoid gelu tanh elu leaky_relu mish "
    "softplus _prelu_kernel threshold",
    "elementwise": "add sub rsub mul div maximum minimum",
    "norm": "batch_norm native_batch_norm _native_batch_norm_legit_no_training native_layer_norm native_group_norm",
    "softmax": "_softmax _log_softmax _safe_softmax",
    "matmul": "mm bmm addmm baddbmm addbmm",
    "reshape": "view _unsafe_view reshape unsqueeze squeeze expand detach alias _reshape_alias",
    "layout": "permute transpose t cat stack slice select split clone constant_pad_nd index_select gather roll flip",
}
_FAMILY = {op: family for family, ops in _FAMILIES.items() for op in ops.split()}


def operators(graph: Graph) -> list[dict[str, Any]]:
    """The operators of a simplified graph in the order of execution.

    Returns:
        for each: `op`, its family (pointwise, conv, depthwise, grouped, transposed, linear, matmul, pool, activation,
        elementwise, norm, softmax, reshape, layout, else torch's own name); `macs` multiply-accumulates;
        `read`, `written` and `params` elements of what it reads, writes, and of its constants, batch included; of
        those with weights `channels` [in, out], and of convolutions `kernel`, `stride` and `groups`.
    """
    return [_operator(graph, node) for node in graph.nodes]


def _operator(graph: Graph, node: Node) -> dict[str, Any]:
    ids = dict.fromkeys(node.input_ids)
    shapes = {i: tuple(graph.values[i].shape) for i in ids if i in graph.values}
    constants = {i: tuple(graph.constants[i].shape) for i in ids if i in graph.constants}
    found = {
        "op": _FAMILY.get(node.op.split(".")[0], node.op.split(".")[0]),
        "macs": 0,
        "read": sum(math.prod(shape) for i, shape in shapes.items() if i not in constants),
        "written": sum(math.prod(value.shape) for value in node.outputs),
        "params": sum(map(math.prod, constants.values())),
    }
    known = shapes | constants
    of = [known.get(i, ()) for i in node.input_ids]
    if node.op == "convolution":
        return found | _convolution(node, of)
    if found["op"] == "matmul":
        return found | _product(node, of, constants)
    return found


def _convolution(node: Node, shapes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    source, weight = shapes[:2]
    stride, transposed, groups = node.args[3], bool(node.args[6]), int(node.args[8])
    kernel, written = weight[2:], node.outputs[0].shape
    pixels = math.prod(source[2:] if transposed else written[2:])
    if transposed:
        family = "transposed"
    elif groups > 1:
        family = "depthwise" if groups == source[1] else "grouped"
    else:
        family = "pointwise" if math.prod(kernel) == 1 else "conv"
    return {
        "op": family,
        "macs": written[0] * pixels * math.prod(weight),
        "channels": [source[1], written[1]],
        "kernel": list(kernel),
        "stride": list(stride),
        "groups": groups,
    }


def _product(node: Node, shapes: Sequence[tuple[int, ...]], constants: Mapping[int, tuple[int, ...]]) -> dict[str, Any]:
    first, second = shapes[-2:]
    found = {"macs": math.prod(first) * second[-1], "channels": [second[-2], second[-1]]}
    return found | ({"op": "linear"} if node.input_ids[-1] in constants or node.input_ids[-2] in constants else {})
