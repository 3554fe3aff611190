"""Convolutions in TFLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....spaces.tracer import Node
from ..operators import Unsupported, pair
from .builder import Builder, Laid, Table
from .layout import NHWC
from .model import Tensor
from .windows import PADDING, Window, pad, padded, windows

TABLE = Table()


@TABLE.add("convolution")
def _convolution(b: Builder, node: Node) -> Laid:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    weights, shift = b.constant(weight), b.constant(bias)
    if weights is None or (bias is not None and shift is None):
        raise Unsupported("a convolution whose weights are computed")
    n = weights.ndim - 2
    image = b.image(x, n)
    if n == 1:
        weights = weights[:, :, None]
    steps, pads, gaps = (_two(value, n, other) for value, other in ((stride, 1), (padding, 0), (dilation, 1)))
    shift = np.zeros(node.outputs[0].shape[-n - 1], np.float32) if shift is None else shift
    out = (image.shape[0], len(shift), *_two(node.outputs[0].shape[-n:], n, 1))
    if transposed:
        result = _transposed(b, image, weights, shift, out, steps, pads, gaps, groups)
    else:
        over = windows(image, out[2:], weights.shape[2:], steps, pads, gaps)
        result = _swept(b, image, weights, shift, over, groups)
    return b.view(Laid(result, out, NHWC), node.outputs[0].shape)


def _two(value: int | Sequence[int], n: int, other: int) -> list[int]:
    """For height and width; a signal's length is the width of an image of height 1."""
    return pair(value, n) if n == 2 else [other, *pair(value, n)]


def _swept(
    b: Builder, image: Tensor, weights: np.ndarray, bias: np.ndarray, over: Sequence[Window], groups: int
) -> Tensor:
    channels, out = image.shape[3], len(bias)
    image, padding = padded(b, image, over)
    shape = (image.shape[0], over[0].out, over[1].out, out)
    options: dict[str, Any] = {
        "padding": padding, "strideH": over[0].stride, "strideW": over[1].stride, "dilationHFactor": over[0].dilation,
        "dilationWFactor": over[1].dilation,
    }  # fmt: skip
    if groups == channels and groups > 1:
        filters = weights.transpose(1, 2, 3, 0)
        inputs = [image, b.array(filters), b.array(bias)]
        return b.op("DEPTHWISE_CONV_2D", inputs, shape, depthMultiplier=out // channels, **options)
    return b.op("CONV_2D", [image, b.array(weights.transpose(0, 2, 3, 1)), b.array(bias)], shape, **options)


# -- transposed


def _transposed(
    b: Builder, image: Tensor, weights: np.ndarray, bias: np.ndarray, out: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """TFLite has neither groups nor dilation here: one becomes several operators, the other zeros in the weights."""
    weights = _dilated(weights, dilation)
    fields = zip(out[2:], weights.shape[2:], stride, padding, image.shape[1:3], strict=True)
    sweeps = [Window(size, kernel, step, ends, 1, n) for size, kernel, step, ends, n in fields]
    is_same = all(sweep.is_same for sweep in sweeps)  # swept forwards, from the result back to the image
    size = tuple(out[2:]) if is_same else tuple((sweep.out - 1) * sweep.stride + sweep.kernel for sweep in sweeps)
    parts = [image]
    if groups > 1:
        shapes = [(*image.shape[:3], image.shape[3] // groups)] * groups
        parts = list(b.multi("SPLIT", [b.scalar(3, "int32"), image], shapes, image.dtype, numSplits=groups))
    options = {"strideH": stride[0], "strideW": stride[1], "padding": PADDING["SAME" if is_same else "VALID"]}
    results = []
    for part, kernel, shift in zip(parts, np.split(weights, groups), np.split(bias, groups), strict=True):
        shape = (image.shape[0], *size, len(shift))
        inputs = [b.ints(shape), b.array(kernel.transpose(1, 2, 3, 0)), part, b.array(shift)]
        results.append(b.op("TRANSPOSE_CONV", inputs, shape, image.dtype, **options))
    whole = results[0]
    if groups > 1:
        whole = b.op("CONCATENATION", results, (image.shape[0], *size, len(bias)), axis=3)
    return whole if is_same else _cropped(b, whole, bias, out[2:], padding)


def _dilated(weights: np.ndarray, dilation: Sequence[int]) -> np.ndarray:
    spatial = [(k - 1) * d + 1 for k, d in zip(weights.shape[2:], dilation, strict=True)]
    wide = np.zeros((*weights.shape[:2], *spatial), weights.dtype)
    wide[:, :, :: dilation[0], :: dilation[1]] = weights
    return wide


def _cropped(b: Builder, whole: Tensor, bias: np.ndarray, out: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Without torch's padding, which here takes away, and with its output padding, where the bias is all there is."""
    extra = [max(0, n + p - size) for n, p, size in zip(out, padding, whole.shape[1:3], strict=True)]
    if any(extra):
        if bias.any():
            raise Unsupported("a transposed convolution with an output padding beyond its padding")
        whole = pad(b, whole, [(0, 0), (0, extra[0]), (0, extra[1]), (0, 0)])
    shape = (whole.shape[0], *out, whole.shape[3])
    if whole.shape == shape:
        return whole
    return b.op("SLICE", [whole, b.ints([0, *padding, 0]), b.ints(shape)], shape)
