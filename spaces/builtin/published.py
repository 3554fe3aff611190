"""Reads the config files in which ProxylessNAS published its networks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from ..architecture import Architecture
from ..description import SpaceError
from ..space import SearchSpace
from .mobile_config import SKIP
from .proxyless import proxyless

_Width = Annotated[int, Field(ge=1, le=1 << 16)]


class _ConvLayer(BaseModel):
    name: Literal["ConvLayer"]
    in_channels: _Width
    out_channels: _Width
    kernel_size: PositiveInt
    stride: PositiveInt
    dilation: Literal[1] = 1
    groups: Literal[1] = 1
    bias: Literal[False] = False
    use_bn: Literal[True] = True
    act_func: Literal["relu6"] = "relu6"


class _LinearLayer(BaseModel):
    name: Literal["LinearLayer"]
    in_features: _Width
    out_features: _Width
    bias: Literal[True] = True
    use_bn: Literal[False] = False
    act_func: None = None


class _MBInvertedConvLayer(BaseModel):
    name: Literal["MBInvertedConvLayer"]
    in_channels: _Width
    out_channels: _Width
    kernel_size: PositiveInt
    stride: PositiveInt
    expand_ratio: PositiveInt


class _ZeroLayer(BaseModel):
    name: Literal["ZeroLayer"]
    stride: Literal[1] = 1


class _IdentityLayer(BaseModel):
    name: Literal["IdentityLayer"]


class _Block(BaseModel):
    name: Literal["MobileInvertedResidualBlock"]
    mobile_inverted_conv: Annotated[_MBInvertedConvLayer | _ZeroLayer, Field(discriminator="name")]
    shortcut: _IdentityLayer | None


class _BatchNorm(BaseModel):
    momentum: float = Field(default=0.1, ge=0.1, le=0.1)
    eps: float = Field(default=1e-3, ge=1e-3, le=1e-3)


class _Network(BaseModel):
    name: Literal["ProxylessNASNets"]
    bn: _BatchNorm = _BatchNorm()
    first_conv: _ConvLayer
    blocks: list[_Block] = Field(min_length=2, max_length=1000)
    feature_mix_layer: _ConvLayer
    classifier: _LinearLayer


_KERNELS = (3, 5, 7)
_EXPANSIONS = (3, 6)


def from_config(path: str | Path, *, resolution: int = 224) -> tuple[SearchSpace, Architecture]:
    """The space with the widths of a published network, and the network as an architecture of it.

    Args:
        path: a config file of the original project (JSON).
        resolution: side of the input image in pixels; the files do not tell it.

    Raises:
        SpaceError: the file cannot be read, or describes a network that no space of this kind holds.
    """
    network = _read(Path(path))
    try:
        stages = _stages(network)
        _check_ends(network, stages)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from None
    space = proxyless(
        classes=network.classifier.out_features,
        resolution=resolution,
        widths=tuple(stage.width for stage in stages),
        stem=network.first_conv.out_channels,
        first=_first_width(network),
        head=network.feature_mix_layer.out_channels,
        kernels=_KERNELS,
        expansions=_EXPANSIONS,
        cells=tuple(len(stage.chosen) for stage in stages),
        strides=tuple(stage.stride for stage in stages),
        channels=network.first_conv.in_channels,
    )
    choices = {f"stages.{i}.{j}": name for i, stage in enumerate(stages) for j, name in enumerate(stage.chosen)}
    return space, Architecture(space.name, choices)


def _read(path: Path) -> _Network:
    try:
        return _Network.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise SpaceError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:  # a ValueError, so it goes before the next
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SpaceError(f"{path} is not a ProxylessNAS config: {place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise SpaceError(f"{path} is not a ProxylessNAS config: invalid JSON ({error})") from None


@dataclass
class _Stage:
    width: int
    stride: int
    chosen: list[str] = field(default_factory=list)


def _stages(network: _Network) -> list[_Stage]:
    """The blocks after the first, grouped: a block that changes width or size starts a stage."""
    stages: list[_Stage] = []
    width = _first_width(network)
    for number, block in enumerate(network.blocks[1:], start=1):
        conv = block.mobile_inverted_conv
        if isinstance(conv, _ZeroLayer):
            if block.shortcut is None or not stages:
                raise SpaceError(f"blocks.{number}: a zero layer needs a shortcut and a block before it")
            stages[-1].chosen.append(SKIP)
            continue
        _check_block(number, conv, width, block.shortcut is not None)
        if not stages or conv.stride != 1 or conv.out_channels != width:
            stages.append(_Stage(conv.out_channels, conv.stride))
        stages[-1].chosen.append(f"k{conv.kernel_size}e{conv.expand_ratio}")
        width = conv.out_channels
    return stages


def _check_block(number: int, conv: _MBInvertedConvLayer, width: int, shortcut: bool) -> None:
    if conv.in_channels != width:
        raise SpaceError(f"blocks.{number}: takes {conv.in_channels} channels, but gets {width}")
    if conv.kernel_size not in _KERNELS or conv.expand_ratio not in _EXPANSIONS or conv.stride > 2:
        raise SpaceError(
            f"blocks.{number}: kernel {conv.kernel_size}, expansion {conv.expand_ratio}, stride {conv.stride} is no "
            f"candidate; there are kernels {_KERNELS}, expansions {_EXPANSIONS}, strides 1 and 2"
        )
    if shortcut != (conv.stride == 1 and conv.out_channels == width):
        raise SpaceError(f"blocks.{number}: has a shortcut where the shape changes, or lacks one where it does not")


def _first_width(network: _Network) -> int:
    first = network.blocks[0].mobile_inverted_conv
    stem = network.first_conv
    if isinstance(first, _ZeroLayer) or (first.kernel_size, first.expand_ratio, first.stride) != (3, 1, 1):
        raise SpaceError("blocks.0: the first block must have kernel 3, expansion 1 and stride 1")
    if (stem.kernel_size, stem.stride, stem.out_channels) != (3, 2, first.in_channels):
        raise SpaceError("first_conv: must have kernel 3, stride 2 and the width that the first block takes")
    if (network.blocks[0].shortcut is not None) != (first.in_channels == first.out_channels):
        raise SpaceError("blocks.0: has a shortcut where the width changes, or lacks one where it does not")
    return first.out_channels


def _check_ends(network: _Network, stages: list[_Stage]) -> None:
    head = network.feature_mix_layer
    if (head.kernel_size, head.stride, head.in_channels) != (1, 1, stages[-1].width):
        raise SpaceError("feature_mix_layer: must have kernel 1, stride 1 and the width of the last block")
    if network.classifier.in_features != head.out_channels:
        raise SpaceError(f"classifier: takes {network.classifier.in_features} features, but gets {head.out_channels}")
