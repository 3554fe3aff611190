"""The most probable architectures on target: against listing everything, and where that cannot be done."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.lut import LutPredictor
from hwnas.search.derive import Derived, Rule, draw_in_band, most_probable
from hwnas.search.goals import LISTED, Goal, Latency
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.random_spaces import random_space
from hwnas.testing.search import Formula, made_up_table
from hwnas.tests.search.tiny import tiny_space

RULES: tuple[Rule, ...] = ("band", "limit", "argmax")


@cache
def small() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@cache
def nasbench() -> SearchSpace:
    return load_space("nasbench201")


@cache
def nested() -> SearchSpace:
    return tiny_space("nested")


@cache
def tangled() -> SearchSpace:
    return random_space(6)


@cache
def table(space: Any, seed: int = 0) -> LutPredictor:
    return made_up_table(space(), seed)


@cache
def every(space: Any) -> np.ndarray:
    return np.concatenate(list(space().encoding.enumerate()))


def latency(space: Any, share: float = 0.4, combine: Any = None) -> Latency:
    """Half of the goals' latencies lie below a share of 0.5."""
    goals = []
    for seed in range(1 if combine is None else 2):
        target = float(np.quantile(table(space, seed).predict_codes(every(space)), share))
        goals.append(Goal(table(space, seed), target))
    return Latency(space(), goals, combine or "weighted")


def random_probabilities(space: SearchSpace, seed: int, concentration: float = 0.7) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.full(len(d), concentration)) for d in space.decisions]


def log_probability(codes: np.ndarray, p: list[np.ndarray]) -> np.ndarray:
    """(N,) with a probability of 1 for what is not reached."""
    padded = [np.append(np.maximum(q, 1e-300), 1.0) for q in p]
    return np.asarray(sum(np.log(q[column]) for q, column in zip(padded, codes.T, strict=True)))


def wanted(space: Any, goal: Latency, p: list[np.ndarray], rule: Rule, n: int) -> np.ndarray:
    """Log probabilities of the n best of all that are allowed."""
    ratio = goal.ratio(every(space))
    low = {"band": 0.98, "limit": -np.inf, "argmax": -np.inf}[rule]
    high = np.inf if rule == "argmax" else 1.0
    allowed = every(space)[(ratio >= low - 1e-9) & (ratio <= high + 1e-9)]
    return np.sort(log_probability(allowed, p))[::-1][:n]


