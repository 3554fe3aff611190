"""The best-first search against listing everything."""

from __future__ import annotations

import itertools
import math
from itertools import islice

import numpy as np
import pytest
from hwnas.search.kbest import k_best
from hypothesis import given, settings
from hypothesis import strategies as st

Decision = list[tuple[float, float]]
candidates = st.tuples(
    st.one_of(st.floats(-30, 0), st.just(-690.0), st.just(-1.0)),
    st.one_of(st.floats(0.001, 1), st.integers(0, 3).map(float), st.floats(1e-9, 1e-6)),
)
decisions = st.lists(st.lists(candidates, min_size=1, max_size=5), min_size=1, max_size=5)


def listed(table: list[Decision]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) log probability and cost of every combination."""
    rows = list(itertools.product(*table))
    found = np.array([[sum(log for log, _ in row), sum(cost for _, cost in row)] for row in rows])
    return found[:, 0], found[:, 1]


def arrays(table: list[Decision]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [np.array([log for log, _ in d]) for d in table], [np.array([cost for _, cost in d]) for d in table]


@settings(max_examples=200, deadline=None)
@given(decisions, st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans())
def test_all_between_the_bounds_come_by_falling_probability(
    table: list[Decision], a: float, b: float, below: bool, edge: bool
) -> None:
    logs, costs = listed(table)
    low, high = (float(costs.min() + share * np.ptp(costs)) for share in sorted((a, b)))
    if edge:
        high = float(costs[int(b * (len(costs) - 1))])  # a bound that is hit exactly belongs to what is wanted
        low = min(low, high)
    low = -math.inf if below else low
    found = list(k_best(*arrays(table), low, high))
    slack = 1e-9 * max(float(np.ptp(costs)), abs(float(costs.min())), 1e-300)
    sure = (costs >= low) & (costs <= high)
    perhaps = (costs >= low - 2 * slack) & (costs <= high + 2 * slack)
    assert sure.sum() <= len(found) <= perhaps.sum()
    assert len({row for _, row in found}) == len(found)
    assert all(x >= y - 1e-9 for (x, _), (y, _) in itertools.pairwise(found))
    for log, row in found:
        assert log == pytest.approx(sum(d[i][0] for d, i in zip(table, row, strict=True)))
    if sure.sum() == perhaps.sum():
        np.testing.assert_allclose([log for log, _ in found], np.sort(logs[sure])[::-1], atol=1e-9)


def test_without_bounds_it_is_the_most_probable() -> None:
    rng = np.random.default_rng(0)
    logs = [np.log(rng.dirichlet(np.ones(7))) for _ in range(21)]
    costs = [rng.random(7) for _ in range(21)]
    log, row = next(k_best(logs, costs))
    assert row == tuple(int(v.argmax()) for v in logs)
    assert log == pytest.approx(sum(v.max() for v in logs))


def test_nothing_between_the_bounds() -> None:
    logs, costs = [np.zeros(3)] * 30, [np.arange(3.0)] * 30
    assert list(k_best(logs, costs, 10.2, 10.8)) == []
    assert list(k_best(logs, costs, -5, -1)) == []
    assert list(k_best(logs, costs, 61, 70)) == []
    assert len(next(k_best(logs, costs, 60, 70))[1]) == 30


@pytest.mark.parametrize("concentration", [0.05, 1.0, 1000.0])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_large_spaces_take_few_steps(concentration: float, share: float) -> None:
    rng = np.random.default_rng(1)
    logs = [np.log(np.maximum(rng.dirichlet(np.full(7, concentration)), 1e-300)) for _ in range(21)]
    costs = [rng.uniform(0.1, 1, 7) for _ in range(21)]
    low, high = sum(c.min() for c in costs), sum(c.max() for c in costs)
    target = low + share * (high - low)
    found = list(islice(k_best(logs, costs, 0.98 * target, target), 20))
    assert len(found) == 20
    for _, row in found:
        assert 0.98 * target - 1e-6 <= sum(c[i] for c, i in zip(costs, row, strict=True)) <= target + 1e-6


def test_it_is_deterministic() -> None:
    logs, costs = [np.zeros(4)] * 8, [np.arange(4.0)] * 8
    assert list(islice(k_best(logs, costs, 9, 9), 10)) == list(islice(k_best(logs, costs, 9, 9), 10))
