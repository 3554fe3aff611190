"""Shape of a mobile (MBConv) supernet in plain data, checked; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..description import SpaceError

if TYPE_CHECKING:
    from torch import nn

SKIP = "skip"


@dataclass(frozen=True)
class MobileConfig:
    """A chain of stem, optional first block, stages of choices, head, global average pool and classifier.

    Attributes:
        channels, resolution: shape of the input image, (channels, resolution, resolution).
        stem, stem_stride: width and stride of the 3x3 stem convolution.
        first: width of the fixed MBConv k3 e1 after the stem; None where there is none.
        widths, cells, strides: for each stage its width, its number of cells, and the stride of its first cell.
        kernels, expansions: the candidates of each choice are their product, kernel by kernel.
        head: width of the 1x1 convolution after the last stage.
    """

    channels: int
    resolution: int
    classes: int
    stem: int
    stem_stride: int
    first: int | None
    widths: tuple[int, ...]
    cells: tuple[int, ...]
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    head: int

    def __post_init__(self) -> None:
        for name in ("channels", "resolution", "classes", "stem", "head"):
            check_range(name, getattr(self, name), 1, 1 << 16)
        if self.first is not None:
            check_range("first", self.first, 1, 1 << 16)
        for name in ("widths", "cells", "strides", "kernels", "expansions"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values:
                raise SpaceError(f"{name} must be one or more whole numbers, such as 3,5,7, not {values!r}")
            for value in values:
                check_range(name, value, 1, 2 if name == "strides" else 1 << 16)
        if not len(self.widths) == len(self.cells) == len(self.strides):
            raise SpaceError(
                f"widths, cells and strides need one entry for each stage; "
                f"they have {len(self.widths)}, {len(self.cells)} and {len(self.strides)}"
            )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise SpaceError(f"kernels must be odd, not {self.kernels}")
        for name in ("kernels", "expansions"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise SpaceError(f"{name} must differ from each other, not {getattr(self, name)}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Without the batch."""
        return self.channels, self.resolution, self.resolution

    def build(self) -> nn.Module:
        """The supernet; imports torch."""
        from .mobile_net import MobileSupernet

        return MobileSupernet(self)


def check_range(name: str, value: object, low: int, high: int) -> None:
    """Raise SpaceError unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SpaceError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def whole_numbers(name: str, values: int | Sequence[int]) -> tuple[int, ...]:
    """`values` as a tuple; a single number counts as one entry."""
    if isinstance(values, int):
        return (values,)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise SpaceError(f"{name} must be whole numbers, such as 24,40,80, not {values!r}")
    return tuple(values)


def scaled(value: int, width: float) -> int:
    """`value` times the width multiplier, to the nearest multiple of 8 that takes away at most a tenth."""
    if not isinstance(value, int) or width == 1:
        return value
    exact = value * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def check_width(width: object) -> None:
    """Raise SpaceError unless `width` is a usable width multiplier."""
    if not isinstance(width, int | float) or isinstance(width, bool) or not 0.05 <= width <= 16:
        raise SpaceError(f"width must be a multiplier from 0.05 to 16, not {width!r}")
