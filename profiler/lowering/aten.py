"""Traced graph -> the data that `devices.cuda.program` runs: aten operators in JSON, and the weights behind them."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ...devices.cuda.program import VERSION
from ...spaces.tracer import Graph, Ref


def emit(graph: Graph) -> bytes:
    """One line of JSON, then all constants in their order.

    A node is ``[operator, args, kwargs, ids of its outputs]``; ``{"value": id}`` stands for a tensor and
    ``{"dtype": name}`` for a type among the arguments. Batch norms are folded (see `Graph.simplified`), as they are in
    every deployed network.
    """
    read = {i for node in graph.nodes for i in node.input_ids} | {value.id for value in graph.outputs}
    constants = {key: tensor for key, tensor in graph.constants.items() if key in read}
    head = {
        "version": VERSION,
        "inputs": [value.id for value in graph.inputs],
        "outputs": [value.id for value in graph.outputs],
        "nodes": [
            [node.op, _plain(node.args), _plain(dict(node.kwargs)), [value.id for value in node.outputs]]
            for node in graph.nodes
        ],
        "constants": [[key, _name(t.dtype), list(t.shape)] for key, t in constants.items()],
    }
    return json.dumps(head).encode() + b"\n" + b"".join(map(_bytes, constants.values()))


def _plain(argument: Any) -> Any:
    if isinstance(argument, Ref):
        return {"value": argument.id}
    if isinstance(argument, tuple | list):
        return [_plain(item) for item in argument]
    if isinstance(argument, dict):
        return {name: _plain(item) for name, item in argument.items()}
    if isinstance(argument, torch.dtype):
        return {"dtype": _name(argument)}
    return argument if isinstance(argument, int | float | bool | str | None) else str(argument)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
