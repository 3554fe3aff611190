"""The gradient algorithm: what reaches alpha, and what the modes leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.predictors.base import Predictor
from hwnas.search.algorithm import Budget
from hwnas.search.alpha import softmax
from hwnas.search.gates import GateRequest, GateResult
from hwnas.search.goals import Latency
from hwnas.search.gradient import FASTEST, TRAVEL, Gradient, _pair, learning_rate
from hwnas.search.objective import Objective
from hwnas.search.settings import GateMode, GradientSettings, ObjectiveKind
from hwnas.search.steps import HeldOut, make_scorer
from hwnas.search.supernet import Supernet
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import Formula, made_up_table
from hwnas.tests.search.tiny import (
    bent,
    conv,
    digest,
    tiny_data,
    tiny_latency,
    tiny_objective,
    tiny_space,
    tiny_supernet,
)
from torch import Tensor, nn

MODES: tuple[GateMode, ...] = ("full_v2", "full", "two")
PREDICTORS: dict[str, Callable[[SearchSpace], Predictor]] = {"table": made_up_table, "no closed form": bent}


class FixedGates:
    """A task with the same derivatives at every request."""

    def __init__(self, space: SearchSpace, scale: float = 1.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.gradients = [scale * rng.standard_normal(len(d)) for d in space.decisions]
        self.requests: list[GateRequest] = []

    def gates(self, request: GateRequest) -> GateResult:
        self.requests.append(request)
        found = []
        for d, g in enumerate(self.gradients):
            seen = np.zeros(len(g), bool)
            seen[[request.path[d], *([] if request.partner is None else [max(request.partner[d], 0)])]] = True
            found.append(torch.from_numpy(g if request.mode != "two" else np.where(seen, g, 0.0)))
        return GateResult(1.3, found)

    def accuracy(self, codes: np.ndarray) -> Any:
        raise AssertionError("a search by gradient scores no networks")


class Noted:
    """Another task, and what was asked of it."""

    def __init__(self, task: HeldOut) -> None:
        self.task = task
        self.requests: list[GateRequest] = []

    def gates(self, request: GateRequest) -> GateResult:
        self.task.advance()
        self.requests.append(request)
        return self.task.gates(request)

    def accuracy(self, codes: np.ndarray) -> Any:
        raise AssertionError("a search by gradient scores no networks")


def slope(alpha: Tensor) -> Tensor:
    assert alpha.grad is not None
    return alpha.grad


def algorithm(
    space: SearchSpace, objective: Objective, mode: GateMode = "full_v2", *, seed: int = 0, **more: Any
) -> Gradient:
    settings = GradientSettings(mode=mode, **{"init_scale": 0.7, "lr": 0.1, **more})
    return Gradient(space, objective, settings, Budget(50), seed)


def held_out(supernet: Supernet) -> HeldOut:
    data = tiny_data()
    return HeldOut(supernet, make_scorer(supernet, data.train, 2, "fp32"), data.held_out)


def expected_exactly(latency: Latency, alphas: Sequence[Tensor]) -> Tensor:
    """E[latency] / target by listing every network, differentiable in alpha."""
    space = latency.space
    rows = np.stack(np.meshgrid(*[np.arange(len(d)) for d in space.decisions], indexing="ij"), -1).reshape(
        -1, len(space.decisions)
    )
    ratio = torch.from_numpy(latency.ratio(space.encoding.canonical(rows)))
    chance = torch.ones(len(rows), dtype=torch.float64)
    for p, column in zip(softmax(alphas), rows.T, strict=True):
        chance = chance * p[torch.from_numpy(column)]
    return (chance * ratio).sum()


# -- what reaches alpha


def test_gates_reach_alpha_through_the_softmax() -> None:
    space = tiny_space()
    own = algorithm(space, tiny_objective(None))
    before = [p.copy() for p in own.probabilities()]
    task = FixedGates(space)
    logged = own.update(task, 0)
    for alpha, p, g in zip(own.alpha.tensors, before, task.gradients, strict=True):
        jacobian = np.diag(p) - np.outer(p, p)
        np.testing.assert_allclose(slope(alpha), jacobian @ g, rtol=1e-12, atol=1e-15)
    assert logged["loss"] == 1.3


def test_the_objective_weighs_the_gates() -> None:
    """mul#log multiplies the cross-entropy, so its gates too; a task weight of 0 leaves them out."""
    space = tiny_space()
    milliseconds = Formula(space, lambda codes: 50 * made_up_table(space).predict_codes(codes))
    weights: dict[ObjectiveKind, float] = {"add#linear": 0.0, "none": 0.5, "mul#log": 1.0}
    for kind, task_weight in weights.items():
        latency = None if kind == "none" else tiny_latency(milliseconds)
        own = algorithm(space, tiny_objective(latency, kind, task=task_weight))
        task = FixedGates(space)
        own.probabilities()  # estimates follow the alphas where these become probabilities
        start = [a.detach().clone().requires_grad_() for a in own.alpha.tensors]
        loss = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        p = softmax(start)
        total = own.objective.loss(loss, p) if latency is not None else task_weight * loss
        (weight,) = torch.autograd.grad(total, loss, retain_graph=True)
        gated = sum(torch.from_numpy(g) @ q for g, q in zip(task.gradients, p, strict=True))
        wanted = torch.autograd.grad(total + float(weight) * gated, start)
        own.update(task, 0)
        for alpha, gradient in zip(own.alpha.tensors, wanted, strict=True):
            np.testing.assert_allclose(slope(alpha), gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("mode", ["full_v2", "full"])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_latency_reaches_alpha(predictor: str, mode: GateMode) -> None:
    """Its part of the gradient is the derivative of the expected latency over all networks."""
    space = tiny_space()
    latency = tiny_latency(PREDICTORS[predictor](space))
    found = {}
    for l in (0.0, 2.0):  # noqa: E741  the original's name
        own = algorithm(space, tiny_objective(latency, "add#linear", l=l), mode)
        start = [a.detach().clone().requires_grad_() for a in own.alpha.tensors]
        own.update(FixedGates(space), 0)
        found[l] = torch.cat([slope(a) for a in own.alpha.tensors])
    wanted = torch.cat(torch.autograd.grad(2.0 * expected_exactly(latency, start), start))
    difference = found[2.0] - found[0.0]
    assert difference.abs().min() > 1e-4
    error = (difference - wanted).abs().max() / wanted.abs().max()
    assert error < (1e-10 if predictor == "table" else 0.05)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_latency_reaches_alpha_in_mode_two(predictor: str) -> None:
    """Confined to the pair: how the two share their own sum."""
    space = tiny_space()
    latency = tiny_latency(PREDICTORS[predictor](space))
    for step in range(4):
        found = {}
        for l in (0.0, 2.0):  # noqa: E741
            own, task = algorithm(space, tiny_objective(latency, "add#linear", l=l), "two"), FixedGates(space)
            start = [a.detach().clone().requires_grad_() for a in own.alpha.tensors]
            own.update(task, step)
            found[l] = [slope(a) for a in own.alpha.tensors]
        (request,) = task.requests
        slopes = torch.autograd.grad(2.0 * expected_exactly(latency, start), start)
        for d, alpha in enumerate(start):
            pair = sorted([int(request.path[d]), int(request.partner[d])])  # type: ignore[index]
            with torch.no_grad():
                p = torch.softmax(alpha, 0)
                near = p[pair] / p[pair].sum()
                # dE/dp up to a constant of the decision, which does not matter between two
                t = slopes[d] / p
                wanted = torch.zeros_like(p)
                wanted[pair] = p[pair].sum() * near * (t[pair] - near @ t[pair])
                difference = found[2.0][d] - found[0.0][d]
            np.testing.assert_allclose(difference, wanted, atol=1e-10 if predictor == "table" else 0.03)
            assert np.count_nonzero(difference) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("decision", "skip"), [(0, 2), (1, 2)])
