"""Building blocks of the mobile search spaces. Imports torch: load this module only inside a supernet's factory.

A block describes itself in plain data: `workload_label`, the readable part of a workload's key, and
`workload_info()`, the settings that lookup-table text keys are made of.
"""

from torch import Tensor, nn

BN_MOMENTUM = 0.1
BN_EPS = 1e-3


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)]


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, ReLU6: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    Args:
        role: what the block is to the network (`"first_conv"`, `"feature_mix"`), or None.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, *, role: str | None = None
    ) -> None:
        conv, bn = _conv_bn(in_channels, out_channels, kernel, stride)
        super().__init__()
        self.add_module("conv", conv)
        self.add_module("bn", bn)
        self.add_module("act", nn.ReLU6(inplace=True))
        self.kernel, self.stride, self.role = kernel, stride, role

    @property
    def workload_label(self) -> str:
        """Such as `conv3x3`."""
        return f"conv{self.kernel}x{self.kernel}"

    def workload_info(self) -> dict[str, object]:
        """The block's settings as plain data."""
        return _info("conv", self.kernel, None, self.stride, skip=False, role=self.role)


class MBConv(nn.Module):
    """Mobile inverted bottleneck: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    1x1 convolution to `in * expand` channels (none for expand 1), depthwise convolution, linear 1x1 projection; added
    to its input where stride is 1 and the widths agree (Sandler et al., MobileNetV2, arXiv:1801.04381).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, expand: int, stride: int = 1) -> None:
        super().__init__()
        middle = in_channels * expand
        self.expand: nn.Module | None = None
        if expand != 1:
            self.expand = nn.Sequential(*_conv_bn(in_channels, middle, 1), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(*_conv_bn(middle, middle, kernel, stride, groups=middle), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(*_conv_bn(middle, out_channels, 1))
        self.kernel, self.expansion, self.stride = kernel, expand, stride
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch of images; shapes as given above."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.shortcut else y

    @property
    def workload_label(self) -> str:
        """Such as `mbconv3x3_e6`."""
        return f"mbconv{self.kernel}x{self.kernel}_e{self.expansion}"

    def workload_info(self) -> dict[str, object]:
        """The block's settings as plain data; `skip` tells whether the input is added."""
        return _info("mbconv", self.kernel, self.expansion, self.stride, skip=self.shortcut, role=None)


class Classifier(nn.Linear):
    """The last linear layer: (N, features) -> (N, classes)."""

    workload_label = "linear"

    def workload_info(self) -> dict[str, object]:
        """The layer's settings as plain data."""
        return _info("linear", None, None, None, skip=False, role="classifier")


def _info(
    op: str, kernel: int | None, expand: int | None, stride: int | None, *, skip: bool, role: str | None
) -> dict[str, object]:
    settings = {"op": op, "kernel": kernel, "expand": expand, "stride": stride}
    return {name: value for name, value in settings.items() if value is not None} | {"skip": skip, "role": role}
