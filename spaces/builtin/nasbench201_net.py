"""The supernet of `nasbench201`. Imports torch: load this module only inside a supernet's factory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..choices import LayerChoice
from .blocks import Classifier
from .nasbench201 import EDGES

_WIDTHS = (16, 32, 64)
_CELLS = 5


class Zero(nn.Module):
    """The operator `none`: zeros in the shape of the input."""

    workload_label = "none"

    def forward(self, x: Tensor) -> Tensor:
        """Zeros like `x`."""
        return torch.zeros_like(x)


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution, batch norm: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        # Not in place: other edges of the cell read the same tensor.
        self.add_module("act", nn.ReLU(inplace=False))
        self.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out_channels))
        self.workload_label = f"nor_conv_{kernel}x{kernel}"


class AvgPool3x3(nn.AvgPool2d):
    """The operator `avg_pool_3x3`: shape-preserving, the padding not counted."""

    workload_label = "avg_pool_3x3"

    def __init__(self) -> None:
        super().__init__(3, stride=1, padding=1, count_include_pad=False)


class Cell(nn.Module):
    """Four nodes; each sums its edges from all earlier ones: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({edge: LayerChoice(_operators(width), label=edge) for edge in EDGES})

    def forward(self, x: Tensor) -> Tensor:
        """Output of node 3 for the cell's input `x`."""
        nodes = [x]
        for target in (1, 2, 3):
            total = self.edges[f"0-{target}"](x)
            for source in range(1, target):
                total = total + self.edges[f"{source}-{target}"](nodes[source])
            nodes.append(total)
        return nodes[-1]


class Reduction(nn.Module):
    """Residual block of stride 2: (N, in, H, W) -> (N, out, H / 2, W / 2), H and W even."""

    workload_label = "reduction"

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(in_channels, out_channels, 3, stride=2)
        self.conv_b = ReLUConvBN(out_channels, out_channels, 3)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, stride=2), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch of feature maps; shapes as given above."""
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class NasBench201Supernet(nn.Module):
    """Stem, 5 cells, reduction, 5 cells, reduction, 5 cells, classifier: (N, channels, H, W) -> (N, classes)."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, _WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(_WIDTHS[0]))
        self.cells = nn.ModuleList()
        width = _WIDTHS[0]
        for out in _WIDTHS:
            if out != width:
                self.cells.append(Reduction(width, out))
            self.cells.extend(Cell(out) for _ in range(_CELLS))
            width = out
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.classifier = Classifier(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        x = F.adaptive_avg_pool2d(self.last(x), 1)
        return self.classifier(x.flatten(1))


def _operators(width: int) -> dict[str, nn.Module]:
    """In the order of `nasbench201.OPERATORS`."""
    return {
        "none": Zero(),
        "skip_connect": nn.Identity(),
        "nor_conv_1x1": ReLUConvBN(width, width, 1),
        "nor_conv_3x3": ReLUConvBN(width, width, 3),
        "avg_pool_3x3": AvgPool3x3(),
    }
