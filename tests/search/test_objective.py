"""What accuracy and latency are worth together: losses, rewards, the held expectation, and what cannot be used."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.predictors.base import Predictor, PredictorError
from hwnas.search.goals import Goal, Latency
from hwnas.search.objective import Objective, ObjectiveError
from hwnas.search.settings import ObjectiveSettings
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import Formula, made_up_table
from hwnas.tests.search.tiny import tiny_space
from torch import Tensor

CE = torch.tensor(1.7, dtype=torch.float64)


@cache
def nested() -> SearchSpace:
    return tiny_space("nested")


@cache
def small() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


def scaled(space: SearchSpace, factor: float, seed: int = 0, unit: str = "ms") -> Predictor:
    """A table in another unit."""
    table = made_up_table(space, seed)
    return Scaled(space, table, factor, unit)


class Scaled(Formula):
    closed_form = True

    def __init__(self, space: SearchSpace, table: Predictor, factor: float, unit: str) -> None:
        super().__init__(space, lambda codes: factor * table.predict_codes(codes), unit)
        self.table, self.factor = table, factor

    def expected(self, probabilities: Any) -> Any:
        return self.factor * self.table.expected(probabilities)


def open_form(table: Predictor) -> Formula:
    """The same latencies without a closed form of their expectation."""
    return Formula(table.space, table.predict_codes)


class Measuring(Formula):
    """Each prediction would be a measurement."""

    measures = True


def measured(table: Predictor, target: float = 2.0) -> Latency:
    return Latency(table.space, [Goal(Measuring(table.space, table.predict_codes), target)])


def objective(latency: Latency | None, **settings: Any) -> Objective:
    return Objective(latency, ObjectiveSettings(**settings))


def at(predictor: Predictor, share: float = 0.4) -> Latency:
    low, high = predictor.predict_codes(predictor.extremes())
    return Latency(predictor.space, [Goal(predictor, float(low + share * (high - low)))])


def random_logits(space: SearchSpace, seed: int, spread: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (spread * torch.randn(len(d), dtype=torch.float64, generator=generator)).requires_grad_()
        for d in space.decisions
    ]


def uniform(space: SearchSpace) -> list[Tensor]:
    return [torch.full((len(d),), 1 / len(d), dtype=torch.float64) for d in space.decisions]


# -- the losses of the ProxylessNAS code


def test_mul_log_is_the_formula() -> None:
    predictor = scaled(nested(), 40.0)
    latency = Latency(nested(), [Goal(predictor, 80.0)])
    p = uniform(nested())
    e = float(predictor.expected(p))
    found = objective(latency, kind="mul#log").loss(CE, p)
    assert found.item() == pytest.approx(0.2 * 1.7 * (math.log(e) / math.log(80)) ** 0.3)
    found = objective(latency, kind="mul#log", a=0.5, b=2.0, task=3.0).loss(CE, p)
    assert found.item() == pytest.approx(0.5 * 3 * 1.7 * (math.log(e) / math.log(80)) ** 2)
    found = objective(latency, kind="mul#log", task=0.0).loss(CE, p)
    assert found.item() == pytest.approx(0.2 * (math.log(e) / math.log(80)) ** 0.3)


def test_add_linear_is_the_formula() -> None:
    latency = at(made_up_table(nested()))
    p = uniform(nested())
    ratio = float(latency.expected_ratio(p))
    assert objective(latency, kind="add#linear").loss(CE, p).item() == pytest.approx(1.7 + 0.1 * (ratio - 1))
    found = objective(latency, kind="add#linear", task=0.0, l=2.0).loss(CE, p)
    assert found.item() == pytest.approx(2 * (ratio - 1))


def test_several_goals_multiply_in_mul_log() -> None:
    predictors = [scaled(nested(), f, s) for s, f in enumerate((40.0, 5.0))]
    goals = [Goal(p, t, weight=w) for p, t, w in zip(predictors, (80.0, 9.0), (3.0, 1.0), strict=True)]
    p = uniform(nested())
    logs = [math.log(float(q.expected(p))) / math.log(t) for q, t in zip(predictors, (80.0, 9.0), strict=True)]
    weighted = objective(Latency(nested(), goals), kind="mul#log").loss(CE, p)
    assert weighted.item() == pytest.approx(0.2 * 1.7 * (logs[0] ** 0.75 * logs[1] ** 0.25) ** 0.3)
    worst = objective(Latency(nested(), goals, "worst"), kind="mul#log").loss(CE, p)
    assert worst.item() == pytest.approx(0.2 * 1.7 * max(logs) ** 0.3)


@pytest.mark.parametrize("kind", ["mul#log", "add#linear", "hold", "limit", "none"])
@pytest.mark.parametrize("combine", ["weighted", "worst"])
def test_losses_have_the_derivatives_of_finite_differences(kind: Any, combine: Any) -> None:
    goals = [Goal(scaled(nested(), 30.0 + s, s), 60.0) for s in range(2)]
    tested = objective(Latency(nested(), goals, combine), kind=kind)

    def loss(task: Tensor, *logits: Tensor) -> Tensor:
        return tested.loss(task, [z.softmax(0) for z in logits])

    assert torch.autograd.gradcheck(loss, (CE.clone().requires_grad_(), *random_logits(nested(), 1)))


def test_measured_latency_has_no_derivative() -> None:
    with pytest.raises(ObjectiveError, match="no derivative"):
        objective(measured(made_up_table(nested())), kind="hold").loss(CE, uniform(nested()))


@pytest.mark.parametrize("target", [0.3, 0.999, 1.0, 1.001, 2.0])
def test_mul_log_is_refused_near_one_in_the_unit_and_below(target: float) -> None:
    """There it is infinite, NaN, or rewards slowness."""
    with pytest.raises(ObjectiveError, match=rf"target of {target:g} ms.*depends on the unit.*use hold"):
        objective(Latency(nested(), [Goal(made_up_table(nested()), target)]), kind="mul#log")


def test_mul_log_stops_where_the_expected_latency_falls_to_one() -> None:
    tested = objective(Latency(nested(), [Goal(scaled(nested(), 0.2), 2.5)]), kind="mul#log")
    p = uniform(nested())
    with pytest.raises(ObjectiveError, match=r"expected latency fell to .* ms.*use hold"):
        tested.loss(CE, p)
    tested = objective(Latency(nested(), [Goal(scaled(nested(), float("nan")), 2.5)]), kind="mul#log")
    with pytest.raises(ObjectiveError, match="fell to nan ms"):
        tested.loss(CE, p)


def test_the_other_objectives_do_not_depend_on_the_unit() -> None:
    alphas = random_logits(nested(), 0)
    for kind in ("hold", "limit", "add#linear"):
        found = []
        for factor in (1e-3, 1.0, 1e3):
            predictor = scaled(nested(), factor)
            tested = objective(Latency(nested(), [Goal(predictor, 1.2 * factor)]), kind=kind)
            p = [z.softmax(0) for z in tested.logits(alphas)]
            found.append(torch.cat([*p, tested.loss(CE, p)[None]]).detach().numpy())
        np.testing.assert_allclose(found[0], found[1], atol=1e-9)
        np.testing.assert_allclose(found[2], found[1], atol=1e-9)


# -- held expectations


@pytest.mark.parametrize("space", [small, nested])
@pytest.mark.parametrize("kind", ["hold", "limit"])
def test_logits_hold_the_expected_latency(space: Any, kind: Any) -> None:
    latency = at(made_up_table(space()), 0.3)
    tested = objective(latency, kind=kind)
    for seed in range(5):
        alphas = random_logits(space(), seed)
        before = float(latency.expected_ratio([a.detach().softmax(0) for a in alphas]))
        p = [z.softmax(0) for z in tested.logits(alphas)]
        wanted = min(before, 1.0) if kind == "limit" else 1.0
        assert latency.expected_ratio(p).item() == pytest.approx(wanted, abs=1e-9)
        assert tested.loss(CE, p).item() == pytest.approx(1.7)
        assert tested.log(p)["ratio"] == pytest.approx(wanted, abs=1e-9)


def test_the_tilt_is_a_constant_to_autograd() -> None:
    tested = objective(at(made_up_table(small())), kind="hold")
    alphas = random_logits(small(), 2)
    weights = [torch.arange(len(a), dtype=torch.float64) for a in alphas]
    sum((w * z).sum() for w, z in zip(weights, tested.logits(alphas), strict=True)).backward()  # type: ignore[union-attr]
    for alpha, w in zip(alphas, weights, strict=True):
        assert alpha.grad is not None
        torch.testing.assert_close(alpha.grad, w)


def test_single_precision_lands_as_well_as_it_can() -> None:
    latency = at(made_up_table(small()))
    alphas = [a.detach().float() for a in random_logits(small(), 2)]
    logits = objective(latency, kind="hold").logits(alphas)
    assert {z.dtype for z in logits} == {torch.float32}
    assert float(latency.expected_ratio([z.double().softmax(0) for z in logits])) == pytest.approx(1, abs=1e-5)


def test_the_same_alphas_give_the_same_logits() -> None:
    """A resumed search needs no more than the alphas."""
    latency = at(made_up_table(nested()))
    tested = objective(latency, kind="hold")
    alphas = random_logits(nested(), 3)
    first = tested.logits(alphas)
    tested.logits(random_logits(nested(), 4, 5.0))
    for a, b in zip(first, tested.logits(alphas), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["mul#log", "add#linear", "none"])
def test_other_objectives_leave_the_logits_alone(kind: Any) -> None:
    alphas = random_logits(nested(), 0)
    tested = objective(Latency(nested(), [Goal(scaled(nested(), 40.0), 80.0)]), kind=kind)
    assert all(a is z for a, z in zip(alphas, tested.logits(alphas), strict=True))


def test_alphas_that_diverged_are_named() -> None:
    alphas = random_logits(nested(), 0)
    with torch.no_grad():
        alphas[1][0] = float("nan")
    with pytest.raises(ObjectiveError, match="not finite"):
        objective(at(made_up_table(nested())), kind="hold").logits(alphas)


def test_without_goals_latency_plays_no_part() -> None:
    tested = objective(None, kind="hold")
    assert (tested.kind, tested.rule) == ("none", "argmax")
    alphas = random_logits(nested(), 0)
    assert all(a is z for a, z in zip(alphas, tested.logits(alphas), strict=True))
    assert tested.loss(CE, uniform(nested())) == CE
    assert tested.reward(np.array([0.3]), None, None).tolist() == [0.3]
    assert tested.accepts(np.array([np.nan, 7.0])).all()
    assert tested.log(uniform(nested())) == {}


# -- rewards and acceptance


def test_rewards_are_the_formulas() -> None:
    latency = Latency(nested(), [Goal(scaled(nested(), 40.0), 80.0)])
    accuracy, ratio = np.array([0.5, 0.8]), np.array([0.8, 1.25])
    for kind, wanted in {
        "mul#log": accuracy * (1 / ratio) ** 0.1,
        "add#linear": 2 * accuracy - 0.1 * (ratio - 1),
        "hold": 2 * accuracy,
        "limit": 2 * accuracy,
        "none": 2 * accuracy,
    }.items():
        found = objective(latency, kind=kind, task=2.0).reward(accuracy, None, ratio)
        np.testing.assert_allclose(found, (2 if kind == "mul#log" else 1) * wanted, err_msg=kind)
    lone = objective(latency, kind="mul#log", task=0.0).reward(accuracy, None, ratio)
    np.testing.assert_allclose(lone, (1 / ratio) ** 0.1)


def test_rewards_under_measured_latency_pull_to_the_target() -> None:
    latency = measured(made_up_table(nested()))
    accuracy, ratio = np.full(3, 0.5), np.array([0.8, 1.0, 1.25])
    held, limited = objective(latency, kind="hold"), objective(latency, kind="limit")
    np.testing.assert_allclose(held.reward(accuracy, None, ratio), [0.4, 0.5, 0.375])
    np.testing.assert_allclose(limited.reward(accuracy, None, ratio), [0.5, 0.5, 0.375])
    for tested in (held, limited):
        tested.observe(1.1)
        faster, same, slower = tested.reward(accuracy, None, ratio)
        assert same == 0.5
        assert faster > 0.4
        assert slower < 0.375
        for _ in range(10):
            tested.observe(0.9)
    assert held.reward(accuracy, None, ratio)[0] < 0.4
    np.testing.assert_allclose(limited.reward(accuracy, None, ratio), [0.5, 0.5, 0.375])


def test_rewards_predict_latency_where_it_is_not_given() -> None:
    latency = at(made_up_table(nested()))
    tested = objective(latency, kind="add#linear")
    codes = np.concatenate(list(nested().encoding.enumerate()))[:5]
    wanted = tested.reward(np.zeros(5), None, latency.ratio(codes))
    np.testing.assert_array_equal(tested.reward(np.zeros(5), codes), wanted)
    with pytest.raises(ObjectiveError, match="needs the networks"):
        tested.reward(np.zeros(5))


def test_what_is_accepted() -> None:
    latency = at(made_up_table(nested()))
    ratio = np.array([0.5, 0.979, 0.98, 0.99, 1.0, 1.0 + 1e-12, 1.001])
    band = [False, False, True, True, True, True, False]
    wanted = {"hold": band, "add#linear": band, "limit": [True] * 6 + [False], "none": [True] * 7}
    for kind, accepted in wanted.items():
        assert objective(latency, kind=kind).accepts(ratio).tolist() == accepted, kind
    assert objective(latency, kind="hold", derive="limit").accepts(ratio).tolist() == wanted["limit"]
    assert objective(latency, kind="none", derive="band").accepts(ratio).tolist() == band


def test_rules() -> None:
    latency = at(made_up_table(nested()))
    rules = {kind: objective(latency, kind=kind).rule for kind in ("hold", "limit", "add#linear", "none")}
    assert rules == {"hold": "band", "limit": "limit", "add#linear": "band", "none": "argmax"}
    assert objective(latency, kind="hold", derive="argmax").rule == "argmax"


# -- estimated expectations


def bent(table: Predictor) -> Formula:
    """Interactions of neighbours, 10 % of the latency at most, that no sum over the choices holds."""

    def latency(codes: np.ndarray) -> np.ndarray:
        bend = np.sin(1.0 + codes[:, :-1] * (codes[:, 1:] + 1.5)).mean(axis=1)
        return np.asarray(table.predict_codes(codes) * (1 + 0.1 * bend))

    return Formula(table.space, latency)


@pytest.mark.parametrize(("kind", "share"), [("hold", 0.25), ("hold", 0.6), ("limit", 0.3)])
def test_estimates_hold_the_latency_all_along(kind: Any, share: float) -> None:
    """Adam over noisy gate gradients in which slower is better; held is what enumeration says, at every update."""
    predictor = bent(made_up_table(small()))
    every = np.indices([len(d) for d in small().decisions]).reshape(len(small().decisions), -1).T
    values = predictor.predict_codes(every)
    latency = at(predictor, share)
    tested = objective(latency, kind=kind)
    rng = np.random.default_rng(0)
    alphas = [torch.zeros(len(d), dtype=torch.float64, requires_grad=True) for d in small().decisions]
    worth = [-0.1 * np.arange(len(a)) for a in alphas]
    optimizer = torch.optim.Adam(alphas, lr=0.15, betas=(0.0, 0.999))
    made, exact = {}, []
    for _ in range(100):
        p = [z.softmax(0) for z in tested.logits(alphas)]
        gates = [torch.tensor(w + 0.1 * rng.standard_normal(len(w))) for w in worth]
        task = sum(g @ q for g, q in zip(gates, p, strict=True))
        optimizer.zero_grad()
        tested.loss(task, p).backward()  # type: ignore[arg-type]
        optimizer.step()
        made[latency.near[0].estimate] = True
        weight = np.prod([q.detach().numpy()[c] for q, c in zip(p, every.T, strict=True)], axis=0)
        exact.append(float(weight @ values) / latency.goals[0].target)
    miss = np.array(exact) - 1
    assert (miss if kind == "limit" else np.abs(miss)).max() < 0.01
    assert np.maximum(miss, 0).mean() < 0.002
    assert 1 < len(made) < 40
    assert tested.log([q.detach().numpy() for q in p])["r2"] > 0.5


@pytest.mark.parametrize("kind", ["hold", "add#linear"])
def test_estimates_follow_the_alphas_and_go_on_where_they_were(kind: Any) -> None:
    def walk(tested: Objective, seeds: range) -> list[list[Tensor]]:
        found = []
        for seed in seeds:
            alphas = random_logits(nested(), seed, 0.2 * seed)
            logits = tested.logits(alphas)
            again = tested.logits(alphas)
            assert all(torch.equal(a, b) for a, b in zip(logits, again, strict=True))
            expected = tested.log([z.detach().softmax(0) for z in logits])
            found.append([*logits, torch.tensor(list(expected.values()))])
        return found

    predictor = bent(made_up_table(nested()))
    whole, first = objective(at(predictor), kind=kind), objective(at(predictor), kind=kind)
    wanted = walk(whole, range(10))
    walk(first, range(6))
    again = objective(at(predictor), kind=kind)
    again.load_state(first.state())
    for alphas in (random_logits(nested(), 5, 1.0), random_logits(nested(), 5, 1.0)):
        again.logits(alphas)  # what a resumed search asks before it goes on
    assert again.state() == first.state()
    for found, right in zip(walk(again, range(6, 10)), wanted[6:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert again.state() == whole.state()


def test_estimates_are_made_anew_only_where_the_probabilities_have_moved() -> None:
    asked = []

    def latency(codes: np.ndarray) -> np.ndarray:
        asked.append(len(codes))
        return bent(made_up_table(small())).predict_codes(codes)

    tested = objective(at(Formula(small(), latency)), kind="add#linear")
    alphas = random_logits(small(), 0, 0.1)
    tested.logits(alphas)
    asked.clear()
    for step in range(20):
        tested.logits([a.detach() + 0.01 * step for a in alphas])  # a constant moves nothing
    assert not asked
    tested.logits([3 * a.detach() for a in alphas])
    assert asked in ([512], [512, 1536])  # more where the first do not make it precise


def test_a_predictor_that_fails_is_noticed() -> None:
    predictor = Formula(nested(), lambda codes: np.full(len(codes), np.nan))
    tested = objective(Latency(nested(), [Goal(predictor, 1.0)]), kind="hold")
    with pytest.raises(PredictorError, match=r"nan.*cannot be searched with"):
        tested.logits(random_logits(nested(), 0))


# -- the controller


def test_a_resumed_controller_goes_on_alike() -> None:
    latency = measured(made_up_table(nested()))
    whole, first = objective(latency, kind="hold"), objective(latency, kind="hold")
    ratios = 1 + 0.1 * np.random.default_rng(0).standard_normal(20)
    for ratio in ratios:
        whole.observe(ratio)
    for ratio in ratios[:8]:
        first.observe(ratio)
    again = objective(latency, kind="hold")
    again.load_state(first.state())
    for ratio in ratios[8:]:
        again.observe(ratio)
    assert again.state() == whole.state()
    rewards = [o.reward(np.zeros(2), None, np.array([0.9, 1.2])) for o in (again, whole)]
    np.testing.assert_array_equal(rewards[0], rewards[1])


def test_a_measurement_that_fails_is_noticed() -> None:
    with pytest.raises(ObjectiveError, match="latency of nan times"):
        objective(measured(made_up_table(nested())), kind="hold").observe(float("nan"))


def test_a_run_does_not_go_on_with_another_table() -> None:
    before, after = (open_form(made_up_table(nested(), seed)) for seed in (0, 1))
    target = float(before.expected([p.numpy() for p in uniform(nested())]))
    state = objective(Latency(nested(), [Goal(before, target)])).state()
    with pytest.raises(ObjectiveError, match="other latencies than when this run began"):
        objective(Latency(nested(), [Goal(after, target)])).load_state(state)


def test_logs_name_the_goals() -> None:
    goals = [Goal(made_up_table(nested(), s), 1.0, name=name) for s, name in enumerate(("phone", "board"))]
    p = uniform(nested())
    tested = objective(Latency(nested(), goals, "worst"), kind="hold")
    tested.logits(random_logits(nested(), 0))
    found = tested.log(p)
    assert set(found) == {"expected/phone", "expected/board", "ratio", "mu/phone", "mu/board"}
    assert found["expected/board"] == pytest.approx(float(goals[1].predictor.expected(p)))
    alone = objective(Latency(nested(), [replace(goals[0], name="")]), kind="add#linear").log(p)
    assert set(alone) == {"expected", "ratio"}
