"""Every operator family of the ONNX emitter against torch, run by onnxruntime."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hwnas.profiler.lowering import LoweringError, lower, randomise_batch_norms
from hwnas.tests.profiler.operator_cases import ACTIVATIONS, FUNCTIONS, IMAGE, LAYERS, TOKENS, Function
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn


def check(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> None:
    """Lowers by the emitter alone; `lower` itself compares with torch and raises where they differ."""
    module = module if isinstance(module, nn.Module) else Function(module)
    randomise_batch_norms(module)
    assert lower(module, inputs, route="emitter").route == "emitter"


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    module, inputs = LAYERS[name]
    check(module, *inputs)


@pytest.mark.parametrize("module", ACTIVATIONS, ids=lambda module: str(module).replace(" ", ""))
def test_activations(module: nn.Module) -> None:
    check(module, IMAGE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    check(FUNCTIONS[name], IMAGE)


@pytest.mark.parametrize("name", ["scalars", "comparisons", "maxima", "cat", "split", "slices", "shapes"])
def test_functions_in_float64(name: str) -> None:
    check(FUNCTIONS[name], IMAGE.double())


def test_integers() -> None:
    check(lambda t: (t + 1, t * 2 - t, t > 3, t.float() / 2, t / 2, t.clamp(1, 4), t == t.flip(1), -t), TOKENS)
    check(lambda t, x: x[:, t[0]] * (t != 0).float().sum(), TOKENS, torch.randn(2, 11))


# -- geometry

KERNELS, SMALL = st.integers(1, 4), st.integers(1, 3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=KERNELS, stride=SMALL, padding=st.integers(0, 2), dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]), bias=st.booleans(), norm=st.booleans(), transposed=st.booleans(),
    size=st.integers(7, 11),
)  # fmt: skip
def test_convolution_geometry(
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    bias: bool,
    norm: bool,
    transposed: bool,
    size: int,
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    assume(not transposed or padding <= dilation * (kernel - 1))
    layer = kind(4, 8, kernel, stride, padding, groups=groups, bias=bias, dilation=dilation)
    check(nn.Sequential(layer, nn.BatchNorm2d(8)) if norm else layer, torch.randn(2, 4, size, size + 1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kernel=st.integers(1, 5), stride=st.integers(1, 4), padding=st.integers(0, 2), ceil=st.booleans(),
    include_pad=st.booleans(), maximum=st.booleans(), dilation=st.integers(1, 2), size=st.integers(9, 13),
)  # fmt: skip
def test_pooling_geometry(
    kernel: int, stride: int, padding: int, ceil: bool, include_pad: bool, maximum: bool, dilation: int, size: int
) -> None:
    assume(padding <= kernel // 2)
    pool: nn.Module
    if maximum:
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=include_pad)
    check(pool, torch.randn(1, 2, size, size + 1))


# -- what is refused

REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "cumsum": lambda x: x.cumsum(1),
    "grid_sampler_2d": lambda x: F.grid_sample(x, torch.zeros(2, 4, 4, 2), align_corners=False),
    "indices of max_pool2d": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "index.Tensor": lambda x: x[[0, 1], [1, 0]],
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (4, 7)),
    "order 3": lambda x: x.norm(3, 1),
}


@pytest.mark.parametrize("operator", REFUSED)
def test_what_the_emitter_lacks_is_named(operator: str) -> None:
    with pytest.raises(LoweringError, match=operator):
        lower(Function(REFUSED[operator]), [IMAGE], route="emitter")
