"""Reductions in ONNX."""

from __future__ import annotations

import math

from ...spaces.tracer import Node
from .builder import Builder, Unsupported
from .operators import Handler, Table, argument, axes_of, operand

TABLE = Table()


def _reduction(kind: str) -> Handler:
    """Operators of the form (x, dim, keepdim)."""

    def handler(b: Builder, node: Node) -> str:
        return _reduce(b, kind, node, operand(b, node.args[0], node.outputs[0].dtype))

    return handler


def _reduce(b: Builder, kind: str, node: Node, source: str) -> str:
    axes = axes_of(argument(node, 1, "dim"), len(b.shape(node.args[0])))
    keep = int(bool(argument(node, 2, "keepdim", False)))
    return b.op(kind, source, b.ints(axes), keepdims=keep) if axes else source


_KINDS = {
    "sum": "ReduceSum", "sum.dim_IntList": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin", "max": "ReduceMax",
    "min": "ReduceMin", "prod": "ReduceProd", "prod.dim_int": "ReduceProd", "logsumexp": "ReduceLogSumExp",
}  # fmt: skip
for _name, _kind in _KINDS.items():
    TABLE[_name] = _reduction(_kind)


@TABLE.add("mean", "mean.dim")
def _mean(b: Builder, node: Node) -> str:
    x = node.args[0]
    rank = len(b.shape(x))
    axes = axes_of(argument(node, 1, "dim"), rank)
    keep = bool(argument(node, 2, "keepdim", False))
    source = operand(b, x, node.outputs[0].dtype)
    if rank == 4 and axes == [2, 3]:  # what runtimes know to keep in a blocked layout
        pooled = b.op("GlobalAveragePool", source)
        return pooled if keep else b.reshape(pooled, node.outputs[0].shape)
    return _reduce(b, "ReduceMean", node, source)


@TABLE.add("max.dim", "min.dim")
def _extreme(b: Builder, node: Node) -> list[str]:
    kind = "Max" if node.op == "max.dim" else "Min"
    names = [_reduce(b, f"Reduce{kind}", node, b.name(node.args[0]))]
    if b.is_read(node.outputs[1]):
        names.append(_arg_extreme(b, node, f"Arg{kind}"))
    return names


@TABLE.add("argmax", "argmin")
def _arg(b: Builder, node: Node) -> str:
    return _arg_extreme(b, node, "ArgMax" if node.op == "argmax" else "ArgMin")


def _arg_extreme(b: Builder, node: Node, kind: str) -> str:
    dim = argument(node, 1, "dim")
    x, keep = b.name(node.args[0]), int(bool(argument(node, 2, "keepdim", False)))
    if dim is None:
        return b.reshape(b.op(kind, b.reshape(x, (-1,)), axis=0, keepdims=1), node.outputs[0].shape)
    return b.op(kind, x, axis=dim % max(1, len(b.shape(node.args[0]))), keepdims=keep)


@TABLE.add("var.correction", "std.correction", "var_mean.correction", "std_mean.correction")
def _variance(b: Builder, node: Node) -> list[str]:
    x, shape, dtype = b.name(node.args[0]), b.shape(node.args[0]), node.outputs[0].dtype
    axes = axes_of(argument(node, 1, "dim"), len(shape))
    keep = bool(node.kwargs.get("keepdim", False))
    correction = node.kwargs.get("correction", 1)
    count = math.prod(shape[axis] for axis in axes)
    mean = b.op("ReduceMean", x, b.ints(axes))
    centred = b.op("Sub", x, mean)
    square = b.op("ReduceMean", b.op("Mul", centred, centred), b.ints(axes), keepdims=int(keep))
    factor = count / (count - (1 if correction is None else correction))
    result = square if factor == 1 else b.op("Mul", square, b.scalar(factor, dtype))
    result = b.op("Sqrt", result) if node.op.startswith("std") else result
    if len(node.outputs) == 1:
        return [result]
    return [result, mean if keep else b.reshape(mean, node.outputs[1].shape)]


@TABLE.add("linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar")
def _norm(b: Builder, node: Node) -> str:
    order = argument(node, 1, "ord", 2)
    order = 2 if order is None else order
    if order not in (1, 2):
        raise Unsupported(f"{node.op} of order {order}")
    axes = axes_of(argument(node, 2, "dim"), len(b.shape(node.args[0])))
    keep = int(bool(argument(node, 3, "keepdim", False)))
    source = operand(b, node.args[0], node.outputs[0].dtype)
    return b.op(f"ReduceL{int(order)}", source, b.ints(axes), keepdims=keep)
