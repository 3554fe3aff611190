"""Elementwise operators and activations in ONNX."""

from __future__ import annotations

from typing import Any

import torch

from ...spaces.tracer import Node, Ref
from .builder import Builder, Unsupported
from .operators import Handler, Table, argument, operand

TABLE = Table()

_UNARY = {
    "abs": "Abs", "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "erf": "Erf",
    "sin": "Sin", "cos": "Cos", "tan": "Tan", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "floor": "Floor",
    "ceil": "Ceil", "round": "Round", "sign": "Sign", "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu",
    "hardswish": "HardSwish", "mish": "Mish", "logical_not": "Not", "isnan": "IsNaN",
}  # fmt: skip
_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min",
    "clamp_min": "Max", "clamp_max": "Min",
}  # fmt: skip
_COMPARISON = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}
_LOGICAL = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
_BITWISE = {"bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor"}


def _unary(kind: str) -> Handler:
    def handler(b: Builder, node: Node) -> str:
        x = node.args[0]
        return b.op(kind, operand(b, x, "bool" if kind == "Not" else _input_dtype(b, node, kind)))

    return handler


def _input_dtype(b: Builder, node: Node, kind: str) -> str:
    return b.dtype(node.args[0]) if kind == "IsNaN" else node.outputs[0].dtype


def _binary(kind: str) -> Handler:
    def handler(b: Builder, node: Node) -> str:
        dtype = node.outputs[0].dtype
        left, right = operand(b, node.args[0], dtype), operand(b, node.args[1], dtype)
        alpha = argument(node, 2, "alpha", 1)
        if kind in ("Add", "Sub"):
            right = _scaled(b, right, alpha, dtype)
            if dtype == "bool":
                return b.op("Or", left, right)
        if dtype == "bool" and kind == "Mul":
            return b.op("And", left, right)
        return b.op(kind, left, right)

    return handler


def _scaled(b: Builder, name: str, factor: Any, dtype: str) -> str:
    return name if factor == 1 else b.op("Mul", name, b.scalar(factor, dtype))


def _promoted(b: Builder, *args: Any) -> str:
    """The dtype in which torch compares or combines tensors and Python scalars."""
    samples = [
        torch.empty((1,) if b.shape(arg) else (), dtype=getattr(torch, b.dtype(arg))) if isinstance(arg, Ref) else arg
        for arg in args
    ]
    dtype = torch.result_type(samples[0], samples[1])
    return str(dtype)[6:]


def _comparison(kind: str) -> Handler:
    def handler(b: Builder, node: Node) -> str:
        dtype = _promoted(b, *node.args[:2])
        dtype = "int64" if dtype == "bool" and kind != "Equal" else dtype
        return b.op(kind, operand(b, node.args[0], dtype), operand(b, node.args[1], dtype))

    return handler


def _logical(kind: str, only_bool: bool) -> Handler:
    def handler(b: Builder, node: Node) -> str:
        if only_bool and node.outputs[0].dtype != "bool":
            raise Unsupported(f"{node.op} on integers")
        return b.op(kind, operand(b, node.args[0], "bool"), operand(b, node.args[1], "bool"))

    return handler


for _name, _kind in _UNARY.items():
    TABLE[_name] = _unary(_kind)
for _name, _kind in _BINARY.items():
    for _suffix in ("", ".Tensor", ".Scalar"):
        TABLE[_name + _suffix] = _binary(_kind)
for _name, _kind in _COMPARISON.items():
    for _suffix in (".Tensor", ".Scalar"):
        TABLE[_name + _suffix] = _comparison(_kind)
for _name, _kind in _LOGICAL.items():
    TABLE[_name] = _logical(_kind, False)
for _name, _kind in _BITWISE.items():
    TABLE[_name + ".Tensor"] = TABLE[_name + ".Scalar"] = _logical(_kind, True)


@TABLE.add("ne.Tensor", "ne.Scalar")
def _not_equal(b: Builder, node: Node) -> str:
    dtype = _promoted(b, *node.args[:2])
    return b.op("Not", b.op("Equal", operand(b, node.args[0], dtype), operand(b, node.args[1], dtype)))


