"""Every operator family of the TFLite emitter against torch, run by LiteRT."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hwnas.profiler.lowering import LoweringError, lower, randomise_batch_norms
from hwnas.tests.profiler.operator_cases import ACTIVATIONS, FUNCTIONS, IMAGE, LAYERS, TOKENS, Function
from hwnas.tests.profiler.tflite_files import kinds, versions
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

LACKING = {
    "conv3d": "convolution over 3", "max pool 3d": "max_pool3d", "avg pool 3d": "avg_pool3d",
    "local response": "avg_pool3d", "trigonometry": "atan, aten.erf", "casts": "float64", "scatter": "scatter.value",
    "one hot": "scatter.src",
}  # fmt: skip


def check(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> bytes:
    """Lowers by the emitter alone; `lower` itself compares with torch and raises where they differ."""
    module = module if isinstance(module, nn.Module) else Function(module)
    randomise_batch_norms(module)
    return lower(module, inputs, format="tflite", route="emitter").data


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in LACKING])
def test_layers(name: str) -> None:
    module, inputs = LAYERS[name]
    check(module, *inputs)


@pytest.mark.parametrize("module", ACTIVATIONS, ids=lambda module: str(module).replace(" ", ""))
def test_activations(module: nn.Module) -> None:
    check(module, IMAGE)
    check(nn.Sequential(nn.Conv2d(8, 8, 1), module), IMAGE)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in LACKING])
def test_functions(name: str) -> None:
    check(FUNCTIONS[name], IMAGE)


@pytest.mark.parametrize("name", LACKING)
def test_what_the_emitter_lacks_is_named(name: str) -> None:
    module, inputs = LAYERS[name] if name in LAYERS else (Function(FUNCTIONS[name]), (IMAGE,))
    assert isinstance(module, nn.Module)
    with pytest.raises(LoweringError, match=rf"TFLite form for.*{LACKING[name]}"):
        lower(module, inputs, format="tflite", route="emitter")


MORE: dict[str, Callable[[Tensor], Any]] = {
    "h-swish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "h-swish of a sum": lambda x: F.hardswish(x + x.mean(1, keepdim=True)),
    "softmax over channels, then over rows": lambda x: x.softmax(1) + x.softmax(2),
    "attention over pixels": lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1) @ x.flatten(2).mT,
    "matrices of several ranks": lambda x: (x.mT @ x, x[:, 0] @ x[:, 1].mT, x[0, 0] @ torch.ones(10, 3)),
    "products of two constants' ranks": lambda x: (x @ torch.ones(10, 3), x.flatten(1) @ torch.ones(480, 2)),
    "flattened and linear": lambda x: F.linear(x[:, :3].flatten(1), torch.arange(720.0).view(4, 180).sin()),
    "unflattened": lambda x: F.conv2d((x.mean((2, 3)) @ torch.ones(8, 48)).view(2, 3, 4, 4), torch.ones(2, 3, 3, 3)),
    "views that do not fit": lambda x: (x.reshape(2, 12, 40), x.reshape(3, 320), x.transpose(1, 3).reshape(5, -1, 3)),
    "five dimensions": lambda x: x.view(2, 2, 4, 6, 10).permute(0, 2, 1, 4, 3).sum(1),
    "six dimensions": lambda x: x.view(2, 2, 2, 2, 6, 10).permute(5, 0, 3, 2, 1, 4).reshape(10, -1),
    "without batch": lambda x: (x[0] + 1, x[0].mean((1, 2)), F.conv2d(x[0], torch.ones(3, 8, 3, 3))),
    "without dimensions": lambda x: (x.mean(), x.sum() * 2, x.mean() + x),
    "mixed ranks": lambda x: (x + x[0], x * x[0, 0], x[:, :, 0] - x[0, 0, 0], torch.ones(8, 1, 1) * x),
    "mixed orders": lambda x: (x.permute(0, 2, 3, 1) + torch.ones(2, 6, 10, 8) + x.mean(1, keepdim=True).mT[..., :1]),
    "cat of mixed orders": lambda x: torch.cat([x, x.flip(2), torch.zeros(2, 1, 6, 10)], 1).transpose(1, 2),
    "dilated pool": lambda x: F.max_pool2d(x, 2, 1, 1, 2, ceil_mode=True),
    "pool without pads": lambda x: (F.avg_pool2d(x, (1, 2)), F.max_pool2d(x, (2, 1), 1)),
    "bilinear odd": lambda x: F.interpolate(x, size=(13, 7), mode="bilinear"),
    "bilinear to one": lambda x: F.interpolate(x, size=(1, 1), mode="bilinear", align_corners=True),
    "statistics": lambda x: F.instance_norm(x) + F.group_norm(x.transpose(2, 3), 2).mT,
    "layer norm over three": lambda x: F.layer_norm(x, (8, 6, 10), torch.ones(8, 6, 10) * 2),
    "gates": lambda x: x * torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), torch.ones(8, 8, 1, 1))),
    "cumulated": lambda x: x.cumsum(1) + x.cumsum(-1),
    "picked by several": lambda x: x[:, torch.tensor([[0, 1], [7, -1]])],
    "bias and activation": lambda x: F.relu6(x @ torch.ones(10, 4) + torch.arange(4.0)),
    "sums of one": lambda x: (x + x, F.relu(x + x) * x),
    "the same twice": lambda x: (x + 1, x + 1, F.relu(x), F.relu(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_more_functions(name: str) -> None:
    check(MORE[name], IMAGE)
    check(MORE[name], torch.randn(2, 8, 6, 10).to(memory_format=torch.channels_last))


def test_integers() -> None:
    check(lambda t: (t + 1, t * 2 - t, t > 3, t.float() / 2, t / 2, t.clamp(1, 4), t == t.flip(1), -t), TOKENS)
    check(lambda t, x: x[:, t[0]] * (t != 0).float().sum(), TOKENS, torch.randn(2, 11))
    check(nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 3)), TOKENS)


def test_versions_are_no_higher_than_needed() -> None:
    """Runtimes refuse versions that they do not know."""
    block = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.AvgPool2d(2))
    assert set(versions(check(block, torch.randn(1, 8, 12, 12))).values()) == {1}
    assert versions(check(nn.Conv2d(8, 8, 2, groups=2), IMAGE)) == {"CONV_2D": 6}
    assert versions(check(nn.Conv2d(8, 8, 2, groups=8, dilation=2), IMAGE)) == {"DEPTHWISE_CONV_2D": 2}
    assert versions(check(nn.Linear(10, 3), IMAGE))["FULLY_CONNECTED"] == 5
    assert versions(check(nn.Linear(10, 3), IMAGE[0, 0])) == {"FULLY_CONNECTED": 1}


# -- geometry

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))
STEPS = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADS = st.tuples(st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kernel=PAIRS, stride=STEPS, padding=PADS, dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    channels=st.sampled_from([(6, 6, 1), (6, 4, 1), (6, 6, 6), (6, 12, 6), (6, 4, 2), (4, 6, 2), (1, 5, 1), (3, 3, 3)]),
    bias=st.booleans(), activation=st.sampled_from([nn.Identity(), nn.ReLU6(), nn.SiLU()]), batch=st.integers(1, 3),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
)  # fmt: skip
def test_convolution_geometry(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
    channels: tuple[int, int, int], bias: bool, activation: nn.Module, batch: int, size: tuple[int, int],
) -> None:  # fmt: skip
    width, out, groups = channels
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(all(n + 2 * p >= r for n, p, r in zip(size, padding, reach, strict=True)))
    layer = nn.Conv2d(width, out, kernel, stride, padding, dilation, groups, bias)
    check(nn.Sequential(layer, activation), torch.randn(batch, width, *size))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=PAIRS, stride=STEPS, padding=PADS, extra=st.booleans(), dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]), batch=st.integers(1, 2), bias=st.booleans(),
)  # fmt: skip
def test_transposed_convolution_geometry(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], extra: bool, dilation: int,
    groups: int, batch: int, bias: bool,
) -> None:  # fmt: skip
    more = (int(extra and padding[0] > 0 and stride[0] > 1), int(extra and padding[1] > 0 and stride[1] > 1))
    assume(all(dilation * (k - 1) >= p for k, p in zip(kernel, padding, strict=True)))
    layer = nn.ConvTranspose2d(4, 6, kernel, stride, padding, more, groups, bias, dilation)
    check(nn.Sequential(layer, nn.ReLU()), torch.randn(batch, 4, 5, 6))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kernel=PAIRS, stride=PAIRS, padding=PADS, ceil=st.booleans(), include_pad=st.booleans(), maximum=st.booleans(),
    divisor=st.sampled_from([None, None, 3]), dilation=st.sampled_from([1, 1, 2]), positive=st.booleans(),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
)  # fmt: skip
def test_pooling_geometry(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], ceil: bool, include_pad: bool,
    maximum: bool, divisor: int | None, dilation: int, positive: bool, size: tuple[int, int],
) -> None:  # fmt: skip
    assume(all(p <= k // 2 for p, k in zip(padding, kernel, strict=True)))
    pool: nn.Module
    if maximum:
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        pool = nn.AvgPool2d(kernel, stride, padding, ceil, include_pad, divisor)
    check(nn.Sequential(nn.Sigmoid(), pool) if positive else pool, torch.randn(2, 3, *size))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data(), channels=st.sampled_from([1, 4, 6]), batch=st.integers(1, 2))
def test_chains_of_views_and_permutations(data: st.DataObject, channels: int, batch: int) -> None:
    """Whatever a module does to the order of its axes, the elements end up where torch has them."""
    steps = data.draw(st.lists(st.sampled_from(["permute", "view", "conv", "add", "softmax", "mean"]), max_size=6))
    seeds = [data.draw(st.integers(0, 1000)) for _ in steps]

    def function(x: Tensor) -> Tensor:
        for step, seed in zip(steps, seeds, strict=True):
            x = _step(x, step, seed)
        return x

    check(function, torch.randn(batch, channels, 4, 6))


def _divisor(number: int, seed: int) -> int:
    return random.Random(seed).choice([n for n in range(1, number + 1) if number % n == 0])


def _step(x: Tensor, step: str, seed: int) -> Tensor:
    if step == "permute":
        return x.permute(*random.Random(seed).sample(range(x.dim()), x.dim()))
    if step == "view":
        first = _divisor(x.numel(), seed)
        second = _divisor(x.numel() // first, seed + 1)
        return x.reshape(first, second, -1) if seed % 2 else x.reshape(second, first, 1, -1)
    if step == "conv":
        return F.conv2d(x, torch.ones(3, x.shape[1], 1, 1) / x.shape[1]) if x.dim() == 4 else x
    if step == "add":
        return x + torch.arange(float(x.shape[-1])) if seed % 2 else x * x[:1]
    if step == "softmax":
        return x.softmax(seed % x.dim()) if x.dim() else x
    return x.mean(seed % x.dim(), keepdim=bool(seed % 2)) if x.dim() > 2 else x


def test_groups_are_one_operator() -> None:
    assert kinds(check(nn.Conv2d(8, 4, 3, groups=2), IMAGE)) == ["CONV_2D"]
    assert kinds(check(nn.Conv2d(8, 16, 3, groups=8), IMAGE)) == ["DEPTHWISE_CONV_2D"]
