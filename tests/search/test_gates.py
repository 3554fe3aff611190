"""Gates: three ways to one derivative, and what they leave alone."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.gates import GateError, GateRequest, gate_gradients
from hwnas.search.supernet import Supernet
from hwnas.spaces.choices import InputChoice, LayerChoice, Selection, active, reduce_inputs
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn
from torch.nn import functional as F


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def conv(kernel: int, *, inplace: bool = False) -> nn.Module:
    layers = [nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(4)]
    return nn.Sequential(nn.ReLU(inplace=True), *layers) if inplace else nn.Sequential(*layers, nn.ReLU())


class Plain(nn.Module):
    """Choices behind a stem, one with a skip beside an outer residual, one tied pair."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.a = LayerChoice({"k1": conv(1, inplace=inplace), "k3": conv(3, inplace=inplace), "skip": nn.Identity()})
        self.b = LayerChoice({"k1": conv(1, inplace=inplace), "k3": conv(3, inplace=inplace), "zero": Zero()})
        self.c = LayerChoice([conv(1, inplace=inplace), conv(3, inplace=inplace)], label="tied")
        self.d = LayerChoice([conv(1, inplace=inplace), conv(3, inplace=inplace)], label="tied")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.stem(x))
        x = x + self.b(x)
        x = self.d(self.c(x))
        x = F.relu_(x) if self.inplace else x
        return self.head(x.mean((2, 3)))


class Nested(nn.Module):
    """A choice in a choice, and subsets of three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        inner = LayerChoice({"k1": conv(1), "k3": conv(3)}, label="inner")
        self.outer = LayerChoice({"block": nn.Sequential(conv(1), inner), "k3": conv(3)}, label="outer")
        self.left, self.right = conv(1), LayerChoice({"k1": conv(1), "k5": conv(5)}, label="right")
        self.inputs = InputChoice(3, 2, "mean", label="inputs")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.outer(self.stem(x))
        return self.head(self.inputs([x, self.left(x), self.right(x)]).mean((2, 3)))


class Pair(nn.Module):
    """Candidates with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.split = LayerChoice([Halves(), Halves()], label="split")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = self.split(self.stem(x))
        return self.head((both["one"] * both["two"]).mean((2, 3)))


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(1), conv(3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"one": self.one(x), "two": self.two(x)}


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "in place": lambda: Plain(inplace=True),
    "nested": Nested,
    "two outputs": Pair,
}


def made(net: str) -> Supernet:
    torch.manual_seed(0)
    space = SearchSpace(NETS[net], (1, 6, 6))
    return Supernet(space, space.supernet().double())


def batch(n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 6, 6, generator=generator).double(), torch.arange(n) % 3


def gates(supernet: Supernet, path: np.ndarray, mode: Any, **more: Any) -> list[np.ndarray]:
    images, labels = batch()
    result = gate_gradients(
        supernet, GateRequest(path, mode, **more), images, lambda output: F.cross_entropy(output, labels)
    )
    return [g.numpy() for g in result.gradients]


def paths(supernet: Supernet, n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.array([rng.integers(len(d)) for d in supernet.space.decisions]) for _ in range(n)]


class Weighted:
    """The gated sum itself: every choice gives sum_i g_i o_i(x)."""

    def __init__(self, supernet: Supernet, gates: list[Tensor]) -> None:
        self.supernet, self.weights = supernet, gates

    def layer(self, choice: LayerChoice, args: Any, kwargs: Any) -> Any:
        return self.sum(choice, [choice[i](args[0].clone()) for i in range(len(choice))])

    def inputs(self, choice: InputChoice, tensors: Any) -> Any:
        outputs = [reduce_inputs([tensors[j] for j in subset], choice.reduction) for subset in choice.subsets]
        return self.sum(choice, outputs)

    def sum(self, choice: Any, outputs: list[Any]) -> Any:
        g = self.weights[self.supernet.decision_of[choice]]
        if isinstance(outputs[0], dict):
            return {k: sum(w * o[k] for w, o in zip(g, outputs, strict=True)) for k in outputs[0]}
        return sum(w * o for w, o in zip(g, outputs, strict=True))


def numerical(supernet: Supernet, path: np.ndarray) -> list[np.ndarray]:
    """Central differences of the loss in every gate."""
    images, labels = batch()
    chosen = torch.from_numpy(path)
    start = [F.one_hot(c, len(d)).double() for c, d in zip(chosen, supernet.space.decisions, strict=True)]

    def loss(gates: list[Tensor]) -> float:
        with torch.no_grad(), supernet.frozen(), active(Weighted(supernet, gates)):
            return float(F.cross_entropy(supernet.module(images), labels))

    found = []
    for d, own in enumerate(start):
        slopes = []
        for i in range(len(own)):
            moved = []
            for h in (1e-5, -1e-5):
                shifted = own.clone()
                shifted[i] += h
                moved.append(loss([*start[:d], shifted, *start[d + 1 :]]))
            slopes.append((moved[0] - moved[1]) / 2e-5)
        found.append(np.array(slopes))
    return found


@pytest.mark.parametrize("net", ["plain", "two outputs"])
def test_full_and_full_v2_give_the_numerical_derivative_of_the_gated_loss(net: str) -> None:
    supernet = made(net)
    for path in paths(supernet, 4):
        wanted = np.concatenate(numerical(supernet, path))
        for mode in ("full", "full_v2"):
            assert np.allclose(np.concatenate(gates(supernet, path, mode)), wanted, rtol=1e-5, atol=1e-9), (mode, path)


