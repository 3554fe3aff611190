"""Simplification: the same function in fewer nodes, and the same nodes with and without data."""

from collections.abc import Callable, Iterator

import hypothesis.strategies as st
import pytest
import torch
from hwnas.spaces.tracer import Graph, trace
from hwnas.testing.graphs import Function, randomise, replay
from hypothesis import given, settings
from torch import Tensor, nn

IMAGE = (2, 3, 6, 6)


class Branches(nn.Module):
    """Operators as in a cell; those whose name starts with z see zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def live(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.bn(self.conv(torch.relu(x))))

    def constant(self, x: Tensor, which: int = 0) -> Tensor:
        return torch.as_tensor(self.norms[which](self.convs[which](torch.relu(torch.zeros_like(x)))))


def branches(forward: Callable[[Branches, Tensor], object]) -> Branches:
    net = Branches()
    randomise(net)
    net.forward = lambda x: forward(net, x)  # type: ignore[assignment, method-assign, return-value]
    return net


def checked(module: nn.Module, shape: tuple[int, ...] = IMAGE) -> Graph:
    """The simplified graph, after a check that it computes the same and that meta tensors give it too."""
    module.eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    graph = trace(module, [x]).simplified()
    with torch.no_grad():
        expected = module(x)
    for found, wanted in zip(replay(graph, [x]), expected if isinstance(expected, tuple) else [expected], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    meta = trace(module.to("meta"), [x.to("meta")]).simplified()
    assert meta.digest() == graph.digest()
    return graph


def operators(module: nn.Module, shape: tuple[int, ...] = IMAGE) -> list[str]:
    return [node.op for node in checked(module, shape).nodes]


FOLDED: dict[str, Callable[[Branches, Tensor], object]] = {
    "right": lambda n, x: n.live(x) + n.constant(x),
    "left": lambda n, x: n.constant(x) + n.live(x),
    "in place": lambda n, x: n.live(x).add_(n.constant(x)),
    "chain": lambda n, x: n.constant(x, 1) + ((n.live(x) + n.constant(x)) + n.constant(x, 1)),
    "sum of constants": lambda n, x: (n.constant(x) + n.constant(x, 1)) + n.live(x),
    "relu of a constant": lambda n, x: n.live(x) + torch.relu(n.constant(x)),
    "python's sum": lambda n, x: sum([n.live(x), n.constant(x), n.constant(x, 1)]),
    "zero besides": lambda n, x: n.live(x) + (torch.zeros_like(x) + n.constant(x)),
    "difference": lambda n, x: n.live(x) - n.constant(x),
    "alpha": lambda n, x: torch.add(n.live(x), n.constant(x), alpha=3),
    "scaled": lambda n, x: n.live(x) + 2 * n.constant(x),
    "unpadded convolution of a constant": lambda n, x: n.live(x) + n.convs[1](n.constant(x)),
    "pooled": lambda n, x: n.live(x) + nn.functional.avg_pool2d(n.constant(x), 3, 1, 1, count_include_pad=False),
    "maximum": lambda n, x: n.live(x) + nn.functional.max_pool2d(n.constant(x), 3, 1, 1),
    "norm of a constant": lambda n, x: n.live(x) + n.norms[1](n.constant(x)),
    "norm of zeros": lambda n, x: n.live(x) + n.norms[0](torch.zeros_like(x)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_constants_by_channel_go_into_the_bias(name: str) -> None:
    assert operators(branches(FOLDED[name])) == ["relu", "convolution"]


BEYOND: dict[str, Callable[[Branches, Tensor], object]] = {
    "below": lambda n, x: (n.live(x) + torch.sigmoid(x)) + n.constant(x),
    "above": lambda n, x: (n.constant(x) + torch.sigmoid(x)) + n.live(x),
    "both sides": lambda n, x: (n.constant(x) + torch.sigmoid(x)) + (n.constant(x, 1) + n.live(x)),
}


@pytest.mark.parametrize("name", BEYOND)
def test_other_summands_may_lie_between(name: str) -> None:
    assert sorted(operators(branches(BEYOND[name]))) == ["add.Tensor", "convolution", "relu", "sigmoid"]


def read_twice(net: Branches, x: Tensor) -> Tensor:
    y = net.live(x)
    return torch.sigmoid(y) + (y + net.constant(x))


def partial_sum_read_twice(net: Branches, x: Tensor) -> Tensor:
    y = torch.sigmoid(x) + net.constant(x)
    return torch.tanh(y) + (y + net.live(x))


def sum_read_twice(net: Branches, x: Tensor) -> Tensor:
    y = net.live(x) + net.constant(x)
    return torch.tanh(y) + (y + net.constant(x, 1))


STAYING: dict[str, tuple[Callable[[Branches, Tensor], object], int]] = {  # with the number of sums that stay
    "read twice": (read_twice, 2),
    "partial sum read twice": (partial_sum_read_twice, 3),
    "sum read twice": (sum_read_twice, 2),  # the first constant is gone
    "doubled": (lambda n, x: (y := n.live(x)) + y + n.constant(x), 2),
    "no convolution": (lambda n, x: torch.sigmoid(x) + n.constant(x), 1),
    "an activation between": (lambda n, x: torch.sigmoid(n.live(x)) + n.constant(x), 1),
    "padded convolution of a constant": (lambda n, x: n.live(x) + n.convs[0](n.constant(x)), 1),
    "padding counted": (lambda n, x: n.live(x) + nn.functional.avg_pool2d(n.constant(x), 3, 1, 1), 1),
    "another shape": (lambda n, x: n.live(x).mean((2, 3), keepdim=True) + n.constant(x), 1),
    "broadcast": (lambda n, x: n.live(x[:1]) + n.constant(x), 1),
    "other constants": (lambda n, x: n.live(x) + torch.arange(6.0, device=x.device), 1),
}


@pytest.mark.parametrize("name", STAYING)
def test_other_constants_and_results_read_twice_stay(name: str) -> None:
    forward, n = STAYING[name]
    assert operators(branches(forward)).count("add.Tensor") == n


def test_an_output_counts_as_a_reader() -> None:
    net = branches(lambda n, x: ((y := n.live(x)), y + n.constant(x)))
    assert operators(net) == ["relu", "convolution", "add.Tensor"]


def test_constant_minus_convolution_stays() -> None:
    assert operators(branches(lambda n, x: n.constant(x) - n.live(x))) == ["relu", "convolution", "sub.Tensor"]


def test_transposed_and_grouped_convolutions_take_a_bias_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm = nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x)
            return torch.as_tensor(y + self.norm(torch.zeros_like(y)))

    assert operators(randomise(Net())) == ["convolution"]


def test_a_folded_sum_keeps_the_call_of_its_convolution() -> None:
    net = branches(FOLDED["right"])
    graph = trace(net, [torch.randn(IMAGE)], watch={"conv": net.conv, "none": net.norms[0]}).simplified()
    call = next(i for i, call in enumerate(graph.calls) if call.path == "conv")
    assert [node.call for node in graph.nodes if node.op == "convolution"] == [call]
    assert graph.calls[call].outputs == (graph.outputs[0].id,)


def combine(net: Branches, x: Tensor, tree: object) -> Tensor:
    if isinstance(tree, tuple):
        return combine(net, x, tree[0]) + combine(net, x, tree[1])
    leaves: dict[object, Callable[[], Tensor]] = {
        "conv": lambda: torch.as_tensor(net.other(x)),
        "bn": lambda: net.live(x),
        "x": lambda: x,
        "zero": lambda: torch.zeros_like(x),
        "constant": lambda: net.constant(x),
        "bias": lambda: net.constant(x, 1),
        "padded": lambda: torch.as_tensor(net.convs[0](net.constant(x))),
        "one": lambda: torch.ones_like(x),
    }
    return leaves[tree]()


def leaves_of(tree: object) -> Iterator[object]:
    if isinstance(tree, tuple):
        yield from (leaf for part in tree for leaf in leaves_of(part))
    else:
        yield tree


LEAVES = st.sampled_from(["conv", "bn", "x", "zero", "constant", "bias", "padded", "one"])


@settings(max_examples=40, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.tuples(inner, inner), max_leaves=6))
def test_any_sum_stays_what_it_was(tree: object) -> None:
    torch.manual_seed(0)
    graph = checked(branches(lambda n, x: combine(n, x, tree)))
    leaves = list(leaves_of(tree))
    if "conv" in leaves or "bn" in leaves:  # then every constant by channel has a place to go
        sums = [node for node in graph.nodes if node.op == "add.Tensor"]
        kept = sum(leaves.count(name) for name in ("conv", "bn", "x"))
        assert len(sums) <= kept - 1 + leaves.count("padded") + leaves.count("one")


def test_adding_zeros_costs_nothing() -> None:
    def sums(x: Tensor) -> Tensor:
        return torch.relu(x) + torch.zeros_like(x) + (torch.zeros_like(x) + torch.zeros_like(x))

    assert operators(Function(sums)) == ["relu"]


def test_the_zero_that_pythons_sum_begins_with_costs_nothing() -> None:
    x = torch.randn(2, 3)
    assert [node.op for node in trace(Function(lambda x: sum([x])), [x]).simplified().nodes] == []
    assert [node.op for node in trace(Function(lambda x: sum([x, x]) - 0), [x]).simplified().nodes] == ["add.Tensor"]
    none = Function(lambda x: torch.relu(x) + sum([torch.zeros_like(x), torch.zeros_like(x)]))
    assert operators(none) == ["relu"]
    whole = torch.ones(2, dtype=torch.int64)
    assert len(trace(Function(lambda x: x + 0.0), [whole]).simplified().nodes) == 1  # which makes it real numbers


@pytest.mark.parametrize(
    "zero",
    [
        lambda n, x: n.convs[0](torch.zeros_like(x)),
        lambda n, x: torch.cat([torch.zeros_like(x)[:, :1], torch.zeros_like(x)[:, 1:]], 1),
        lambda n, x: nn.functional.max_pool2d(torch.zeros_like(x), 3, 1, 1),
    ],
)
def test_what_is_made_of_zeros_is_zero(zero: Callable[[Branches, Tensor], Tensor]) -> None:
    assert operators(branches(lambda n, x: torch.relu(x) + zero(n, x))) == ["relu"]


@pytest.mark.parametrize(
    "constant",
    [
        lambda x: torch.zeros_like(x) + 1,
        lambda x: 1 - torch.zeros_like(x),
        lambda x: torch.sigmoid(torch.zeros_like(x)),
        lambda x: nn.functional.max_pool2d(torch.zeros_like(x), 2, 1, 1, return_indices=True)[1][:, :, :6, :6],
        lambda x: torch.zeros_like(x).exp(),
    ],
)
def test_what_is_not_zero_is_added(constant: Callable[[Tensor], Tensor]) -> None:
    assert operators(Function(lambda x: torch.relu(x) + constant(x))) == ["relu", "add.Tensor"]


def test_batch_norm_disappears_into_the_convolution() -> None:
    parts = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.Conv2d(4, 4, 3, 2, 1, groups=4)
    assert operators(nn.Sequential(*parts, nn.BatchNorm2d(4))) == ["convolution", "hardtanh", "convolution"]


def test_batch_norm_stays_where_something_else_reads_the_convolution() -> None:
    net = branches(lambda n, x: n.bn(y := n.other(x)) + y)
    assert operators(net) == ["convolution", "batch_norm", "add.Tensor"]


def test_readers_without_effect_do_not_count() -> None:
    net = branches(lambda n, x: (torch.sigmoid(y := n.other(x)), n.bn(y))[1])
    assert operators(net) == ["convolution"]


def test_identity_and_zeros_have_no_nodes_but_a_product_with_zero_has() -> None:
    x = torch.randn(IMAGE)
    assert trace(nn.Identity(), [x]).simplified().nodes == []
    assert trace(nn.Identity(), [x]).outputs == trace(nn.Identity(), [x]).inputs
    assert trace(Function(torch.zeros_like), [x]).simplified().nodes == []
    assert trace(nn.Dropout(0.5), [x]).simplified().nodes == []
    assert [node.op for node in trace(Function(lambda x: x * 0), [x]).simplified().nodes] == ["mul.Tensor"]
