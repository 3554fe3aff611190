"""The constants of a graph: computed where there is data, and what is known of them from structure alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .graph import SHAPE_ONLY, Graph, Node, Ref, Value

COPIES = frozenset({"clone", "alias", "detach", "lift_fresh", "contiguous"})
RESHAPES = frozenset({"view", "_unsafe_view", "_reshape_alias", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze"})

_FILLED = frozenset({"zeros", "ones", "full", "scalar_tensor", *SHAPE_ONLY}) - {"copy", "fill.Tensor"}
_ZEROS = frozenset({"zeros", "zeros_like", "new_zeros", "zero"})
_SUMS = frozenset({"add.Tensor", "sub.Tensor"})
_ACTIVATIONS_KEEPING_ZERO = frozenset({"relu", "silu", "gelu", "tanh", "hardswish", "leaky_relu", "elu"})
_ACTIVATIONS = _ACTIVATIONS_KEEPING_ZERO | {"hardtanh", "sigmoid", "hardsigmoid"}
_POOLS = frozenset({"avg_pool2d", "avg_pool1d", "mean.dim", "max_pool2d_with_indices"})
_MOVES = frozenset({"slice.Tensor", "expand", "cat", "permute", "transpose.int"})
_KEEP_ZERO = _ACTIVATIONS_KEEPING_ZERO | _POOLS | _MOVES | COPIES | RESHAPES | {"mul.Tensor"}
_POINTWISE = _ACTIVATIONS | COPIES | {"mul.Tensor"}


class Constants:
    """The constants of a graph that is being rewritten.

    Attributes:
        values: every value of the graph, by id.
        tensors: those of the constants, without data on the meta device.
        dependent: ids of the values that depend on a graph input.
        zeros: ids of constants that are zero by construction.
        level: ids of constants (N, C, ...) with one value for each channel, the same in all of the batch and at every
            position, by construction; zeros are not among them.

    `zeros` and `level` never look at data, so that graphs on the meta device and real ones are treated alike.
    """

    def __init__(self, graph: Graph) -> None:
        self.values = dict(graph.values)
        self.tensors = dict(graph.constants)
        self.dependent = graph.dependent_ids()
        self.zeros: set[int] = set()
        self.level: set[int] = set()
        self._next_id = max(self.values, default=-1) + 1

    def add(self, tensor: Tensor) -> Ref:
        """A new constant."""
        value = Value(self._next_id, tuple(tensor.shape), str(tensor.dtype)[6:])
        self._next_id += 1
        self.values[value.id] = value
        self.tensors[value.id] = tensor
        return Ref(value.id)

    def absorb(self, node: Node) -> bool:
        """Whether the node's outputs could be turned into constants."""
        if any(value.id in self.dependent for value in node.outputs):
            return False
        if any(i not in self.tensors for i in node.data_ids):
            return False
        results = self._evaluate(node)
        if results is None:
            return False
        for value, tensor in zip(node.outputs, results, strict=True):
            self.tensors[value.id] = tensor
        if self._is_zero(node):
            self.zeros.add(node.outputs[0].id)
        elif self._is_level(node):
            self.level.add(node.outputs[0].id)
        return True

    def channels(self, value_id: int) -> Tensor:
        """(C,) the values of a constant in `level`, one for each channel."""
        tensor, value = self.tensors[value_id], self.values[value_id]
        if tensor.is_meta:
            return torch.empty(value.shape[1], dtype=dtype_of(value), device="meta")
        return tensor[0].flatten(1)[:, 0] if tensor.dim() > 2 else tensor[0]

    # -- known by construction

    def _is_zero(self, node: Node) -> bool:
        if node.op in _ZEROS:
            return True
        if node.op == "convolution":
            return node.args[0].id in self.zeros and node.args[2] is None
        if node.op in _SUMS and not all(isinstance(arg, Ref) for arg in node.args[:2]):
            return False  # zero and a number
        return node.op in _KEEP_ZERO | _SUMS and bool(node.input_ids) and self.zeros.issuperset(node.input_ids)

    def _is_level(self, node: Node) -> bool:
        shape = node.outputs[0].shape
        if len(shape) < 2 or 0 in shape or not node.input_ids:
            return False
        first = node.input_ids[0]
        known = first in self.level or first in self.zeros
        if node.op == "convolution":
            unpadded = not node.args[6] and not any(node.args[4])
            return first in self.zeros or (first in self.level and unpadded)
        if node.op == "native_batch_norm":
            return known and not node.args[5]
        if node.op == "avg_pool2d":
            return known and _counts_no_padding(node)
        if node.op == "max_pool2d_with_indices":
            return known
        same = all(i in self.level | self.zeros and self.values[i].shape == shape for i in node.input_ids)
        return same and node.op in _POINTWISE | _SUMS

    # -- values

    def _evaluate(self, node: Node) -> list[Tensor] | None:
        tensors = {i: self.tensors[i] for i in node.data_ids}
        if any(tensor.is_meta for tensor in tensors.values()):
            return [torch.empty(value.shape, dtype=dtype_of(value), device="meta") for value in node.outputs]
        for i in node.input_ids:
            value = self.values[i]
            tensors.setdefault(i, torch.zeros((), dtype=dtype_of(value)).expand(value.shape))
        func = _function(node.op)
        if func is None:
            return None
        try:
            with torch.no_grad():
                kwargs = {name: _fill(arg, tensors) for name, arg in node.kwargs.items()}
                result = func(*_fill(node.args, tensors), **kwargs)
        except (RuntimeError, TypeError):  # a kernel that torch lacks outside the module's own run: leave the node
            return None
        results = [result] if isinstance(result, Tensor) else [item for item in result if isinstance(item, Tensor)]
        if len(results) != len(node.outputs):
            return None
        if node.op in _FILLED and results[0].numel() > 1:  # one element tells all: keep one
            return [results[0].reshape(-1)[0].clone().expand(results[0].shape)]
        return results


def dtype_of(value: Value) -> torch.dtype:
    """The value's dtype as torch's."""
    dtype = getattr(torch, value.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _counts_no_padding(node: Node) -> bool:
    names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = dict(zip(names, node.args, strict=False))  # defaults at the end are left out
    padded = any(given.get("padding", ())) and given.get("count_include_pad", True)
    return not padded and given.get("divisor_override") is None


def _function(op: str) -> Any:
    name, _, overload = op.partition(".")
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, overload or "default", None) if packet is not None else None


def _fill(arg: Any, tensors: Mapping[int, Tensor]) -> Any:
    if isinstance(arg, Ref):
        return tensors[arg.id]
    if isinstance(arg, tuple):
        return [_fill(item, tensors) for item in arg]
    return arg
