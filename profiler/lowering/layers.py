"""Convolutions, matrix products, pooling, normalisation, softmax and resizing in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...spaces.tracer import Node, Ref
from .builder import Builder, Unsupported
from .operators import Table, argument, operand, pair

TABLE = Table()


@TABLE.add("convolution")
def _convolution(b: Builder, node: Node) -> str:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    n = len(b.shape(weight)) - 2
    rank = len(b.shape(x))
    inputs = [b.name(x), b.name(weight), *([] if bias is None else [b.name(bias)])]
    if rank == n + 1:
        inputs[0] = b.reshape(inputs[0], (1, *b.shape(x)))
    attributes = {
        "kernel_shape": list(b.shape(weight)[2:]),
        "strides": pair(stride, n),
        "pads": pair(padding, n) * 2,
        "dilations": pair(dilation, n),
        "group": groups,
    }
    if transposed:
        result = b.op("ConvTranspose", *inputs, output_padding=pair(output_padding, n), **attributes)
    else:
        result = b.op("Conv", *inputs, **attributes)
    return result if rank == n + 2 else b.reshape(result, node.outputs[0].shape)


# -- matrix products


@TABLE.add("addmm")
def _addmm(b: Builder, node: Node) -> str:
    bias, left, right = (b.name(arg) for arg in node.args)
    factors = {name: float(factor) for name, factor in node.kwargs.items()}  # alpha, beta
    return b.op("Gemm", left, right, bias, **factors)


@TABLE.add("mm", "bmm", "matmul", "mv", "dot")
def _matmul(b: Builder, node: Node) -> str:
    return b.op("MatMul", b.name(node.args[0]), b.name(node.args[1]))


@TABLE.add("linear")
def _linear(b: Builder, node: Node) -> str:
    x, weight, bias = node.args
    product = b.op("MatMul", b.name(x), b.name(weight))
    return product if bias is None else b.op("Add", product, b.name(bias))


@TABLE.add("baddbmm")
def _baddbmm(b: Builder, node: Node) -> str:
    bias, left, right = (b.name(arg) for arg in node.args[:3])
    dtype = node.outputs[0].dtype
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    product = b.op("MatMul", left, right)
    product = product if alpha == 1 else b.op("Mul", product, b.scalar(alpha, dtype))
    if beta == 0:
        return product
    return b.op("Add", product, bias if beta == 1 else b.op("Mul", bias, b.scalar(beta, dtype)))


# -- pooling


def _pool_ends(size: int, kernel: int, stride: int, pad: int, dilation: int, out: int) -> int:
    """Padding at the end with which a floor-mode pool gives ``out`` positions (so that ceil mode needs no support)."""
    return max(pad, (out - 1) * stride + dilation * (kernel - 1) + 1 - size - pad)


@TABLE.add("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices", "max_pool2d", "max_pool1d")
def _max_pool(b: Builder, node: Node) -> str:
    if len(node.outputs) > 1 and b.is_read(node.outputs[1]):
        raise Unsupported(f"the indices of {node.op}")
    out = node.outputs[0].shape
    n = _pool_rank(node)
    kernel = pair(node.args[1], n)
    stride = pair(argument(node, 2, "stride") or kernel, n)
    padding, dilation = pair(argument(node, 3, "padding", 0), n), pair(argument(node, 4, "dilation", 1), n)
    size = b.shape(node.args[0])[-n:]
    ends = [_pool_ends(*each) for each in zip(size, kernel, stride, padding, dilation, out[-n:], strict=True)]
    x, restore = _with_batch(b, node, n)
    if any(
        end >= k for end, k in zip(ends, kernel, strict=True)
    ):  # dilated in ceil mode; ONNX pads by less than the kernel
        x = b.op("Pad", x, b.ints([0] * (n + 4) + ends), b.scalar(-math.inf, node.outputs[0].dtype))
        ends = [0] * n
    result = b.op(
        "MaxPool", x, kernel_shape=kernel, strides=stride, pads=padding + ends,
        dilations=None if set(dilation) == {1} else dilation,
    )  # fmt: skip
    return b.reshape(result, out) if restore else result


def _pool_rank(node: Node) -> int:
    return int(next(char for char in node.op if char.isdigit()))


def _with_batch(b: Builder, node: Node, n: int) -> tuple[str, bool]:
    """The input with a batch dimension, and whether one was added."""
    x = node.args[0]
    missing = len(b.shape(x)) == n + 1
    return (b.reshape(b.name(x), (1, *b.shape(x))) if missing else b.name(x)), missing


@TABLE.add("avg_pool2d", "avg_pool3d", "avg_pool1d")
def _avg_pool(b: Builder, node: Node) -> str:
    n = _pool_rank(node)
    out = node.outputs[0].shape
    kernel = pair(node.args[1], n)
    stride = pair(argument(node, 2, "stride") or kernel, n)
    padding = pair(argument(node, 3, "padding", 0), n)
    include_pad = argument(node, 5, "count_include_pad", True)
    divisor = argument(node, 6, "divisor_override")
    size = b.shape(node.args[0])[-n:]
    ones = [1] * n
    ends = [_pool_ends(*each) for each in zip(size, kernel, stride, padding, ones, out[-n:], strict=True)]
    if ends != padding and divisor is not None:
        raise Unsupported(f"{node.op} with divisor_override and ceil_mode")
    x, restore = _with_batch(b, node, n)
    # Positions that ceil mode adds beyond the padding never count in torch: average over what counts, by a second pool.
    if ends != padding and include_pad and any(padding):
        x = b.op("Pad", x, b.ints([0, 0, *padding] * 2), b.scalar(0, node.outputs[0].dtype))
        ends = [max(0, end - pad) for end, pad in zip(ends, padding, strict=True)]
        padding = [0] * n
    counts_pad = bool(include_pad and ends == padding)
    result = b.op(
        "AveragePool", x, kernel_shape=kernel, strides=stride, pads=padding + ends, count_include_pad=int(counts_pad)
    )
    if divisor is not None:
        if any(padding) and not counts_pad:
            raise Unsupported(f"{node.op} with divisor_override and without counting the padding")
        result = b.op("Mul", result, b.scalar(math.prod(kernel) / divisor, node.outputs[0].dtype))
    return b.reshape(result, out) if restore else result


@TABLE.add("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def _adaptive_avg_pool(b: Builder, node: Node) -> str:
    n = _pool_rank(node)
    size, out = b.shape(node.args[0])[-n:], node.outputs[0].shape[-n:]
    if all(s % o == 0 for s, o in zip(size, out, strict=True)):
        return _even_pool(b, node, "AveragePool", "GlobalAveragePool", n)
    if n > 2:
        raise Unsupported(f"{node.op} from {size} to {out}")
    dtype = node.outputs[0].dtype
    result = b.name(node.args[0])
    result = b.op("MatMul", result, b.tensor(_averaging(size[-1], out[-1], dtype).T))
    return result if n == 1 else b.op("MatMul", b.tensor(_averaging(size[0], out[0], dtype)), result)


def _averaging(size: int, out: int, dtype: str) -> Tensor:
    """(out, size): row i averages over [floor(i size / out), ceil((i + 1) size / out))."""
    matrix = torch.zeros(out, size, dtype=getattr(torch, dtype))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


@TABLE.add("adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_max_pool1d")
def _adaptive_max_pool(b: Builder, node: Node) -> str:
    if b.is_read(node.outputs[1]):
        raise Unsupported(f"the indices of {node.op}")
    n = _pool_rank(node)
    size, out = b.shape(node.args[0])[-n:], node.outputs[0].shape[-n:]
    if any(s % o for s, o in zip(size, out, strict=True)):
        raise Unsupported(f"{node.op} from {size} to {out}")
    return _even_pool(b, node, "MaxPool", "GlobalMaxPool", n)


def _even_pool(b: Builder, node: Node, kind: str, global_kind: str, n: int) -> str:
    size, out = b.shape(node.args[0])[-n:], node.outputs[0].shape[-n:]
    x, restore = _with_batch(b, node, n)
    if set(out) == {1}:
        result = b.op(global_kind, x)
    else:
        kernel = [s // o for s, o in zip(size, out, strict=True)]
        result = b.op(kind, x, kernel_shape=kernel, strides=kernel)
    return b.reshape(result, node.outputs[0].shape) if restore else result


# -- normalisation and softmax


@TABLE.add("batch_norm")
def _batch_norm(b: Builder, node: Node) -> str:
    *tensors, eps = node.args
    return b.op("BatchNormalization", *(b.name(tensor) for tensor in tensors), epsilon=float(eps))


@TABLE.add("native_batch_norm")
def _batch_statistics(b: Builder, node: Node) -> str:
    """Statistics of the input itself: batch norm that keeps none, and instance norm, which torch writes as (1, N C)."""
    x, weight, bias, _, _, _, _, eps = node.args
    shape, dtype = b.shape(x), node.outputs[0].dtype
    channels = shape[1]
    if shape[0] == 1 and len(shape) > 2:
        scale, shift = _or_constant(b, weight, channels, 1.0, dtype), _or_constant(b, bias, channels, 0.0, dtype)
        return b.op("InstanceNormalization", b.name(x), scale, shift, epsilon=float(eps))
    axes = b.ints([0, *range(2, len(shape))])
    centred = b.op("Sub", b.name(x), b.op("ReduceMean", b.name(x), axes))
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), axes)
    result = b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, b.scalar(eps, dtype))))
    for kind, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            wide = b.reshape(b.name(parameter), (1, channels, *(1 for _ in shape[2:])))
            result = b.op(kind, result, wide)
    return result


def _or_constant(b: Builder, ref: Ref | None, size: int | Sequence[int], value: float, dtype: str) -> str:
    if ref is not None:
        return b.name(ref)
    return b.tensor(torch.full((size,) if isinstance(size, int) else tuple(size), value, dtype=getattr(torch, dtype)))


@TABLE.add("native_layer_norm")
def _layer_norm(b: Builder, node: Node) -> str:
    x, normalized, weight, bias, eps = node.args
    if any(b.is_read(value) for value in node.outputs[1:]):
        raise Unsupported("the statistics of native_layer_norm")
    inputs = [b.name(x), _or_constant(b, weight, normalized, 1.0, node.outputs[0].dtype)]
    if bias is not None:
        inputs.append(b.name(bias))
    return b.op("LayerNormalization", *inputs, axis=-len(normalized), epsilon=float(eps))


@TABLE.add("native_group_norm")
def _group_norm(b: Builder, node: Node) -> str:
    x, weight, bias, batch, channels, _, groups, eps = node.args
    shape, dtype = b.shape(x), node.outputs[0].dtype
    result = b.reshape(b.name(x), (batch, groups, -1))
    scale, shift = _or_constant(b, None, groups, 1.0, dtype), _or_constant(b, None, groups, 0.0, dtype)
    result = b.reshape(b.op("InstanceNormalization", result, scale, shift, epsilon=float(eps)), shape)
    for kind, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            result = b.op(kind, result, _channel_parameter(b, parameter, channels, len(shape)))
    return result


def _channel_parameter(b: Builder, ref: Ref, channels: int, rank: int) -> str:
    """A parameter per channel, shaped to broadcast over (N, C, ...)."""
    shape = (channels, *(1 for _ in range(rank - 2)))
    constant = b.constant(ref)
    return b.reshape(b.name(ref), shape) if constant is None else b.tensor(constant.reshape(shape))


@TABLE.add("_softmax", "_safe_softmax", "softmax.int", "_log_softmax")
def _softmax(b: Builder, node: Node) -> str:
    dtype = node.outputs[0].dtype
    axis = argument(node, 1, "dim") % max(1, len(node.outputs[0].shape))
    kind = "LogSoftmax" if node.op == "_log_softmax" else "Softmax"
    return b.op(kind, operand(b, node.args[0], dtype), axis=axis)


# -- resizing


@TABLE.add("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(b: Builder, node: Node) -> str:
    scales = [argument(node, 2 + i, "scales") for i in range(_pool_rank(node))]
    return _resize(b, node, scales, mode="nearest", nearest_mode="floor", how="asymmetric")


@TABLE.add("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")
def _linear_resize(b: Builder, node: Node) -> str:
    scales = [argument(node, 3 + i, "scales") for i in range(_pool_rank(node))]
    how = "align_corners" if node.args[2] else "half_pixel"
    cubic = node.op == "upsample_bicubic2d"
    coefficient = -0.75 if cubic else None
    return _resize(b, node, scales, mode="cubic" if cubic else "linear", how=how, cubic_coeff_a=coefficient)


def _resize(
    b: Builder, node: Node, scales: Sequence[float | None], *, mode: str, how: str,
    nearest_mode: str | None = None, cubic_coeff_a: float | None = None,
) -> str:  # fmt: skip
    out = node.outputs[0].shape
    x = b.name(node.args[0])
    factors = [1.0, 1.0, *(float(scale) for scale in scales if scale is not None)]
    known = len(factors) == len(out)
    target = ["", b.tensor(torch.tensor(factors))] if known else ["", "", b.ints(out)]
    return b.op(
        "Resize", x, *target, mode=mode, coordinate_transformation_mode=how,
        nearest_mode=nearest_mode, cubic_coeff_a=cubic_coeff_a,
    )  # fmt: skip