@pytest.mark.parametrize("net", list(NETS))
def test_full_and_full_v2_agree(net: str) -> None:
    supernet = made(net)
    for path in paths(supernet, 6):
        full, again = (np.concatenate(gates(supernet, path, mode)) for mode in ("full", "full_v2"))
        assert np.allclose(full, again, rtol=1e-9, atol=1e-12)
        assert np.abs(full).max() > 0


def test_two_sees_the_active_candidate_and_its_partner_alone() -> None:
    supernet = made("plain")
    path, partner = np.array([0, 1, 0]), np.array([2, 0, 1])
    every, pair = gates(supernet, path, "full_v2"), gates(supernet, path, "two", partner=partner)
    for d, (all_gates, two) in enumerate(zip(every, pair, strict=True)):
        looked_at = [path[d], partner[d]]
        assert np.allclose(two[looked_at], all_gates[looked_at], rtol=1e-12)
        assert np.count_nonzero(np.delete(two, looked_at)) == 0


def test_a_zero_candidate_has_gate_gradient_zero_and_an_identity_has_the_inner_product() -> None:
    supernet = made("plain")
    for chosen in range(3):
        assert gates(supernet, np.array([0, chosen, 0]), "full_v2")[1][2] == 0
    images, labels = batch()
    with supernet.frozen(), active(Selection({c: 0 for c in supernet.decision_of})):
        net: Any = supernet.module
        stem = net.stem(images)
        y = net.a["k1"](stem).requires_grad_()
        z = net.d(net.c(y + net.b(y)))
        F.cross_entropy(net.head(z.mean((2, 3))), labels).backward()
    assert y.grad is not None
    found = gates(supernet, np.array([0, 0, 0]), "full_v2")[0][2]
    assert found == pytest.approx(float((stem * y.grad).sum()), rel=1e-9)


@pytest.mark.parametrize("mode", ["full", "full_v2", "two"])
@pytest.mark.parametrize("net", list(NETS))
def test_weights_statistics_and_gradients_stay_as_they_are(net: str, mode: Any) -> None:
    supernet = made(net)
    before = copy.deepcopy(supernet.module.state_dict())
    path = np.array([0 for _ in supernet.space.decisions])
    gates(supernet, path, mode, partner=path + 1)
    assert all(torch.equal(before[name], value) for name, value in supernet.module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in supernet.module.parameters())


def test_full_v2_runs_each_candidate_once_and_keeps_one() -> None:
    supernet = made("plain")
    calls: list[tuple[nn.Module, bool]] = []
    for choice in supernet.decision_of:
        for module in choice.children():
            module.register_forward_pre_hook(lambda m, _: calls.append((m, torch.is_grad_enabled())))
    gates(supernet, np.array([1, 1, 1]), "full_v2")
    every = [module for choice in supernet.decision_of for module in choice.children()]
    ran = [module for module, _ in calls]
    assert sorted(map(id, ran)) == sorted(map(id, every))
    assert sum(with_graph for _, with_graph in calls) == len(supernet.decision_of)


def test_candidates_of_different_shapes_are_named() -> None:
    class Shapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.pick = LayerChoice({"same": nn.Identity(), "half": nn.AvgPool2d(2)}, label="pick")
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pick(self.stem(x)).mean((2, 3)))

    space = SearchSpace(Shapes, (1, 6, 6))
    supernet = Supernet(space, space.supernet().double())
    for mode in ("full", "full_v2"):
        with pytest.raises(GateError, match=r"'pick': candidate 'same'.*'half'.*--algorithm reinforce"):
            gates(supernet, np.array([0]), mode)
    assert all(p.requires_grad for p in supernet.module.parameters())


def test_two_searches_share_a_process() -> None:
    one, two = made("plain"), made("plain")
    images, labels = batch()

    def criterion(output: Tensor) -> Tensor:
        inner = gate_gradients(two, GateRequest(np.array([1, 1, 1])), images, lambda o: F.cross_entropy(o, labels))
        criterion.found = inner.gradients  # type: ignore[attr-defined]
        return F.cross_entropy(output, labels)

    outer = gate_gradients(one, GateRequest(np.array([0, 0, 0])), images, criterion)
    for got, path in ((outer.gradients, [0, 0, 0]), (criterion.found, [1, 1, 1])):  # type: ignore[attr-defined]
        alone = gates(made("plain"), np.array(path), "full_v2")
        assert all(np.allclose(a.numpy(), b, rtol=1e-12) for a, b in zip(got, alone, strict=True))


@pytest.mark.parametrize("mode", ["full", "full_v2"])
def test_nothing_of_a_step_stays_in_memory(mode: Any) -> None:
    supernet = made("plain")
    outputs: list[weakref.ref[Tensor]] = []
    for module in supernet.module.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, x, y: outputs.append(weakref.ref(y)))
        if isinstance(module, LayerChoice):
            module.register_forward_hook(lambda m, x, y: outputs.append(weakref.ref(y)))
    gc.collect()
    gc.disable()
    try:
        gates(supernet, np.array([0, 0, 0]), mode)
        assert len(outputs) > 10
        assert [y for y in outputs if y() is not None] == []
    finally:
        gc.enable()
