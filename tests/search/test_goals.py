"""Latency goals: what several predictors say together, and targets that cannot be reached."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.predictors.base import Predictor
from hwnas.search.goals import Goal, GoalError, Latency, TargetUnreachable
from hwnas.search.ratios import Ratios
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.random_spaces import random_space
from hwnas.testing.search import Formula, made_up_table
from hwnas.tests.search.tiny import tiny_space


@cache
def nested() -> SearchSpace:
    return tiny_space("nested")


def every(space: SearchSpace) -> np.ndarray:
    return np.concatenate(list(space.encoding.enumerate()))


def random_probabilities(space: SearchSpace, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.full(len(d), 1.5)) for d in space.decisions]


class Sum(Formula):
    """A plug-in that knows its expectation, and is no table: the mean of the candidates' numbers, plus 1."""

    closed_form = True

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, lambda codes: 1 + np.maximum(codes, 0).sum(axis=1))

    def expected(self, probabilities: Any) -> Any:
        total = 1.0 + sum(
            p @ (np.arange(len(p)) if isinstance(p, np.ndarray) else torch.arange(len(p)).to(p)) for p in probabilities
        )
        return float(total) if isinstance(probabilities[0], np.ndarray) else total


class Measuring(Formula):
    """Asking it would mean measuring."""

    measures = True

    def __init__(self, space: SearchSpace) -> None:
        def refuse(codes: np.ndarray) -> np.ndarray:
            raise AssertionError("nobody may measure beforehand")

        super().__init__(space, refuse)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_targets_and_weights_are_positive_finite_numbers(value: float) -> None:
    with pytest.raises(GoalError, match="target must be a positive finite number"):
        Goal(made_up_table(nested()), value)
    with pytest.raises(GoalError, match="weight must be a positive finite number"):
        Goal(made_up_table(nested()), 1.0, weight=value)


def test_goals_that_make_no_sense_are_refused() -> None:
    with pytest.raises(GoalError, match="at least one goal"):
        Latency(nested(), [])
    with pytest.raises(GoalError, match=r"another space than 'tiny-nested'"):
        Latency(nested(), [Goal(made_up_table(tiny_space()), 1.0)])
    with pytest.raises(GoalError, match="not 'best'"):
        Latency(nested(), [Goal(made_up_table(nested()), 1.0)], "best")  # type: ignore[arg-type]


def test_an_equal_space_is_no_other_space() -> None:
    twin = SearchSpace(nested().factory, nested().input_shapes, name=nested().name)
    assert twin is not nested()
    assert Latency(twin, [Goal(made_up_table(nested()), 1.0)]).closed_form


def test_several_goals_are_combined_as_weighted_mean_or_worst() -> None:
    first, second = made_up_table(nested(), 1), made_up_table(nested(), 2)
    goals = [Goal(first, 2.0, weight=3.0), Goal(second, 1.5)]
    codes = every(nested())
    a, b = first.predict_codes(codes), second.predict_codes(codes)
    weighted, worst = Latency(nested(), goals), Latency(nested(), goals, "worst")
    np.testing.assert_allclose(weighted.predicted(codes), np.stack([a, b], axis=1))
    np.testing.assert_allclose(weighted.ratio(codes), 0.75 * a / 2 + 0.25 * b / 1.5)
    np.testing.assert_allclose(worst.ratio(codes), np.maximum(a / 2, b / 1.5))
    p = random_probabilities(nested(), 0)
    ea, eb = first.expected(p), second.expected(p)
    assert weighted.expected(p) == [ea, eb]
    assert weighted.expected_ratio(p) == pytest.approx(0.75 * ea / 2 + 0.25 * eb / 1.5)
    assert worst.expected_ratio(p) == pytest.approx(max(ea / 2, eb / 1.5))


