"""The search space `proxyless`: that of ProxylessNAS (Cai, Zhu, Han, ICLR 2019, arXiv:1812.00332)."""

from __future__ import annotations

from collections.abc import Sequence

from ..space import SearchSpace
from .identity import cache_id, changed_arguments
from .mobile_config import MobileConfig, check_range, check_width, scaled, whole_numbers


def proxyless(
    classes: int = 1000,
    resolution: int = 224,
    width: float = 1.0,
    widths: Sequence[int] = (24, 40, 80, 96, 192, 320),
    stem: int = 32,
    first: int = 16,
    head: int = 1280,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[int] = (3, 6),
    cells: Sequence[int] = (4, 4, 4, 4, 4, 1),
    strides: Sequence[int] = (2, 2, 2, 1, 2, 1),
    channels: int = 3,
) -> SearchSpace:
    """21 choices among MBConv blocks k3e3, k3e6, k5e3, k5e6, k7e3, k7e6 and, where the shape allows it, skip.

    Args:
        classes: outputs of the classifier.
        resolution: side of the square input image in pixels, 8 to 1024.
        width: multiplier of all widths, each rounded to a multiple of 8; the head is multiplied only above 1.
        widths: output width of each stage.
        stem: width of the 3x3 stride-2 convolution.
        first: width of the fixed MBConv k3 e1 block after it.
        head: width of the last 1x1 convolution.
        kernels, expansions: the candidates, kernel by kernel.
        cells: number of choices in each stage.
        strides: stride of the first cell of each stage.
        channels: channels of the input image.

    Raises:
        SpaceError: an argument is out of range.
    """
    arguments = changed_arguments(proxyless, dict(locals()))
    check_width(width)
    check_range("resolution", resolution, 8, 1024)
    check_range("first", first, 1, 1 << 16)
    config = MobileConfig(
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem=scaled(stem, width),
        stem_stride=2,
        first=scaled(first, width),
        widths=tuple(scaled(w, width) for w in whole_numbers("widths", widths)),
        cells=whole_numbers("cells", cells),
        strides=whole_numbers("strides", strides),
        kernels=whole_numbers("kernels", kernels),
        expansions=whole_numbers("expansions", expansions),
        head=scaled(head, max(1.0, width)),
    )
    return SearchSpace(
        config.build,
        config.input_shape,
        name="proxyless",
        arguments=arguments,
        cache_id=cache_id("proxyless", arguments),
    )
