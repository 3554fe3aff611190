"""Graphs run by torch's own operators: the reference for what a trace means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spaces.graph import Graph, Ref


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> object:
        """What the function returns."""
        return self.function(*args)


def replay(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a graph, simplified or not."""
    known = dict(graph.constants)
    known.update({value.id: tensor for value, tensor in zip(graph.inputs, inputs, strict=True)})

    def fill(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return known[arg.id]
        return [fill(item) for item in arg] if isinstance(arg, tuple) else arg

    for node in graph.nodes:
        args, kwargs = [fill(arg) for arg in node.args], {key: fill(arg) for key, arg in node.kwargs.items()}
        result = _run(node.op, args, kwargs)
        results = [result] if isinstance(result, Tensor) else list(result)
        known.update({value.id: tensor for value, tensor in zip(node.outputs, results, strict=False)})
    return [known[value.id] for value in graph.outputs]


def _run(op: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    name, _, overload = op.partition(".")
    if name == "batch_norm":
        x, weight, bias, mean, var, eps = args
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    if name in ("view", "_unsafe_view"):  # by meaning: copies that made the memory fit are gone
        return args[0].reshape(args[1])
    return getattr(getattr(torch.ops.aten, name), overload or "default")(*args, **kwargs)


def randomise(module: nn.Module) -> nn.Module:
    """The module, with batch norms that change what they see."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (child.running_mean, child.running_var, child.weight, child.bias):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 1.5)
    return module
