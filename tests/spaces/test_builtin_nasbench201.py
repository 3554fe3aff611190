"""The space `nasbench201` against the benchmark's own figures and strings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.builtin.nasbench201 import EDGES, NAME, OPERATORS, from_arch_str, nasbench201, to_arch_str
from hwnas.spaces.description import SpaceError
from hwnas.spaces.space import SearchSpace
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return nasbench201()


def uniform(operator: str) -> Architecture:
    return Architecture(NAME, dict.fromkeys(EDGES, operator))


def test_decisions(space: SearchSpace) -> None:
    assert [(d.label, d.candidates) for d in space.decisions] == [(edge, OPERATORS) for edge in EDGES]
    assert space.size == 15_625


# as the benchmark states them for its networks on CIFAR-10
@pytest.mark.parametrize(
    ("text", "parameters", "mmacs"),
    [
        (to_arch_str(uniform("nor_conv_3x3")), 1_531_546, 220.12),
        (
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
            802_426,
            113.95,
        ),
    ],
)
def test_sizes_of_networks(space: SearchSpace, text: str, parameters: int, mmacs: float) -> None:
    net = space.build(from_arch_str(text)).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    # the benchmark also counts batch norms and pooling, about 2 %
    assert counter.get_total_flops() / 2e6 == pytest.approx(mmacs, rel=0.03)


def test_operators_compute_what_they_are_called(space: SearchSpace) -> None:
    supernet = space.supernet().eval()
    choice = supernet.get_submodule("cells.0.edges.0-1")
    x = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        assert torch.equal(choice.get_submodule("none")(x), torch.zeros_like(x))
        assert torch.equal(choice.get_submodule("skip_connect")(x), x)
        pooled = choice.get_submodule("avg_pool_3x3")(x)
    assert torch.allclose(pooled[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    assert torch.allclose(pooled[0, 0, 1, 1], x[0, 0, :3, :3].mean())


def test_cell_sums_its_edges(space: SearchSpace) -> None:
    """With skips everywhere node 3 is the input times the number of paths: 4."""
    cell = space.build(uniform("skip_connect")).get_submodule("cells.0")
    x = torch.randn(2, 16, 8, 8)
    assert torch.allclose(cell(x), 4 * x)


def test_edges_do_not_overwrite_each_others_input(space: SearchSpace) -> None:
    cell = space.build(uniform("nor_conv_3x3")).get_submodule("cells.0").eval()
    x = torch.randn(2, 16, 8, 8)
    before = x.clone()
    with torch.no_grad():
        cell(x)
    assert torch.equal(x, before)


def test_tied_cells_use_one_decision(space: SearchSpace) -> None:
    net = space.build(from_arch_str("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"))
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 1 + 15 + 2 * 3 + 0


def test_resolution_and_classes() -> None:
    space = nasbench201(classes=120, resolution=16)
    net = space.build(space.sample(1, np.random.default_rng(0))[0]).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 120)
    with pytest.raises(SpaceError, match="multiple of 4"):
        nasbench201(resolution=18)


@given(st.lists(st.sampled_from(OPERATORS), min_size=6, max_size=6))
def test_arch_string_round_trip(operators: list[str]) -> None:
    architecture = Architecture(NAME, dict(zip(EDGES, operators, strict=True)))
    assert from_arch_str(to_arch_str(architecture)) == architecture


def test_arch_string_is_the_benchmarks() -> None:
    text = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
    architecture = from_arch_str(text)
    assert architecture.choices["0-1"] == "nor_conv_3x3"
    assert architecture.choices["1-2"] == "nor_conv_1x1"
    assert architecture.choices["1-3"] == "avg_pool_3x3"
    assert to_arch_str(architecture) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|",
        "|none~0|+|none~0|none~0|+|none~0|none~1|none~2|",
        "|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ],
)
def test_bad_arch_string_is_refused(text: str) -> None:
    with pytest.raises(SpaceError, match=r"form|unknown operator 'conv_9x9'"):
        from_arch_str(text)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("proxyless", dict.fromkeys(EDGES, "none")),
        Architecture(NAME, {"0-1": "none"}),
        Architecture(NAME, dict.fromkeys(EDGES, "k3e3")),
    ],
)
def test_no_arch_string_for_another_space(architecture: Architecture) -> None:
    with pytest.raises(SpaceError, match="no nasbench201 architecture"):
        to_arch_str(architecture)
