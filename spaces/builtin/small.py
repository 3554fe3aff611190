"""The search space `proxyless-small`: the candidates of `proxyless` for images of 8 to 64 pixels."""

from __future__ import annotations

from ..space import SearchSpace
from .identity import cache_id, changed_arguments
from .mobile_config import MobileConfig, check_range, check_width, scaled

_WIDTHS = (16, 24, 40)


def proxyless_small(resolution: int = 28, channels: int = 1, classes: int = 10, width: float = 1.0) -> SearchSpace:
    """6 choices: three stages of two cells with widths 16, 24, 40, after a stride-1 stem of 16, before a head of 128.

    Args:
        resolution: side of the square input image in pixels, 8 to 64. The stages' strides are 1, 2, 2, from 48 pixels
            up 2, 2, 2.
        channels: channels of the input image.
        classes: outputs of the classifier.
        width: multiplier of all widths, each rounded to a multiple of 8; the head is multiplied only above 1.

    Raises:
        SpaceError: an argument is out of range.
    """
    arguments = changed_arguments(proxyless_small, dict(locals()))
    check_width(width)
    check_range("resolution", resolution, 8, 64)
    config = MobileConfig(
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem=scaled(16, width),
        stem_stride=1,
        first=None,
        widths=tuple(scaled(w, width) for w in _WIDTHS),
        cells=(2, 2, 2),
        strides=(2 if resolution >= 48 else 1, 2, 2),
        kernels=(3, 5, 7),
        expansions=(3, 6),
        head=scaled(128, max(1.0, width)),
    )
    return SearchSpace(
        config.build,
        config.input_shape,
        name="proxyless-small",
        arguments=arguments,
        cache_id=cache_id("proxyless-small", arguments),
    )