@pytest.mark.parametrize("combine", ["weighted", "worst"])
def test_the_expected_ratio_has_the_derivative_of_finite_differences(combine: Any) -> None:
    latency = Latency(nested(), [Goal(made_up_table(nested(), s), 1.0 + s) for s in range(2)], combine)
    logits = [torch.randn(len(d), dtype=torch.float64, requires_grad=True) for d in nested().decisions]

    def ratio(*z: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = latency.expected_ratio([v.softmax(0) for v in z])
        return found

    assert torch.autograd.gradcheck(ratio, logits)


@pytest.mark.parametrize("seed", range(8))
def test_slopes_for_the_tilt_are_those_of_autograd(seed: int) -> None:
    space = [nested(), load_space("nasbench201"), *map(random_space, (0, 2, 3, 4, 5, 6))][seed]
    predictors: list[Predictor] = [made_up_table(space, 3), Sum(space)]
    ratios = Ratios(space.decisions, predictors, np.array([[0.5, 0.2], [0.1, 0.0]]))
    assert ratios.linear is None
    p = random_probabilities(space, seed)
    value, slopes = ratios(ratios.join(p, 0.0))
    for k, (mine, other) in enumerate(([0.5, 0.2], [0.1, 0.0])):
        vectors = [torch.tensor(v, requires_grad=True) for v in p]
        total = mine * predictors[0].expected(vectors) + other * predictors[1].expected(vectors)
        wanted = torch.autograd.grad(total, vectors)
        assert value[k] == pytest.approx(total.item())
        np.testing.assert_allclose(np.concatenate(ratios.split(slopes[k])), torch.cat(wanted).numpy(), atol=1e-12)


def test_only_tables_without_interacting_choices_are_linear() -> None:
    plain = load_space("proxyless-small", {"resolution": 8})
    both = [Goal(made_up_table(plain, s), 2.0) for s in range(2)]
    p = random_probabilities(plain, 1)
    for combine, rows in (("weighted", 1), ("worst", 2)):
        latency = Latency(plain, both, combine)  # type: ignore[arg-type]
        linear = latency.ratios.linear
        assert linear is not None
        assert len(linear.offset) == rows
        found = linear.offset + (linear.costs * latency.ratios.join(p, 0.0)).sum(axis=(1, 2))
        assert found.max() == pytest.approx(latency.expected_ratio(p))
    assert Latency(nested(), [Goal(made_up_table(nested()), 1.0)]).ratios.linear is None


@pytest.mark.parametrize("combine", ["weighted", "worst"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_range_is_that_of_all_architectures(combine: Any, count: int) -> None:
    for space in (nested(), load_space("proxyless-small", {"resolution": 8, "width": 0.5})):
        latency = Latency(space, [Goal(made_up_table(space, s), 1.0 + s, 2.0 - s) for s in range(count)], combine)
        codes = every(space)
        ratio = latency.ratio(codes)
        low, high, smallest, largest = latency.range()
        assert (low, high) == (pytest.approx(ratio.min()), pytest.approx(ratio.max()))
        np.testing.assert_allclose(latency.ratio(np.stack([smallest, largest])), [low, high])
        assert smallest.shape == (len(space.decisions),)


def test_an_unreachable_target_is_refused_with_the_range_and_both_ends() -> None:
    table = made_up_table(nested())
    values = table.predict_codes(every(nested()))
    with pytest.raises(TargetUnreachable) as caught:
        Latency(nested(), [Goal(table, 0.01)]).check_reachable(limit=True)
    error = caught.value
    smallest, largest = nested().decode(table.extremes())
    assert str(error) == (
        f"target 0.01 ms is below what the space reaches: {values.min():.4g} ms ({smallest.short()}) "
        f"to {values.max():.4g} ms ({largest.short()})"
    )
    assert error.targets == (0.01,)
    assert error.minimum == pytest.approx((values.min(),))
    assert error.maximum == pytest.approx((values.max(),))
    assert (error.smallest, error.largest) == (smallest, largest)
    above = Latency(nested(), [Goal(table, 2 * float(values.max()))])
    with pytest.raises(TargetUnreachable, match=r"target .* ms is above what the space reaches"):
        above.check_reachable(limit=False)
    above.check_reachable(limit=True)


def test_both_ends_of_the_range_can_be_reached() -> None:
    table = made_up_table(nested())
    values = table.predict_codes(every(nested()))
    for target in (values.min(), values.mean(), values.max(), values.max() / 0.981):
        Latency(nested(), [Goal(table, float(target))]).check_reachable(limit=False)
    Latency(nested(), [Goal(table, float(values.min()))]).check_reachable(limit=True)
    with pytest.raises(TargetUnreachable):
        Latency(nested(), [Goal(table, float(values.max() / 0.979))]).check_reachable(limit=False)


def test_several_unreachable_targets_are_told_by_name() -> None:
    goals = [Goal(made_up_table(nested(), s), 0.02, name=name) for s, name in enumerate(("phone", "board"))]
    with pytest.raises(TargetUnreachable, match=r"phone 0\.02 ms, board 0\.02 ms is below .*together \(worst\)") as e:
        Latency(nested(), goals, "worst").check_reachable(limit=False)
    assert len(e.value.minimum) == 2


def test_what_would_have_to_be_measured_is_not_asked() -> None:
    latency = Latency(nested(), [Goal(Measuring(nested()), 1.0)])
    assert latency.measures
    latency.check_reachable(limit=False)


def test_goals_have_different_names() -> None:
    table = made_up_table(nested())
    goals = [Goal(table, 1.0), Goal(table, 2.0), Goal(table, 3.0, name="mine"), Goal(Sum(nested()), 3.0)]
    assert Latency(nested(), goals).names == ["cpu", "cpu2", "mine", "ms"]