def test_a_step_is_taken_where_the_active_candidate_is_the_skip(decision: int, skip: int, mode: GateMode) -> None:
    """For cross-entropy and for latency, be the skip an identity or zero beside a residual."""
    space = tiny_space()
    supernet = tiny_supernet(space)
    latency = tiny_latency(made_up_table(space))
    gradients = []
    kinds: tuple[ObjectiveKind, ...] = ("none", "add#linear")
    for kind in kinds:
        own = algorithm(space, tiny_objective(latency if kind != "none" else None, kind, l=5.0), mode)
        alpha = own.alpha.tensors[decision]
        with torch.no_grad():
            alpha[skip] += 2.5
        before = alpha.detach().clone()
        task = Noted(held_out(supernet))
        own.update(task, 0)
        task.task.close()
        (request,) = task.requests
        assert request.path[decision] == skip
        moved = [0, 1, 2] if request.partner is None else [skip, int(request.partner[decision])]
        assert ((alpha.detach() - before).abs()[moved] > 1e-4).all()
        gradients.append(slope(alpha))
    assert (gradients[1] - gradients[0]).abs().max() > 0.01


class Residual(nn.Module):
    """A block or nothing, in two formulations with the same weights: zero beside a residual, or an identity."""

    def __init__(self, outer: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.outer = outer
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        blocks: list[nn.Module] = [conv(1), conv(3)]
        self.pick = LayerChoice([*blocks, Nothing()] if outer else [*map(Around, blocks), nn.Identity()])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.pick(x) if self.outer else self.pick(x)
        return self.head(x.mean((2, 3)))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Around(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


@pytest.mark.parametrize("mode", ["full_v2", "full"])
def test_a_skip_as_zero_or_as_identity_moves_alpha_alike(mode: GateMode) -> None:
    for seed in range(6):  # other paths, other alphas
        found, gates = [], []
        for outer in (True, False):
            space = SearchSpace(partial(Residual, outer), (1, 6, 6))
            supernet = Supernet(space, space.supernet().double())
            own = algorithm(space, tiny_objective(None), mode, seed=seed)
            task = held_out(supernet)
            task.advance()
            assert task._batch is not None
            task._batch = (task._batch[0].double(), task._batch[1])
            own.update(task, 0)
            found.append(slope(own.alpha.tensors[0]))
            gates.append(task.gates(GateRequest(np.array([0]), mode)).gradients[0])
            task.close()
        assert (gates[0] - gates[1]).abs().max() > 1e-6  # the gates' own derivatives differ, by a constant
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


# -- mode two


@pytest.mark.parametrize(
    ("kind", "predictor"),
    [
        ("none", "table"),
        ("add#linear", "table"),
        ("add#linear", "no closed form"),
        ("mul#log", "table"),
    ],
)
def test_in_mode_two_the_other_candidates_keep_their_probabilities(kind: Any, predictor: str) -> None:
    space = tiny_space()
    made = PREDICTORS[predictor](space)
    latency = tiny_latency(Formula(space, lambda c: 50 * made.predict_codes(c)) if kind == "mul#log" else made, 0.3)
    own = algorithm(space, tiny_objective(None if kind == "none" else latency, kind, l=3.0), "two", lr=0.3)
    task = Noted(held_out(tiny_supernet(space)))
    for step in range(12):
        before = [p.copy() for p in own.probabilities()]
        own.update(task, step)
        request = task.requests[-1]
        assert request.partner is not None
        for d, (old, new) in enumerate(zip(before, own.probabilities(), strict=True)):
            pair = [int(request.path[d]), int(request.partner[d])]
            others = np.delete(np.arange(len(old)), pair)
            assert np.abs(new[others] - old[others]).max(initial=0) < 1e-12
            assert np.abs(new[pair] - old[pair]).max() > 1e-7
    task.task.close()


def test_under_a_tilt_mode_two_moves_the_pair_alone() -> None:
    """Others' logits stay to the bit, and so does the pair's share, but for the tilt that is solved anew."""
    space = tiny_space()
    own = algorithm(space, tiny_objective(tiny_latency(made_up_table(space), 0.3)), "two", lr=0.3)
    task = FixedGates(space)
    for step in range(10):
        alphas = [a.detach().clone() for a in own.alpha.tensors]
        logits = [z.detach() for z in own.objective.logits(own.alpha.tensors)]
        own.update(task, step)
        request = task.requests[-1]
        assert request.partner is not None
        for d, (old, new) in enumerate(zip(alphas, own.alpha.tensors, strict=True)):
            pair = [int(request.path[d]), int(request.partner[d])]
            others = np.delete(np.arange(len(old)), pair)
            assert torch.equal(old[others], new[others])
            moved = logits[d] + (new - old).detach()
            share = torch.logsumexp(moved[pair], 0) - torch.logsumexp(logits[d][pair], 0)
            assert abs(float(share)) < 1e-12


def test_pairs_are_drawn_without_replacement_from_the_probabilities() -> None:
    p = np.array([0.6, 0.3, 0.1, 0.0])
    rng = np.random.default_rng(0)
    pairs = [tuple(_pair(p, rng).tolist()) for _ in range(4000)]
    assert all(a < b for a, b in pairs)
    wanted = {(0, 1): 0.6 * 0.3 / 0.4 + 0.3 * 0.6 / 0.7, (0, 2): 0.6 * 0.1 / 0.4 + 0.1 * 0.6 / 0.9}
    for pair, chance in wanted.items():
        assert pairs.count(pair) / 4000 == pytest.approx(chance, abs=0.03)
    assert {pair for pair in pairs if 3 in pair} == set()


@pytest.mark.parametrize("mode", MODES)
def test_a_choice_of_one_candidate(mode: GateMode) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_stem()
            self.only = LayerChoice([conv(3)])
            self.pick = LayerChoice([conv(1), conv(3)])
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pick(self.only(self.stem(x))).mean((2, 3)))

    space = SearchSpace(One, (1, 6, 6))
    own = algorithm(space, tiny_objective(tiny_latency(made_up_table(space))), mode)
    task = held_out(tiny_supernet(space))
    for step in range(3):
        task.advance()
        own.update(task, step)
    task.close()
    assert own.probabilities()[0].tolist() == [1.0]
    assert all(np.isfinite(p).all() for p in own.probabilities())


def conv_stem() -> nn.Module:
    return nn.Conv2d(1, 4, 3, padding=1)


# -- the whole


@pytest.mark.parametrize("mode", ["full_v2", "two"])
def test_paths_are_drawn_from_the_probabilities(mode: GateMode) -> None:
    space = tiny_space()
    own = algorithm(space, tiny_objective(None), mode, lr=0.0)
    task = FixedGates(space)
    for step in range(500):
        own.update(task, step)
    paths = np.stack([r.path for r in task.requests])
    for d, p in enumerate(own.probabilities()):
        # of two that are drawn without replacement, the first is drawn like the pair's share of each
        others = p[:, None] / (p[:, None] + p) * p * p[:, None] * (1 / (1 - p) + 1 / (1 - p[:, None]))
        chances = p if mode == "full_v2" else others.sum(axis=1) - others.diagonal()
        np.testing.assert_allclose(np.bincount(paths[:, d], minlength=len(p)) / len(paths), chances, atol=0.09)


def test_the_learning_rate_follows_the_number_of_updates() -> None:
    assert learning_rate(None, 1000) == TRAVEL / 1000
    assert learning_rate(None, 3) == learning_rate(None, 0) == FASTEST
    assert learning_rate(1e-3, 1000) == 1e-3
    own = Gradient(tiny_space(), tiny_objective(None), GradientSettings(), Budget(300), 0)
    assert own.optimizer.param_groups[0]["lr"] == TRAVEL / 300
    assert own.optimizer.param_groups[0]["betas"] == (0.0, 0.999)


def test_betas_may_be_whole_numbers() -> None:
    own = algorithm(tiny_space(), tiny_objective(None), betas=(0, 1 - 1e-3))
    own.update(FixedGates(tiny_space()), 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_state_is_a_picture_of_its_moment(mode: GateMode) -> None:
    """What came after has no part in it, and two algorithms may go on from one state."""
    space = tiny_space()
    make = lambda: algorithm(space, tiny_objective(tiny_latency(bent(space))), mode)  # noqa: E731
    own, task = make(), FixedGates(space)
    for step in range(3):
        own.update(task, step)
    state, then = own.state(), copy.deepcopy(own.state())
    controller = own.objective.state()
    own.update(task, 3)
    assert digest(state) == digest(then)
    for _ in range(2):
        other = make()
        other.load_state(state)
        other.objective.load_state(controller)
        other.update(task, 3)
        assert digest(other.state()) == digest(own.state())


def test_what_is_derived_is_always_the_same() -> None:
    space = tiny_space("nested")
    own = algorithm(space, tiny_objective(tiny_latency(made_up_table(space))))
    found = {digest([r.codes for r in own.ranked(3)]) for _ in range(10)}
    assert len(found) == 1
