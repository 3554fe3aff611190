"""Sliding windows: which of torch's paddings TFLite can name, and which must be written out.

TFLite knows VALID (none) and SAME (as much as gives ceil(size / stride) positions, the odd one at the end); torch pads
as much at the beginning as at the end. Where they differ the padding becomes an operator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .builder import Builder
from .model import Tensor

PADDING = {"SAME": 0, "VALID": 1}
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Window:
    """A window over one axis: ``size`` elements, ``pad`` more at each end, ``out`` positions (ceil mode included)."""

    size: int
    kernel: int
    stride: int
    pad: int
    dilation: int
    out: int

    @property
    def reach(self) -> int:
        """Elements from the first to the last one that a position sees."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def end(self) -> int:
        """Elements of padding that are looked at behind the end."""
        return max(0, (self.out - 1) * self.stride + self.reach - self.size - self.pad)

    @property
    def is_same(self) -> bool:
        """Whether TFLite's SAME is this window."""
        out = -(-self.size // self.stride)
        total = max(0, (out - 1) * self.stride + self.reach - self.size)
        return out == self.out and total // 2 == self.pad

    def counts(self, include_pad: bool) -> np.ndarray:
        """(out,) elements that torch divides by at each position; what ceil mode adds at the end is never counted."""
        starts = np.arange(self.out) * self.stride - self.pad
        ends = np.minimum(starts + self.kernel, self.size + self.pad)
        return ends - starts if include_pad else np.minimum(ends, self.size) - np.maximum(starts, 0)


def windows(
    image: Tensor, out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> list[Window]:  # fmt: skip
    """The windows over the height and width of a stored image."""
    fields = zip(image.shape[1:3], kernel, stride, padding, dilation, out, strict=True)
    return [Window(*each) for each in fields]


def padded(b: Builder, image: Tensor, over: Sequence[Window], value: float = 0.0) -> tuple[Tensor, int]:
    """The image to be swept and TFLite's number of the padding to sweep it with: SAME or VALID, the latter after
    writing out what SAME cannot express."""
    if any(window.pad or window.end for window in over) and all(window.is_same for window in over):
        return image, PADDING["SAME"]
    return surrounded(b, image, over, value), PADDING["VALID"]


def surrounded(b: Builder, image: Tensor, over: Sequence[Window], value: float = 0.0) -> Tensor:
    """The image with all the padding that the windows look at."""
    if not any(window.pad or window.end for window in over):
        return image
    return pad(b, image, [(0, 0), *((window.pad, window.end) for window in over), (0, 0)], value)


def pad(b: Builder, tensor: Tensor, pads: Sequence[tuple[int, int]], value: Any = 0) -> Tensor:
    """Elements of ``value`` around a stored tensor: (before, after) for each axis as stored."""
    shape = [before + size + after for size, (before, after) in zip(tensor.shape, pads, strict=True)]
    if value == 0:
        return b.op("PAD", [tensor, b.ints(pads)], shape)
    return b.op("PADV2", [tensor, b.ints(pads), b.scalar(value, tensor.dtype)], shape)
