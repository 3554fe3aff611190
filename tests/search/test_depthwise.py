from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hwnas.search import depthwise
from hwnas.search.depthwise import QuickDepthwise, with_quick_depthwise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn


def layer(c: int = 6, k: int = 5, **given: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    options: dict[str, Any] = {"bias": False, "groups": c, "padding": k // 2, **given}
    conv = nn.Conv2d(c, c, k, **options)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    return conv


def images(*shape: int) -> Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last)


def is_quick(conv: nn.Module, x: Tensor) -> bool:
    return "_Depthwise" in type(conv(x).grad_fn).__name__


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    k=st.sampled_from([1, 2, 3, 4, 5, 7]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    at_once=st.sampled_from([1, 200, 2**18]),
)
def test_both_ways_give_the_derivative(
    n: int, height: int, width: int, k: int, stride: int, padding: int, at_once: int
) -> None:
    if min(height, width) + 2 * padding < k:
        return
    x = torch.randn(n, 3, height, width, dtype=torch.float64)
    w = torch.randn(3, 1, k, k, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, w, None, stride, padding, 1, 3)
    dy = torch.randn_like(y)
    (wanted,) = torch.autograd.grad(y, w, dy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "AT_ONCE", at_once)
        for way in (depthwise._as_convolution, depthwise._place_by_place):
            torch.testing.assert_close(way(x, dy, k, stride, padding), wanted)


@pytest.mark.parametrize(("size", "k", "stride"), [(8, 5, 1), (9, 7, 2), (2, 3, 1), (1, 7, 1), (16, 3, 1)])
def test_a_layer_trains_as_before(size: int, k: int, stride: int) -> None:
    plain = layer(k=k, stride=stride)
    quick = copy.deepcopy(plain)
    assert with_quick_depthwise(quick) is quick
    x = images(4, 6, size, size)
    found: list[Any] = []
    for conv in (plain, quick):
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = conv(image)
        y.square().sum().backward()
        found.append((y.detach(), image.grad, conv.weight.grad))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert is_quick(quick, x) == (k > 3 or size <= 2)


def test_only_what_is_needed_is_computed() -> None:
    conv = with_quick_depthwise(layer())
    x = images(2, 6, 8, 8)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    conv.weight.grad = None
    image = x.clone().requires_grad_()
    conv.requires_grad_(False)
    conv(image).sum().backward()
    assert image.grad is not None
    assert conv.weight.grad is None
    with torch.no_grad():
        assert not conv.requires_grad_(True)(x).requires_grad


def test_elsewhere_torch_does_it() -> None:
    conv = with_quick_depthwise(layer())
    assert is_quick(conv, images(2, 6, 8, 8))
    assert not is_quick(conv, torch.randn(2, 6, 8, 8))
    assert not is_quick(conv, images(2, 6, 80, 80))
    assert not is_quick(conv.double(), images(2, 6, 8, 8).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_quick(conv.float(), images(2, 6, 8, 8))
    assert conv(torch.randn(6, 8, 8)).shape == (6, 8, 8)


def test_which_layers_are_changed() -> None:
    class Own(nn.Conv2d):
        pass

    others = [
        nn.Conv2d(6, 6, 5, bias=False),
        nn.Conv2d(6, 12, 5, groups=6, bias=False),
        layer(bias=True),
        layer(dilation=2),
        layer(padding="same"),
        layer(padding_mode="reflect"),
        nn.Conv2d(6, 6, (3, 5), groups=6, bias=False),
        layer(stride=(1, 2)),
        Own(6, 6, 5, groups=6, bias=False),
    ]
    kinds = [type(conv) for conv in others]
    net = nn.Sequential(*others, layer())
    before = {name: id(value) for name, value in net.state_dict(keep_vars=True).items()}
    with_quick_depthwise(net)
    assert [type(conv) for conv in others] == kinds
    assert type(net[-1]) is QuickDepthwise
    assert isinstance(net[-1], nn.Conv2d)
    assert {name: id(value) for name, value in net.state_dict(keep_vars=True).items()} == before
