"""Elementwise arithmetic, comparisons and choices in TFLite."""

from __future__ import annotations

import math

import numpy as np
import torch

from ....spaces.tracer import Node, Ref
from ..operators import Unsupported, argument
from .builder import Builder, Handler, Laid, Table
from .fusing import biased
from .layout import Shape, stored
from .operands import Operand, aligned, combined, converted, elementwise, unary

TABLE = Table()

_UNARY = {
    "abs": "ABS", "neg": "NEG", "exp": "EXP", "log": "LOG", "sqrt": "SQRT", "rsqrt": "RSQRT", "sin": "SIN",
    "cos": "COS", "floor": "FLOOR", "ceil": "CEIL", "round": "ROUND", "sign": "SIGN", "square": "SQUARE",
    "sigmoid": "LOGISTIC", "tanh": "TANH", "hardswish": "HARD_SWISH",
}  # fmt: skip
_ON_INTEGERS = frozenset({"abs", "neg", "sign"})
_BINARY = {
    "add": "ADD", "sub": "SUB", "mul": "MUL", "div": "DIV", "maximum": "MAXIMUM", "minimum": "MINIMUM",
    "clamp_min": "MAXIMUM", "clamp_max": "MINIMUM",
}  # fmt: skip
_OF_BOOLS = {"ADD": "LOGICAL_OR", "MUL": "LOGICAL_AND", "MAXIMUM": "LOGICAL_OR", "MINIMUM": "LOGICAL_AND"}
_COMPARISON = {
    "eq": "EQUAL", "ne": "NOT_EQUAL", "lt": "LESS", "le": "LESS_EQUAL", "gt": "GREATER", "ge": "GREATER_EQUAL",
}  # fmt: skip
_LOGICAL = {"and": "LOGICAL_AND", "or": "LOGICAL_OR"}


def floating(b: Builder, node: Node) -> Laid:
    """The first argument as float32, the one dtype in which TFLite computes functions."""
    if node.outputs[0].dtype != "float32":
        raise Unsupported(f"aten.{node.op} in {node.outputs[0].dtype}")
    return converted(b, node.args[0], "float32")


def _unary(kind: str) -> Handler:
    def handler(b: Builder, node: Node) -> Laid:
        if node.op in _ON_INTEGERS and node.outputs[0].dtype in ("int32", "int64"):
            return unary(b, kind, b.laid(node.args[0]))
        return unary(b, kind, floating(b, node))

    return handler


def _binary(kind: str) -> Handler:
    def handler(b: Builder, node: Node) -> Laid:
        out, (left, right) = node.outputs[0], node.args[:2]
        if out.dtype == "bool":
            if kind not in _OF_BOOLS:
                raise Unsupported(f"aten.{node.op} of bools")
            return elementwise(b, _OF_BOOLS[kind], [left, right], out.shape, "bool")
        if kind == "ADD" and out.dtype == "float32" and argument(node, 2, "alpha", 1) == 1:
            whole = _in_bias(b, left, right) or _in_bias(b, right, left)
            if whole is not None:
                return whole
        if kind in ("ADD", "SUB"):
            right = _scaled(b, right, argument(node, 2, "alpha", 1), out.dtype)
        if kind == "DIV" and out.dtype == "float32" and not isinstance(right, Ref) and abs(right) > 1e-30:
            # Multiplying is faster, and exists for quantised numbers.
            return elementwise(b, "MUL", [left, 1 / right], out.shape, out.dtype)
        return elementwise(b, kind, [left, right], out.shape, out.dtype)

    return handler


def _in_bias(b: Builder, x: Operand, summand: Operand) -> Laid | None:
    if not isinstance(x, Ref) or isinstance(summand, Laid):
        return None
    array = b.constant(summand) if isinstance(summand, Ref) else np.asarray(summand)
    return None if array is None else biased(b, x, array)


def _scaled(b: Builder, arg: Operand, factor: float, dtype: str) -> Operand:
    if factor == 1:
        return arg
    if isinstance(arg, Ref | Laid):
        return combined(b, "MUL", converted(b, arg, dtype), factor)
    return arg * factor


def _promoted(b: Builder, *args: Ref | float | int | bool) -> str:
    """The dtype in which torch compares tensors and Python scalars."""
    samples = [
        torch.empty((1,) if b.shape(arg) else (), dtype=getattr(torch, b.dtype(arg))) if isinstance(arg, Ref) else arg
        for arg in args
    ]
    return str(torch.result_type(samples[0], samples[1]))[6:]


def _comparison(kind: str) -> Handler:
    def handler(b: Builder, node: Node) -> Laid:
        dtype = _promoted(b, *node.args[:2])
        if dtype == "bool" and kind not in ("EQUAL", "NOT_EQUAL"):
            dtype = "int32"
        return elementwise(b, kind, node.args[:2], node.outputs[0].shape, dtype, "bool")

    return handler


def _logical(kind: str, only_bool: bool) -> Handler:
    def handler(b: Builder, node: Node) -> Laid:
        if only_bool and node.outputs[0].dtype != "bool":
            raise Unsupported(f"aten.{node.op} on integers")
        return elementwise(b, kind, node.args[:2], node.outputs[0].shape, "bool")

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
    TABLE["logical_" + _name] = _logical(_kind, False)
    TABLE[f"bitwise_{_name}.Tensor"] = TABLE[f"bitwise_{_name}.Scalar"] = _logical(_kind, True)