def check(space: SearchSpace, goal: Latency, p: list[np.ndarray], found: list[Derived]) -> None:
    """What is said of the networks is true, and they are different."""
    codes = np.stack([d.codes for d in found])
    np.testing.assert_array_equal(space.encoding.canonical(codes), codes)
    assert len(np.unique(codes, axis=0)) == len(codes)
    np.testing.assert_allclose([d.log_probability for d in found], log_probability(codes, p))
    np.testing.assert_allclose([d.ratio or 0 for d in found], goal.ratio(codes))


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every space were too large to be listed."""
    monkeypatch.setattr("hwnas.search.derive.LISTED", 0)
    monkeypatch.setattr("hwnas.search.goals.LISTED", 0)


@pytest.mark.parametrize("space", [nasbench, nested, tangled])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("combine", [None, "worst"])
def test_small_spaces_are_exact(space: Any, rule: Rule, combine: Any) -> None:
    goal = latency(space, combine=combine)
    for seed in range(3):
        p = random_probabilities(space(), seed)
        found = most_probable(space(), p, goal, rule=rule, n=7)
        check(space(), goal, p, found)
        logs = [d.log_probability for d in found]
        if rule == "argmax":
            first = space().encoding.canonical(np.array([[int(q.argmax()) for q in p]]))[0]
            np.testing.assert_array_equal(found[0].codes, first)
            assert len(found) == 7
        else:
            np.testing.assert_allclose(logs, wanted(space, goal, p, rule, 7))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("combine", [None, "weighted"])
def test_sums_over_the_decisions_are_exact_without_listing(rule: Rule, combine: Any) -> None:
    assert small().size > LISTED
    for seed, share in enumerate((0.02, 0.4, 0.9)):
        goal = latency(small, share, combine)
        p = random_probabilities(small(), seed)
        found = most_probable(small(), p, goal, rule=rule, n=6)
        check(small(), goal, p, found)
        np.testing.assert_allclose([d.log_probability for d in found], wanted(small, goal, p, rule, 6))


@pytest.mark.usefixtures("unlisted")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("space", "combine"), [(nested, None), (tangled, None), (nasbench, None), (small, "worst")])
def test_samples_and_local_search_find_the_best_elsewhere(space: Any, combine: Any, rule: Rule) -> None:
    goal = latency(space, combine=combine)
    for seed in range(2):
        p = random_probabilities(space(), seed)
        found = most_probable(space(), p, goal, rule=rule, n=4)
        check(space(), goal, p, found)
        best = wanted(space, goal, p, rule, 4)
        if rule != "argmax" or not any(d.reach != ((),) for d in space().decisions):
            assert found[0].log_probability == pytest.approx(best[0])
            assert np.mean([d.log_probability for d in found]) >= best.mean() - 0.3


@pytest.mark.usefixtures("unlisted")
def test_predictors_of_any_kind_are_searched() -> None:
    goal = latency(small)
    formula = Formula(small(), goal.goals[0].predictor.predict_codes)
    p = random_probabilities(small(), 0)
    open_goal = Latency(small(), [Goal(formula, goal.goals[0].target)])
    found = most_probable(small(), p, open_goal, rule="band", n=3)
    check(small(), goal, p, found)
    assert found[0].log_probability == pytest.approx(wanted(small, goal, p, "band", 1)[0])


@pytest.mark.usefixtures("unlisted")
def test_it_is_deterministic() -> None:
    for space in (small, nested):
        p = random_probabilities(space(), 0)
        runs = [most_probable(space(), p, latency(space), rule="band", seed=3) for _ in range(2)]
        np.testing.assert_array_equal([d.codes for d in runs[0]], [d.codes for d in runs[1]])


@pytest.mark.parametrize("space", [small, nasbench])
def test_a_factor_on_the_prediction_moves_the_band(space: Any) -> None:
    same_goal = latency(space)
    goal = Latency(space(), [Goal(table(space), 1.1 * same_goal.goals[0].target)])
    p = random_probabilities(space(), 0)
    found = most_probable(space(), p, goal, rule="band", scale=1.1)
    for derived in found:
        assert derived.ratio is not None
        assert derived.ratio == pytest.approx(1.1 * goal.ratio(derived.codes[None])[0])
        assert 0.98 - 1e-9 <= derived.ratio <= 1 + 1e-9
    same = most_probable(space(), p, same_goal, rule="band")
    np.testing.assert_array_equal([d.codes for d in found], [d.codes for d in same])


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("space", [small, nested])
@pytest.mark.parametrize(("factor", "end"), [(0.5, 0), (2.0, 1)])
def test_where_nothing_is_on_target_the_nearest_is_given(
    space: Any, listed: bool, factor: float, end: int, request: pytest.FixtureRequest
) -> None:
    if not listed:
        request.getfixturevalue("unlisted")
    values = np.sort(table(space).predict_codes(every(space)))
    target = float(factor * values[[0, -1][end]])
    goal = Latency(space(), [Goal(table(space), target)])
    found = most_probable(space(), random_probabilities(space(), 0), goal, rule="band", n=3)
    assert found[0].ratio == pytest.approx(1 / factor)
    assert not 0.98 <= (found[0].ratio or 0) <= 1
    drawn = draw_in_band(space(), goal, 4, np.random.default_rng(0), rule="band")
    assert len(drawn) == 4


def test_choices_that_are_certain_leave_others_in_reach() -> None:
    goal = latency(small)
    p = [np.eye(len(d))[0] for d in small().decisions]
    found = most_probable(small(), p, goal, rule="band")
    assert 0.98 - 1e-9 <= (found[0].ratio or 0) <= 1 + 1e-9
    assert np.isfinite(found[0].log_probability)


def test_the_architecture_at_the_end_of_the_range_is_on_target() -> None:
    for space in (small, nested):
        smallest = float(table(space).predict_codes(every(space)).min())
        found = most_probable(
            space(), random_probabilities(space(), 0), Latency(space(), [Goal(table(space), smallest)]), rule="band"
        )
        assert found[0].ratio == pytest.approx(1)


def test_without_latency_the_probable_ones_are_given() -> None:
    p = random_probabilities(nested(), 0)
    for rule in RULES:
        found = most_probable(nested(), p, None, rule=rule, n=3)
        assert [d.ratio for d in found] == [None] * 3
        np.testing.assert_array_equal(
            found[0].codes, nested().encoding.canonical(np.array([[int(q.argmax()) for q in p]]))[0]
        )


def test_no_more_than_there_are() -> None:
    goal = latency(nested)
    count = int((goal.ratio(every(nested)) <= 1 + 1e-9).sum())
    found = most_probable(nested(), random_probabilities(nested(), 0), goal, rule="limit", n=10_000)
    assert len(found) == count


# -- uniform draws


def chi_square(drawn: np.ndarray, allowed: np.ndarray) -> float:
    """Over the allowed architectures, relative to its expectation."""
    index = {row.tobytes(): i for i, row in enumerate(allowed)}
    counts = np.bincount([index[row.tobytes()] for row in drawn], minlength=len(allowed))
    expected = len(drawn) / len(allowed)
    return float(((counts - expected) ** 2 / expected).sum() / (len(allowed) - 1))


@pytest.mark.parametrize("space", [nasbench, small])
@pytest.mark.parametrize("share", [0.05, 0.7])
def test_draws_in_the_band_are_uniform(space: Any, share: float) -> None:
    """One space is listed, the other is sampled under a tilt."""
    goal = latency(space, share)
    ratio = goal.ratio(every(space))
    allowed = every(space)[(ratio >= 0.98 - 1e-9) & (ratio <= 1 + 1e-9)]
    drawn = draw_in_band(space(), goal, 4 * len(allowed), np.random.default_rng(0), rule="band")
    assert drawn.shape == (4 * len(allowed), len(space().decisions))
    assert chi_square(drawn, allowed) == pytest.approx(1, abs=0.15)


def test_draws_below_a_limit_are_uniform() -> None:
    goal = latency(small, 0.005)
    allowed = every(small)[goal.ratio(every(small)) <= 1 + 1e-9]
    drawn = draw_in_band(small(), goal, 4 * len(allowed), np.random.default_rng(0), rule="limit")
    assert chi_square(drawn, allowed) == pytest.approx(1, abs=0.2)


@pytest.mark.usefixtures("unlisted")
@pytest.mark.parametrize("share", [0.0003, 0.5])
def test_other_spaces_are_drawn_from_nearly_uniformly(share: float) -> None:
    """A target that uniform draws hardly ever meet is met by the random walk."""
    goal = latency(nasbench, share)
    drawn = draw_in_band(nasbench(), goal, 64, np.random.default_rng(0), rule="band")
    ratio = goal.ratio(drawn)
    assert ((ratio >= 0.98 - 1e-9) & (ratio <= 1 + 1e-9)).mean() > 0.9
    assert len(drawn) == 64


def test_draws_follow_the_generator() -> None:
    goal = latency(small)
    a, b, c = (draw_in_band(small(), goal, 8, np.random.default_rng(s), rule="band") for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_without_latency_draws_are_uniform_over_the_space() -> None:
    for goal, rule in ((None, "band"), (latency(nested), "argmax")):
        drawn = draw_in_band(nested(), goal, 2000, np.random.default_rng(0), rule=rule)  # type: ignore[arg-type]
        assert chi_square(drawn, every(nested)) == pytest.approx(1, abs=0.8)
