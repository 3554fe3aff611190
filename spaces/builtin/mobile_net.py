"""The supernet of a `MobileConfig`. Imports torch: load this module only inside a supernet's factory."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..choices import LayerChoice
from .blocks import Classifier, ConvBlock, MBConv
from .mobile_config import SKIP, MobileConfig


class MobileSupernet(nn.Module):
    """Stem, first block, stages of choices, head, classifier: (N, channels, H, W) -> (N, classes).

    Cell j of stage i is the choice `stages.i.j`.
    """

    def __init__(self, config: MobileConfig) -> None:
        super().__init__()
        self.stem = ConvBlock(config.channels, config.stem, 3, config.stem_stride, role="first_conv")
        width = config.stem
        self.first: nn.Module | None = None
        if config.first is not None:
            self.first = MBConv(width, config.first, kernel=3, expand=1)
            width = config.first
        self.stages = nn.ModuleList()
        for out, cells, stride in zip(config.widths, config.cells, config.strides, strict=True):
            stage = nn.ModuleList([_cell(config, width, out, stride)])
            stage.extend(_cell(config, out, out, 1) for _ in range(cells - 1))
            self.stages.append(stage)
            width = out
        self.head = ConvBlock(width, config.head, 1, role="feature_mix")
        self.classifier = Classifier(config.head, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        x = self.stem(x)
        if self.first is not None:
            x = self.first(x)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for cell in stage:
                x = cell(x)
        x = F.adaptive_avg_pool2d(self.head(x), 1)
        return self.classifier(x.flatten(1))


def _cell(config: MobileConfig, in_channels: int, out_channels: int, stride: int) -> LayerChoice:
    candidates: dict[str, nn.Module] = {
        f"k{kernel}e{expand}": MBConv(in_channels, out_channels, kernel, expand, stride)
        for kernel in config.kernels
        for expand in config.expansions
    }
    if stride == 1 and in_channels == out_channels:
        candidates[SKIP] = nn.Identity()
    return LayerChoice(candidates)
