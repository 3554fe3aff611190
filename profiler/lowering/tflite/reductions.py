"""Reductions in TFLite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....spaces.tracer import Node
from ..operators import Unsupported, argument, axes_of
from .builder import Builder, Handler, Laid, Table
from .operands import combined, converted, elementwise, unary

TABLE = Table()

_KINDS = {
    "mean": "MEAN", "mean.dim": "MEAN", "sum": "SUM", "sum.dim_IntList": "SUM", "amax": "REDUCE_MAX",
    "amin": "REDUCE_MIN", "max": "REDUCE_MAX", "min": "REDUCE_MIN", "prod": "REDUCE_PROD",
    "prod.dim_int": "REDUCE_PROD",
}  # fmt: skip


def reduced(b: Builder, kind: str, laid: Laid, axes: Sequence[int], keep: bool = True) -> Laid:
    """A reduction over some of torch's axes, which then have size 1 or are gone."""
    if not axes:
        return laid
    places = sorted(laid.order.index(axis) for axis in axes)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(laid.shape))
    order = laid.order
    if not keep:
        left = [axis for axis in range(len(shape)) if axis not in axes]
        shape = tuple(shape[axis] for axis in left)
        order = tuple(left.index(axis) for axis in order if axis not in axes)
    sizes = [shape[axis] for axis in order]
    return Laid(b.op(kind, [laid.tensor, b.ints(places)], sizes, keepDims=keep), shape, order)


def _reduction(kind: str) -> Handler:
    """Operators of the form (x, dim, keepdim)."""

    def handler(b: Builder, node: Node) -> Laid:
        x = converted(b, node.args[0], node.outputs[0].dtype)
        axes = axes_of(argument(node, 1, "dim"), len(x.shape))
        return reduced(b, kind, x, axes, bool(argument(node, 2, "keepdim", False)))

    return handler


for _name, _kind in _KINDS.items():
    TABLE[_name] = _reduction(_kind)


@TABLE.add("logsumexp")
def _logsumexp(b: Builder, node: Node) -> Laid:
    x = b.laid(node.args[0])
    axes = axes_of(argument(node, 1, "dim"), len(x.shape))
    largest = reduced(b, "REDUCE_MAX", x, axes)
    total = reduced(b, "SUM", unary(b, "EXP", combined(b, "SUB", x, largest)), axes)
    return b.view(combined(b, "ADD", unary(b, "LOG", total), largest), node.outputs[0].shape)


@TABLE.add("max.dim", "min.dim")
def _extreme(b: Builder, node: Node) -> list[Laid]:
    x = b.laid(node.args[0])
    kind, axis = ("MAX" if node.op == "max.dim" else "MIN"), node.args[1] % len(x.shape)
    results = [reduced(b, f"REDUCE_{kind}", x, [axis], bool(argument(node, 2, "keepdim", False)))]
    if b.is_read(node.outputs[1]):
        results.append(_arg(b, node, f"ARG_{kind}", x, axis, 1))
    return results


@TABLE.add("argmax", "argmin")
def _arg_extreme(b: Builder, node: Node) -> Laid:
    x, dim = b.laid(node.args[0]), argument(node, 1, "dim")
    if dim is None:
        x, dim = b.view(x, (math.prod(x.shape),)), 0
    return _arg(b, node, "ARG_MAX" if node.op == "argmax" else "ARG_MIN", x, dim % len(x.shape), 0)


def _arg(b: Builder, node: Node, kind: str, x: Laid, axis: int, output: int) -> Laid:
    place, out = x.order.index(axis), node.outputs[output]
    order = tuple(other - (other > axis) for other in x.order if other != axis)
    shape = tuple(size for other, size in enumerate(x.shape) if other != axis)
    sizes = [shape[other] for other in order]
    found = b.op(kind, [x.tensor, b.scalar(place, "int32")], sizes, out.dtype, outputType=4)
    return b.view(Laid(found, shape, order), out.shape)


@TABLE.add("var.correction", "std.correction", "var_mean.correction", "std_mean.correction")
def _variance(b: Builder, node: Node) -> list[Laid]:
    x = b.laid(node.args[0])
    axes = axes_of(argument(node, 1, "dim"), len(x.shape))
    correction = node.kwargs.get("correction", 1)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = reduced(b, "MEAN", x, axes)
    result = reduced(b, "MEAN", elementwise(b, "SQUARED_DIFFERENCE", [x, mean], x.shape, "float32"), axes)
    factor = count / (count - (1 if correction is None else correction))
    result = result if factor == 1 else combined(b, "MUL", result, factor)
    result = unary(b, "SQRT", result) if node.op.startswith("std") else result
    return [b.view(laid, value.shape) for laid, value in zip((result, mean), node.outputs, strict=False)]


@TABLE.add("linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar")
def _norm(b: Builder, node: Node) -> Laid:
    order = argument(node, 1, "ord", 2)
    order = 2 if order is None else order
    if order not in (1, 2):
        raise Unsupported(f"{node.op} of order {order}")
    x = converted(b, node.args[0], "float32")
    axes = axes_of(argument(node, 2, "dim"), len(x.shape))
    total = reduced(
        b, "SUM", unary(b, "SQUARE" if order == 2 else "ABS", x), axes, bool(argument(node, 3, "keepdim", False))
    )
    return unary(b, "SQRT", total) if order == 2 else total


@TABLE.add("cumsum")
def _cumsum(b: Builder, node: Node) -> Laid:
    x = converted(b, node.args[0], node.outputs[0].dtype)
    place = x.order.index(node.args[1] % len(x.shape))
    return Laid(b.op("CUMSUM", [x.tensor, b.scalar(place, "int32")], x.tensor.shape), x.shape, x.order)