@TABLE.add("logical_not", "bitwise_not")
def _not(b: Builder, node: Node) -> Laid:
    if node.outputs[0].dtype != "bool":
        raise Unsupported(f"aten.{node.op} on integers")
    return unary(b, "LOGICAL_NOT", converted(b, node.args[0], "bool"))


@TABLE.add("logical_xor", "bitwise_xor.Tensor")
def _xor(b: Builder, node: Node) -> Laid:
    if node.outputs[0].dtype != "bool":
        raise Unsupported(f"aten.{node.op} on integers")
    return elementwise(b, "NOT_EQUAL", node.args[:2], node.outputs[0].shape, "bool")


@TABLE.add("rsub.Tensor", "rsub.Scalar")
def _rsub(b: Builder, node: Node) -> Laid:
    out = node.outputs[0]
    left = _scaled(b, node.args[0], argument(node, 2, "alpha", 1), out.dtype)
    return elementwise(b, "SUB", [node.args[1], left], out.shape, out.dtype)


@TABLE.add("div.Tensor_mode", "div.Scalar_mode", "floor_divide", "floor_divide.Scalar")
def _div_mode(b: Builder, node: Node) -> Laid:
    out = node.outputs[0]
    mode = node.kwargs.get("rounding_mode", "floor" if node.op.startswith("floor_divide") else None)
    kind = {None: "DIV", "floor": "FLOOR_DIV"}.get(mode)
    if kind is None:
        raise Unsupported(f"aten.{node.op} with rounding_mode={mode!r}")
    return elementwise(b, kind, node.args[:2], out.shape, out.dtype)


@TABLE.add("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _pow(b: Builder, node: Node) -> Laid:
    out, (base, exponent) = node.outputs[0], node.args
    kind = {0.5: "SQRT", -0.5: "RSQRT", 2: "SQUARE"}.get(exponent) if isinstance(exponent, int | float) else None
    if kind is not None:
        return unary(b, kind, floating(b, node))
    if out.dtype not in ("float32", "int32"):
        raise Unsupported(f"aten.{node.op} in {out.dtype}")
    return elementwise(b, "POW", [base, exponent], out.shape, out.dtype)


@TABLE.add("reciprocal")
def _reciprocal(b: Builder, node: Node) -> Laid:
    out = node.outputs[0]
    return elementwise(b, "DIV", [1.0, node.args[0]], out.shape, out.dtype)


@TABLE.add("log1p", "expm1", "log2", "log10", "exp2")
def _log_family(b: Builder, node: Node) -> Laid:
    x = floating(b, node)
    if node.op == "log1p":
        return unary(b, "LOG", combined(b, "ADD", x, 1.0))
    if node.op == "expm1":
        return combined(b, "SUB", unary(b, "EXP", x), 1.0)
    if node.op == "exp2":
        return unary(b, "EXP", combined(b, "MUL", x, math.log(2)))
    return combined(b, "MUL", unary(b, "LOG", x), 1 / math.log(float(node.op[3:])))


# -- choice and combination


@TABLE.add("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(b: Builder, node: Node) -> Laid:
    return _chosen(b, node, *node.args)


@TABLE.add("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(b: Builder, node: Node) -> Laid:
    x, mask, value = node.args
    return _chosen(b, node, mask, value, x)


def select(b: Builder, condition: Laid, yes: Laid, no: Laid, shape: Shape) -> Laid:
    """``yes`` where the condition holds, ``no`` elsewhere."""
    tensors, order = aligned(b, [condition, yes, no], shape)
    return Laid(b.op("SELECT_V2", tensors, stored(shape, order), yes.tensor.dtype), shape, order)


def _chosen(b: Builder, node: Node, condition: Operand, yes: Operand, no: Operand) -> Laid:
    out = node.outputs[0]
    sides = [converted(b, side, out.dtype) for side in (yes, no)]
    return select(b, converted(b, condition, "bool"), sides[0], sides[1], out.shape)


@TABLE.add("_to_copy")
def _to_copy(b: Builder, node: Node) -> Laid:
    return converted(b, node.args[0], node.outputs[0].dtype)


@TABLE.add("lerp.Scalar", "lerp.Tensor")
def _lerp(b: Builder, node: Node) -> Laid:
    out, (start, end, weight) = node.outputs[0], node.args
    step = elementwise(b, "SUB", [end, start], out.shape, out.dtype)
    return elementwise(b, "ADD", [start, combined(b, "MUL", step, weight)], out.shape, out.dtype)


@TABLE.add("addcmul", "addcdiv")
def _addc(b: Builder, node: Node) -> Laid:
    out, (x, left, right) = node.outputs[0], node.args[:3]
    term = elementwise(b, "MUL" if node.op == "addcmul" else "DIV", [left, right], out.shape, out.dtype)
    return elementwise(b, "ADD", [x, _scaled(b, term, argument(node, 3, "value", 1), out.dtype)], out.shape, out.dtype)
