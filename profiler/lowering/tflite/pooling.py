"""Pooling in TFLite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....spaces.tracer import Node, Ref
from ..operators import Unsupported, argument, pair
from .builder import Builder, Laid, Table
from .layout import NHWC
from .model import Tensor
from .operands import combined
from .resizing import resampled
from .shapes import cut
from .windows import LOWEST, PADDING, Window, padded, surrounded, windows

TABLE = Table()
_NOT_NEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid", "_softmax", "abs", "square", "exp"})
_KEEPING_SIGNS = frozenset(
    {"view", "permute", "transpose.int", "slice.Tensor", "max_pool2d_with_indices", "avg_pool2d"}
)


def _spatial(node: Node) -> int:
    return int(next(char for char in node.op if char.isdigit()))


def _two(values: int | Sequence[int], n: int, other: int) -> list[int]:
    """For height and width; a signal's length is the width of an image of height 1."""
    return [other] * (2 - n) + pair(values, n)


def _over(
    b: Builder, node: Node, image: Tensor, padding: int | Sequence[int], dilation: int | Sequence[int] = 1
) -> list[Window]:
    n = _spatial(node)
    kernel = pair(node.args[1], n)
    stride = pair(argument(node, 2, "stride") or kernel, n)
    sides = [_two(each, n, other) for each, other in ((kernel, 1), (stride, 1), (padding, 0), (dilation, 1))]
    return windows(image, _two(node.outputs[0].shape[-n:], n, 1), *sides)


def _pooled(b: Builder, kind: str, image: Tensor, over: Sequence[Window], padding: int) -> Tensor:
    shape = (image.shape[0], *(window.out for window in over), image.shape[3])
    options: dict[str, Any] = {"strideH": over[0].stride, "strideW": over[1].stride, "padding": padding}
    return b.op(kind, [image], shape, filterHeight=over[0].kernel, filterWidth=over[1].kernel, **options)


def _result(b: Builder, node: Node, image: Tensor) -> Laid:
    """A stored image as torch sees it: without the axes that were added for it."""
    n, height, width, channels = image.shape
    return b.view(Laid(image, (n, channels, height, width), NHWC), node.outputs[0].shape)


@TABLE.add("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices", "max_pool2d", "max_pool1d")
def _max_pool(b: Builder, node: Node) -> Laid:
    if len(node.outputs) > 1 and b.is_read(node.outputs[1]):
        raise Unsupported(f"the indices of {node.op}")
    x = node.args[0]
    image = b.image(x, _spatial(node))
    over = _over(b, node, image, argument(node, 3, "padding", 0), argument(node, 4, "dilation", 1))
    lowest = 0.0 if _never_negative(b, x) else LOWEST
    if any(window.dilation > 1 for window in over):
        return _result(b, node, _dilated(b, image, over, lowest))
    image, padding = padded(b, image, over, lowest)
    return _result(b, node, _pooled(b, "MAX_POOL_2D", image, over, padding))


def _dilated(b: Builder, image: Tensor, over: Sequence[Window], lowest: float) -> Tensor:
    """Maxima of shifted images, for TFLite's pooling knows no dilation."""
    image = surrounded(b, image, over, lowest)
    laid = Laid(image, image.shape, (0, 1, 2, 3))
    for axis, window in enumerate(over, 1):
        starts = range(0, window.kernel * window.dilation, window.dilation)
        first, *others = (
            cut(b, laid, axis, start, start + (window.out - 1) * window.stride + 1, window.stride) for start in starts
        )
        for other in others:
            first = combined(b, "MAXIMUM", first, other)
        laid = first
    return laid.tensor


def _never_negative(b: Builder, ref: Ref) -> bool:
    """Whether zeros around this value change no maximum: runtimes pad with zeros faster than with anything else."""
    node = b.maker(ref)
    while node is not None and node.op in _KEEPING_SIGNS:
        node = b.maker(node.args[0])
    if node is None:
        return False
    return node.op in _NOT_NEGATIVE or (node.op == "hardtanh" and bool(argument(node, 1, "min_val", -1.0) >= 0))


@TABLE.add("avg_pool2d", "avg_pool3d", "avg_pool1d")
def _avg_pool(b: Builder, node: Node) -> Laid:
    image = b.image(node.args[0], _spatial(node))
    over = _over(b, node, image, argument(node, 3, "padding", 0))
    include_pad, divisor = argument(node, 5, "count_include_pad", True), argument(node, 6, "divisor_override")
    counts = np.outer(*(window.counts(include_pad) for window in over))
    if divisor is not None:
        counts = np.full_like(counts, divisor)
    # With SAME the runtime divides by what lies inside of the image, after PAD by the whole window.
    own = np.outer(*(window.counts(False) for window in over))
    if all(window.is_same for window in over) and np.array_equal(own, counts):
        return _result(b, node, _pooled(b, "AVERAGE_POOL_2D", image, over, PADDING["SAME"]))
    image = surrounded(b, image, over)
    pooled = _pooled(b, "AVERAGE_POOL_2D", image, over, PADDING["VALID"])
    factors = (math.prod(window.kernel for window in over) / counts).astype(np.float32)
    if (factors != 1).any():
        factor = (
            b.scalar(float(factors[0, 0]), "float32")
            if (factors == factors[0, 0]).all()
            else b.array(factors[None, :, :, None])
        )
        pooled = b.op("MUL", [pooled, factor], pooled.shape)
    return _result(b, node, pooled)


@TABLE.add("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def _adaptive_avg_pool(b: Builder, node: Node) -> Laid:
    image, out = _adaptive(b, node)
    if out == (1, 1):
        n, _, _, channels = image.shape
        return _result(b, node, b.op("MEAN", [image, b.ints([1, 2])], (n, 1, 1, channels), keepDims=True))
    if not any(size % o for size, o in zip(image.shape[1:3], out, strict=True)):
        return _result(b, node, _pooled(b, "AVERAGE_POOL_2D", image, _even(image, out), PADDING["VALID"]))
    matrices = [_averaging(size, o) for size, o in zip(image.shape[1:3], out, strict=True)]
    return _result(b, node, resampled(b, image, matrices))


@TABLE.add("adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_max_pool1d")
def _adaptive_max_pool(b: Builder, node: Node) -> Laid:
    if b.is_read(node.outputs[1]):
        raise Unsupported(f"the indices of {node.op}")
    image, out = _adaptive(b, node)
    if any(size % o for size, o in zip(image.shape[1:3], out, strict=True)):
        raise Unsupported(f"{node.op} from {image.shape[1:3]} to {out}")
    return _result(b, node, _pooled(b, "MAX_POOL_2D", image, _even(image, out), PADDING["VALID"]))


def _adaptive(b: Builder, node: Node) -> tuple[Tensor, tuple[int, int]]:
    """The image, and height and width of the result."""
    n = _spatial(node)
    height, width = _two(node.outputs[0].shape[-n:], n, 1) if n < 3 else (0, 0)
    return b.image(node.args[0], n), (height, width)


def _even(image: Tensor, out: Sequence[int]) -> list[Window]:
    sides = [size // o for size, o in zip(image.shape[1:3], out, strict=True)]
    return windows(image, out, sides, sides, (0, 0))


def _averaging(size: int, out: int) -> np.ndarray:
    """(out, size): row i averages over [floor(i size / out), ceil((i + 1) size / out))."""
    matrix = np.zeros((out, size), np.float32)
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix
