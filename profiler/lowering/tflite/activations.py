"""Activations in TFLite; the first kinds become part of the operator before them where nobody else reads its result."""

from __future__ import annotations

import numpy as np

from ....spaces.tracer import Node
from ..operators import argument
from .builder import Builder, Laid, Table
from .fusing import activated, biased
from .operands import Operand, combined, converted, elementwise, unary
from .pointwise import floating, select

TABLE = Table()
_CLIPS = {(0, None): "RELU", (0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1"}


@TABLE.add("relu", "relu6", "hardtanh", "clamp")
def _clip(b: Builder, node: Node) -> Laid:
    low, high = {"relu": (0, None), "relu6": (0, 6)}.get(node.op, (argument(node, 1, "min"), argument(node, 2, "max")))
    if node.op == "hardtanh":
        low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    x = converted(b, node.args[0], node.outputs[0].dtype)
    kind = _CLIPS.get((low, high)) if node.outputs[0].dtype == "float32" else None
    if kind is not None:
        return activated(b, node.args[0], kind) or unary(b, kind, x)
    return _between(b, x, low, high)


def _between(b: Builder, x: Laid, low: Operand | None, high: Operand | None) -> Laid:
    x = x if low is None else combined(b, "MAXIMUM", x, low)
    return x if high is None else combined(b, "MINIMUM", x, high)


@TABLE.add("clamp.Tensor")
def _clamp_tensor(b: Builder, node: Node) -> Laid:
    x = converted(b, node.args[0], node.outputs[0].dtype)
    return _between(b, x, argument(node, 1, "min"), argument(node, 2, "max"))


@TABLE.add("hardsigmoid")
def _hardsigmoid(b: Builder, node: Node) -> Laid:
    x = floating(b, node)
    if biased(b, node.args[0], np.asarray(3.0), "RELU6"):
        return combined(b, "MUL", x, 1 / 6)
    return combined(b, "MUL", elementwise(b, "ADD", [x, 3.0], x.shape, "float32", fusedActivationFunction=3), 1 / 6)


@TABLE.add("silu")
def _silu(b: Builder, node: Node) -> Laid:
    x = floating(b, node)
    return combined(b, "MUL", x, unary(b, "LOGISTIC", x))


@TABLE.add("gelu")
def _gelu(b: Builder, node: Node) -> Laid:
    approximate = argument(node, 1, "approximate", "none") == "tanh"
    return unary(b, "GELU", floating(b, node), approximate=approximate)


@TABLE.add("elu", "celu")
def _elu(b: Builder, node: Node) -> Laid:
    alpha, scale, inner = (
        argument(node, 1, "alpha", 1.0), argument(node, 2, "scale", 1.0), argument(node, 3, "input_scale", 1.0),
    )  # fmt: skip
    if node.op == "celu":
        scale, inner = 1.0, 1 / alpha
    x = floating(b, node)
    if (alpha, inner) == (1, 1):
        result = unary(b, "ELU", x)
        return result if scale == 1 else combined(b, "MUL", result, scale)
    # TFLite's ELU has no factors: what is negative through it, scaled, and what is positive beside it.
    negative = _between(b, combined(b, "MUL", x, inner), None, 0.0)
    tail = combined(b, "MUL", unary(b, "ELU", negative), alpha * scale)
    head = unary(b, "RELU", x)
    return combined(b, "ADD", head if scale == 1 else combined(b, "MUL", head, scale), tail)


@TABLE.add("leaky_relu")
def _leaky_relu(b: Builder, node: Node) -> Laid:
    return unary(b, "LEAKY_RELU", floating(b, node), alpha=float(argument(node, 1, "negative_slope", 0.01)))


@TABLE.add("_prelu_kernel")
def _prelu(b: Builder, node: Node) -> Laid:
    """relu(x) - slope relu(-x), since PRELU takes slopes by the last axis only and others may lie last here."""
    x, slope = node.args
    negative = _between(b, b.laid(x), None, 0.0)
    return combined(b, "ADD", unary(b, "RELU", b.laid(x)), combined(b, "MUL", negative, slope))


def softplus(b: Builder, x: Laid) -> Laid:
    """relu(x) + log(1 + exp(-|x|)), which never overflows."""
    small = unary(b, "EXP", unary(b, "NEG", unary(b, "ABS", x)))
    return combined(b, "ADD", unary(b, "RELU", x), unary(b, "LOG", combined(b, "ADD", small, 1.0)))


@TABLE.add("softplus")
def _softplus(b: Builder, node: Node) -> Laid:
    beta, x = argument(node, 1, "beta", 1), floating(b, node)
    if beta == 1:
        return softplus(b, x)
    return combined(b, "MUL", softplus(b, combined(b, "MUL", x, beta)), 1 / beta)


@TABLE.add("log_sigmoid_forward")
def _log_sigmoid(b: Builder, node: Node) -> Laid:
    return unary(b, "NEG", softplus(b, unary(b, "NEG", floating(b, node))))


@TABLE.add("mish")
def _mish(b: Builder, node: Node) -> Laid:
    x = floating(b, node)
    return combined(b, "MUL", x, unary(b, "TANH", softplus(b, x)))


@TABLE.add("softshrink", "hardshrink")
def _shrink(b: Builder, node: Node) -> Laid:
    bound, x = float(argument(node, 1, "lambd", 0.5)), floating(b, node)
    if node.op == "softshrink":
        return combined(b, "SUB", x, _between(b, x, -bound, bound))
    outside = elementwise(b, "GREATER", [unary(b, "ABS", x), bound], x.shape, "float32", "bool")
    return select(b, outside, x, converted(b, 0.0, "float32"), x.shape)


@TABLE.add("threshold")
def _threshold(b: Builder, node: Node) -> Laid:
    x, bound, value = floating(b, node), node.args[1], node.args[2]
    above = elementwise(b, "GREATER", [x, float(bound)], x.shape, "float32", "bool")
    return select(b, above, x, converted(b, float(value), "float32"), x.shape)


@TABLE.add("glu")
def _glu(b: Builder, node: Node) -> Laid:
    x = floating(b, node)
    axis = argument(node, 1, "dim", -1) % len(x.shape)
    place, shape = x.order.index(axis), node.outputs[0].shape
    half = tuple(shape[axis] for axis in x.order)
    parts = b.multi("SPLIT", [b.scalar(place, "int32"), x.tensor], [half, half], "float32", numSplits=2)
    left, right = (Laid(part, shape, x.order) for part in parts)
    return combined(b, "MUL", left, unary(b, "LOGISTIC", right))
