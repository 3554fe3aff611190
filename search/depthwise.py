"""Depthwise convolutions whose weight gradient is quick on a CPU.

oneDNN, which torch trains with there, has fast kernels for all that a depthwise convolution needs but the weight
gradient of kernels above 3x3 or of images of few pixels: that takes 10 to 100 times as long as the rest of the layer.
The same sums, for image n, channel c and place (i, j) of the kernel,

    dL/dw[c, i, j] = sum over n, y, x of x[n, c, s y + i - p, s x + j - p] * dL/dy[n, c, y, x],

are a depthwise convolution of x by dL/dy (with dilation s) whose channels are all (n, c), and that is 2 to 10 times
quicker, if done for a few images at a time, which fit into a cache. For few pixels one sum for each (i, j) is quicker
still.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TINY = 4
"""Pixels of an output that is summed place by place."""
SMALL = 64 * 64
"""Pixels of an input, at most, whose gradient is quicker as a convolution."""
AT_ONCE = 2**18
"""Values of the input, of as many images as go into one such convolution."""


def with_quick_depthwise(module: nn.Module) -> nn.Module:
    """Give every depthwise Conv2d inside the quick gradient, in place; all else about them stays as it is.

    It is used where it is quicker: on the CPU, in float32, in channels_last, for small images.
    """
    for child in module.modules():
        if type(child) is nn.Conv2d and _suits(child):
            child.__class__ = QuickDepthwise
    return module


class QuickDepthwise(nn.Conv2d):
    """A depthwise Conv2d with equal strides and paddings."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding = self.stride[0], int(self.padding[0])
        if not (torch.is_grad_enabled() and weight.requires_grad and _quicker(input, weight, stride, padding)):
            return super()._conv_forward(input, weight, bias)
        y: Tensor = _Depthwise.apply(input, weight, stride, padding)
        return y


def _suits(conv: nn.Conv2d) -> bool:
    one_each = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.bias is None
    square = len({*conv.kernel_size}) == len({*conv.stride}) == 1 and conv.padding_mode == "zeros"
    plain = not isinstance(conv.padding, str) and len({*conv.padding}) == 1 and {*conv.dilation} == {1}
    return one_each and square and plain


def _quicker(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or x.dim() != 4:
        return False
    k, (height, width) = weight.shape[2], x.shape[2:]
    outputs = ((height + 2 * padding - k) // stride + 1) * ((width + 2 * padding - k) // stride + 1)
    layout = x.is_contiguous(memory_format=torch.channels_last)
    return layout and (outputs <= TINY or (k > 3 and height * width <= SMALL))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        s, p = ctx.stride, ctx.padding
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.aten.convolution_backward(
                dy, x, weight, None, [s, s], [p, p], [1, 1], False, [0, 0], len(weight), [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            summed = _place_by_place if dy.shape[2] * dy.shape[3] <= TINY else _as_convolution
            dw = summed(x, dy, weight.shape[2], s, p).to(memory_format=torch.channels_last)
        return dx, dw, None, None


def _as_convolution(x: Tensor, dy: Tensor, k: int, stride: int, padding: int) -> Tensor:
    images = max(1, AT_ONCE // x[:1].numel())
    found = x.new_zeros(k, k, x.shape[1])
    for some, theirs in zip(x.split(images), dy.split(images), strict=True):
        n, c = some.shape[:2]
        image = some.permute(2, 3, 0, 1).reshape(1, *some.shape[2:], n * c).permute(0, 3, 1, 2)
        kernel = theirs.permute(2, 3, 0, 1).reshape(1, *theirs.shape[2:], n * c).permute(3, 0, 1, 2)
        each = F.conv2d(image, kernel, None, 1, padding, stride, n * c)[0, :, :k, :k]
        found += each.permute(1, 2, 0).reshape(k, k, n, c).sum(2)
    return found.permute(2, 0, 1)[:, None]


def _place_by_place(x: Tensor, dy: Tensor, k: int, stride: int, padding: int) -> Tensor:
    x, dy = x.permute(0, 2, 3, 1), dy.permute(0, 2, 3, 1)
    found = x.new_zeros(k, k, x.shape[3])
    for i in range(k):
        rows, their_rows = _meeting(x.shape[1], dy.shape[1], i - padding, stride)
        for j in range(k):
            columns, their_columns = _meeting(x.shape[2], dy.shape[2], j - padding, stride)
            if rows and columns:
                met = x[:, rows[0] : rows[-1] + 1 : stride, columns[0] : columns[-1] + 1 : stride]
                other = dy[:, their_rows[0] : their_rows[-1] + 1, their_columns[0] : their_columns[-1] + 1]
                found[i, j] = (met * other).sum((0, 1, 2))
    return found.permute(2, 0, 1)[:, None]


def _meeting(size: int, others: int, offset: int, stride: int) -> tuple[range, range]:
    """Which pixels of x meet which of dy in one dimension where the kernel is shifted by the offset."""
    first = max(0, -(offset // stride))
    last = min(others - 1, (size - 1 - offset) // stride)
    return range(first * stride + offset, last * stride + offset + 1, stride), range(first, last + 1)