@TABLE.add("bitwise_not")
def _bitwise_not(b: Builder, node: Node) -> str:
    if node.outputs[0].dtype != "bool":
        raise Unsupported("bitwise_not on integers")
    return b.op("Not", b.name(node.args[0]))


@TABLE.add("rsub.Tensor", "rsub.Scalar")
def _rsub(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    left = _scaled(b, operand(b, node.args[0], dtype), argument(node, 2, "alpha", 1), dtype)
    return b.op("Sub", operand(b, node.args[1], dtype), left)


@TABLE.add("div.Tensor_mode", "div.Scalar_mode", "floor_divide", "floor_divide.Scalar")
def _div_mode(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    mode = node.kwargs.get("rounding_mode", "floor" if node.op.startswith("floor_divide") else None)
    quotient = b.op("Div", operand(b, node.args[0], dtype), operand(b, node.args[1], dtype))
    if mode is None:
        return quotient
    if mode == "floor" and dtype.startswith("float"):
        return b.op("Floor", quotient)
    if mode == "trunc" and not dtype.startswith("float"):
        return quotient
    raise Unsupported(f"{node.op} with rounding_mode={mode!r} in {dtype}")


@TABLE.add("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "square")
def _pow(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    exponent = 2 if node.op == "square" else node.args[1]
    if exponent == 0.5:
        return b.op("Sqrt", operand(b, node.args[0], dtype))
    return b.op("Pow", operand(b, node.args[0], dtype), operand(b, exponent, dtype))


@TABLE.add("rsqrt")
def _rsqrt(b: Builder, node: Node) -> str:
    return b.op("Reciprocal", b.op("Sqrt", operand(b, node.args[0], node.outputs[0].dtype)))


@TABLE.add("log1p", "expm1", "log2", "log10", "exp2")
def _log_family(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    x = operand(b, node.args[0], dtype)
    if node.op == "log1p":
        return b.op("Log", b.op("Add", x, b.scalar(1, dtype)))
    if node.op == "expm1":
        return b.op("Sub", b.op("Exp", x), b.scalar(1, dtype))
    if node.op == "exp2":
        return b.op("Pow", b.scalar(2, dtype), x)
    return b.op("Mul", b.op("Log", x), b.scalar(1 / torch.tensor(float(node.op[3:])).double().log().item(), dtype))


# -- activations


@TABLE.add("hardtanh", "clamp", "relu6")
def _clip(b: Builder, node: Node) -> str:
    low, high = (0.0, 6.0) if node.op == "relu6" else (argument(node, 1, "min"), argument(node, 2, "max"))
    if node.op == "hardtanh":
        low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    dtype = node.outputs[0].dtype
    x = operand(b, node.args[0], dtype)
    if high is None:
        return b.op("Relu", x) if low == 0 else b.op("Clip", x, b.scalar(low, dtype))
    return b.op("Clip", x, "" if low is None else b.scalar(low, dtype), b.scalar(high, dtype))


@TABLE.add("clamp.Tensor")
def _clamp_tensor(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    name = operand(b, node.args[0], dtype)
    for kind, bound in (("Max", argument(node, 1, "min")), ("Min", argument(node, 2, "max"))):
        name = name if bound is None else b.op(kind, name, operand(b, bound, dtype))
    return name


@TABLE.add("hardsigmoid")
def _hardsigmoid(b: Builder, node: Node) -> str:
    return b.op("HardSigmoid", b.name(node.args[0]), alpha=1 / 6, beta=0.5)


@TABLE.add("silu")
def _silu(b: Builder, node: Node) -> str:
    x = b.name(node.args[0])
    return b.op("Mul", x, b.op("Sigmoid", x))


@TABLE.add("gelu")
def _gelu(b: Builder, node: Node) -> str:
    return b.op("Gelu", b.name(node.args[0]), approximate=argument(node, 1, "approximate", "none"))


@TABLE.add("elu")
def _elu(b: Builder, node: Node) -> str:
    alpha, scale, input_scale = (
        argument(node, 1, "alpha", 1.0), argument(node, 2, "scale", 1.0), argument(node, 3, "input_scale", 1.0),
    )  # fmt: skip
    if input_scale != 1:
        raise Unsupported("elu with an input scale")
    x = b.name(node.args[0])
    return b.op("Elu", x, alpha=float(alpha)) if scale == 1 else b.op("Selu", x, alpha=float(alpha), gamma=float(scale))


@TABLE.add("celu")
def _celu(b: Builder, node: Node) -> str:
    return b.op("Celu", b.name(node.args[0]), alpha=float(argument(node, 1, "alpha", 1.0)))


@TABLE.add("leaky_relu")
def _leaky_relu(b: Builder, node: Node) -> str:
    return b.op("LeakyRelu", b.name(node.args[0]), alpha=float(argument(node, 1, "negative_slope", 0.01)))


@TABLE.add("_prelu_kernel")
def _prelu(b: Builder, node: Node) -> str:
    return b.op("PRelu", b.name(node.args[0]), b.name(node.args[1]))


@TABLE.add("softplus")
def _softplus(b: Builder, node: Node) -> str:
    beta, x = argument(node, 1, "beta", 1), b.name(node.args[0])
    if beta == 1:
        return b.op("Softplus", x)
    factor = b.scalar(beta, node.outputs[0].dtype)
    return b.op("Div", b.op("Softplus", b.op("Mul", x, factor)), factor)


@TABLE.add("log_sigmoid_forward")
def _log_sigmoid(b: Builder, node: Node) -> str:
    return b.op("Neg", b.op("Softplus", b.op("Neg", b.name(node.args[0]))))


@TABLE.add("softshrink", "hardshrink")
def _shrink(b: Builder, node: Node) -> str:
    bound = float(argument(node, 1, "lambd", 0.5))
    return b.op("Shrink", b.name(node.args[0]), lambd=bound, bias=bound if node.op == "softshrink" else 0.0)


@TABLE.add("threshold")
def _threshold(b: Builder, node: Node) -> str:
    x, dtype = b.name(node.args[0]), node.outputs[0].dtype
    above = b.op("Greater", x, b.scalar(node.args[1], dtype))
    return b.op("Where", above, x, b.scalar(node.args[2], dtype))


@TABLE.add("glu")
def _glu(b: Builder, node: Node) -> str:
    axis = argument(node, 1, "dim", -1) % len(b.shape(node.args[0]))
    left, right = b.multi("Split", [b.name(node.args[0])], 2, axis=axis, num_outputs=2)
    return b.op("Mul", left, b.op("Sigmoid", right))


# -- choice and combination


@TABLE.add("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    condition, left, right = node.args
    return b.op("Where", operand(b, condition, "bool"), operand(b, left, dtype), operand(b, right, dtype))


@TABLE.add("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(b: Builder, node: Node) -> str:
    x, mask, value = node.args
    return b.op("Where", operand(b, mask, "bool"), operand(b, value, node.outputs[0].dtype), b.name(x))


@TABLE.add("_to_copy")
def _to_copy(b: Builder, node: Node) -> str:
    return b.cast(b.name(node.args[0]), b.dtype(node.args[0]), node.outputs[0].dtype)


@TABLE.add("lerp.Scalar", "lerp.Tensor")
def _lerp(b: Builder, node: Node) -> str:
    start, end, weight = node.args
    dtype = node.outputs[0].dtype
    step = b.op("Mul", b.op("Sub", b.name(end), b.name(start)), operand(b, weight, dtype))
    return b.op("Add", b.name(start), step)


@TABLE.add("addcmul", "addcdiv")
def _addc(b: Builder, node: Node) -> str:
    x, left, right = (b.name(arg) for arg in node.args[:3])
    dtype = node.outputs[0].dtype
    term = b.op("Mul" if node.op == "addcmul" else "Div", left, right)
    return b.op("Add", x, _scaled(b, term, argument(node, 3, "value", 1), dtype))
