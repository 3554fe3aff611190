"""The search space `nasbench201` (Dong and Yang, ICLR 2020, arXiv:2001.00326) and the benchmark's strings for it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ..architecture import Architecture
from ..description import SpaceError
from ..space import SearchSpace
from .identity import cache_id, changed_arguments
from .mobile_config import check_range

if TYPE_CHECKING:
    from torch import nn

NAME = "nasbench201"
OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")
"""The decisions: edge `source-target` of the cell, whose node 0 is its input and node 3 its output."""


def nasbench201(classes: int = 10, resolution: int = 32, channels: int = 3) -> SearchSpace:
    """6 choices among 5 operators, each applied in all 15 cells of the benchmark's network.

    Args:
        classes: outputs of the classifier.
        resolution: side of the square input image in pixels, a multiple of 4 up to 512.
        channels: channels of the input image.

    Raises:
        SpaceError: an argument is out of range.
    """
    arguments = changed_arguments(nasbench201, dict(locals()))
    check_range("classes", classes, 1, 1 << 16)
    check_range("resolution", resolution, 4, 512)
    if resolution % 4:
        raise SpaceError(f"resolution must be a multiple of 4 (it is halved twice), not {resolution}")
    check_range("channels", channels, 1, 1 << 16)
    return SearchSpace(
        partial(_supernet, channels, classes),
        (channels, resolution, resolution),
        name=NAME,
        arguments=arguments,
        cache_id=cache_id(NAME, arguments),
    )


def _supernet(channels: int, classes: int) -> nn.Module:
    from .nasbench201_net import NasBench201Supernet

    return NasBench201Supernet(channels, classes)


def to_arch_str(architecture: Architecture) -> str:
    """The benchmark's string, such as `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`.

    Raises:
        SpaceError: it is not an architecture of this space.
    """
    chosen = architecture.choices
    if architecture.space != NAME or set(chosen) != set(EDGES) or not set(chosen.values()) <= set(OPERATORS):
        raise SpaceError(f"{architecture!r} is no {NAME} architecture: that has one of {', '.join(OPERATORS)} per edge")
    nodes = []
    for target in (1, 2, 3):
        nodes.append("|" + "|".join(f"{chosen[f'{source}-{target}']}~{source}" for source in range(target)) + "|")
    return "+".join(nodes)


def from_arch_str(text: str) -> Architecture:
    """The inverse of `to_arch_str`.

    Raises:
        SpaceError: `text` has another form or names an unknown operator.
    """
    pattern = r"\+".join(r"\|" + r"\|".join(rf"(\w+)~{source}" for source in range(n)) + r"\|" for n in (1, 2, 3))
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise SpaceError(f"{text!r} is not of the form |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
    unknown = sorted(set(match.groups()) - set(OPERATORS))
    if unknown:
        raise SpaceError(f"{text!r}: unknown operator {unknown[0]!r}; there are {', '.join(OPERATORS)}")
    return Architecture(NAME, dict(zip(EDGES, match.groups(), strict=True)))
