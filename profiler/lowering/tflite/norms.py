"""Normalisation and softmax in TFLite, which has no operators for the former but mean, difference and the like."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ....spaces.tracer import Node, Ref
from ..operators import Unsupported, argument
from .builder import Builder, Laid, Table
from .layout import last
from .operands import Operand, combined, converted, elementwise, unary
from .reductions import reduced

TABLE = Table()


@TABLE.add("batch_norm")
def _batch_norm(b: Builder, node: Node) -> Laid:
    x, *refs, eps = node.args
    arrays = [b.constant(ref) for ref in refs]
    if any(array is None and ref is not None for array, ref in zip(arrays, refs, strict=True)):
        raise Unsupported("aten.batch_norm whose statistics are computed")
    weight, bias, mean, var = (None if array is None else array.astype(np.float64) for array in arrays)
    assert mean is not None
    assert var is not None
    scale = (1.0 if weight is None else weight) / np.sqrt(var + eps)
    shift = (0.0 if bias is None else bias) - mean * scale
    laid = b.laid(x)
    return combined(b, "ADD", combined(b, "MUL", laid, _by_channel(b, scale, laid)), _by_channel(b, shift, laid))


def _by_channel(b: Builder, array: np.ndarray, x: Laid) -> Laid:
    """A constant (C,) to broadcast over (N, C, ...)."""
    shape = (len(array), *(1 for _ in x.shape[2:]))
    tensor = b.array(array.astype(np.float32).reshape(shape))
    return Laid(tensor, shape, tuple(range(len(shape))))


def _parameter(b: Builder, ref: Ref, x: Laid) -> Laid:
    """A tensor (C,) to broadcast over (N, C, ...)."""
    laid = b.laid(ref)
    return b.view(laid, (*laid.shape, *(1 for _ in x.shape[2:])))


def normalised(b: Builder, x: Laid, axes: Sequence[int], eps: float) -> tuple[Laid, Laid, Laid]:
    """(x - mean) / sqrt(variance + eps) over some axes; with it the mean and the factor, which keep these axes."""
    mean = reduced(b, "MEAN", x, axes)
    variance = reduced(b, "MEAN", elementwise(b, "SQUARED_DIFFERENCE", [x, mean], x.shape, "float32"), axes)
    factor = unary(b, "RSQRT", combined(b, "ADD", variance, float(eps)))
    return combined(b, "MUL", combined(b, "SUB", x, mean), factor), mean, factor


def _scaled(b: Builder, x: Laid, scale: Operand | None, shift: Operand | None) -> Laid:
    x = x if scale is None else combined(b, "MUL", x, scale)
    return x if shift is None else combined(b, "ADD", x, shift)


@TABLE.add("native_layer_norm")
def _layer_norm(b: Builder, node: Node) -> list[Laid]:
    x, sizes, weight, bias, eps = node.args
    laid = b.laid(x)
    axes = list(range(len(laid.shape) - len(sizes), len(laid.shape)))
    result, mean, factor = normalised(b, laid, axes, eps)
    return [_scaled(b, result, weight, bias), mean, factor]


@TABLE.add("native_batch_norm")
def _batch_statistics(b: Builder, node: Node) -> Laid:
    """Statistics of the input itself: batch norm that keeps none, and instance norm, which torch writes as (1, N C)."""
    x, weight, bias, _, _, _, _, eps = node.args
    laid = b.laid(x)
    axes = [0, *range(2, len(laid.shape))]
    result, _, _ = normalised(b, laid, axes, eps)
    return _scaled(b, result, *(None if ref is None else _parameter(b, ref, laid) for ref in (weight, bias)))


@TABLE.add("native_group_norm")
def _group_norm(b: Builder, node: Node) -> Laid:
    x, weight, bias, batch, channels, _, groups, eps = node.args
    laid = b.laid(x)
    grouped = b.view(laid, (batch, channels, math.prod(laid.shape[2:])))
    grouped = b.view(grouped, (batch, groups, channels // groups, grouped.shape[2]))
    result, _, _ = normalised(b, grouped, [2, 3], eps)
    result = b.view(b.view(result, (batch, channels, grouped.shape[3])), laid.shape)
    return _scaled(b, result, *(None if ref is None else _parameter(b, ref, laid) for ref in (weight, bias)))


@TABLE.add("_softmax", "_safe_softmax", "softmax.int", "_log_softmax")
def _softmax(b: Builder, node: Node) -> Laid:
    """TFLite goes over the innermost axis alone."""
    laid = converted(b, node.args[0], "float32")
    if not laid.shape:
        raise Unsupported(f"aten.{node.op} without dimensions")
    order = last(laid.order, argument(node, 1, "dim") % len(laid.shape))
    moved = Laid(b.at(laid, order), laid.shape, order)
    return unary(b, "LOG_SOFTMAX", moved) if node.op == "_log_softmax" else unary(b, "SOFTMAX", moved, beta=1.0)
