"""The tilt: exact where the target can be reached, the smallest change of the probabilities that gets there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hwnas.predictors.lut import LutPredictor
from hwnas.search.goals import Goal, Latency
from hwnas.search.tilt import TOLERANCE, Tilt, root, softmax, solve
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.random_spaces import random_space
from hwnas.testing.search import made_up_table
from hwnas.tests.search.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

SPACES = ("proxyless-small", "nasbench201", "nested", "random2", "random3", "random6")


@cache
def space_of(name: str) -> SearchSpace:
    if name == "nested":
        return tiny_space("nested")
    if name.startswith("random"):
        return random_space(int(name.removeprefix("random")))
    return load_space(name, {"resolution": 8} if name == "proxyless-small" else {})


@cache
def table_of(name: str, seed: int) -> LutPredictor:
    return made_up_table(space_of(name), seed)


@cache
def values(name: str, seed: int) -> np.ndarray:
    codes = np.concatenate(list(space_of(name).encoding.enumerate()))
    return table_of(name, seed).predict_codes(codes)


def latency_at(name: str, *shares: float) -> Latency:
    """A goal for each share of the range of another table."""
    goals = []
    for seed, share in enumerate(shares):
        low, high = values(name, seed).min(), values(name, seed).max()
        goals.append(Goal(table_of(name, seed), float(low + share * (high - low))))
    return Latency(space_of(name), goals, "worst")


def random_logits(latency: Latency, rng: np.random.Generator, spread: float) -> np.ndarray:
    mask = latency.ratios.mask
    return np.where(mask, spread * rng.standard_normal(mask.shape), -np.inf)


def tilted(latency: Latency, logits: np.ndarray, limit: bool = False) -> Tilt:
    return solve(latency.ratios, logits, limit=limit, ends=lambda: latency.range()[2:])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SPACES),
    st.sampled_from([0.0, 1e-5, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0]),
    st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    st.integers(0, 1000),
)
def test_the_expected_latency_lands_exactly(name: str, share: float, spread: float, seed: int) -> None:
    latency = latency_at(name, share)
    logits = random_logits(latency, np.random.default_rng(seed), spread)
    tilt = tilted(latency, logits)
    q = latency.ratios.split(softmax(logits - tilt.shift))
    assert latency.expected_ratio(q) == pytest.approx(1, abs=1e-9)
    assert tilt.ratio == pytest.approx(1, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPACES), st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.integers(0, 1000))
def test_a_limit_changes_nothing_below_it_and_lands_on_it_from_above(name: str, share: float, seed: int) -> None:
    latency = latency_at(name, share)
    logits = random_logits(latency, np.random.default_rng(seed), 2.0)
    before = latency.expected_ratio(latency.ratios.split(softmax(logits)))
    tilt = tilted(latency, logits, limit=True)
    after = latency.expected_ratio(latency.ratios.split(softmax(logits - tilt.shift)))
    if before <= 1:
        assert (tilt.shift == 0).all()
        assert (tilt.multipliers == 0).all()
    else:
        assert after == pytest.approx(1, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["proxyless-small", "nested", "nasbench201"]),
    st.tuples(st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.3, 0.5, 0.8])),
    st.booleans(),
    st.sampled_from([0.1, 3.0]),
    st.integers(0, 1000),
)
def test_the_worst_of_two_devices_is_held(
    name: str, shares: tuple[float, float], limit: bool, spread: float, seed: int
) -> None:
    latency = latency_at(name, *shares)
    logits = random_logits(latency, np.random.default_rng(seed), spread)
    before = latency.expected_ratio(latency.ratios.split(softmax(logits)))
    tilt = tilted(latency, logits, limit)
    after = latency.expected_ratio(latency.ratios.split(softmax(logits - tilt.shift)))
    assert after == pytest.approx(before if limit and before <= 1 else 1, abs=1e-9)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_tilt_is_mu_times_the_slopes_where_it_leads_to(name: str, share: float) -> None:
    latency = latency_at(name, share)
    ratios = latency.ratios
    logits = random_logits(latency, np.random.default_rng(3), 1.0)
    tilt = tilted(latency, logits)
    _, slopes = ratios(softmax(logits - tilt.shift))
    for shift, slope in zip(ratios.split(tilt.shift), ratios.split(slopes[0]), strict=True):
        difference = shift - tilt.multipliers[0] * slope  # a constant of a decision has no effect
        np.testing.assert_allclose(difference, difference[0], atol=1e-4 * max(1, np.abs(tilt.shift).max()))


def test_of_two_devices_only_those_at_their_target_have_a_multiplier() -> None:
    latency = latency_at("proxyless-small", 0.2, 0.95)
    logits = np.where(latency.ratios.mask, 0.0, -np.inf)
    tilt = tilted(latency, logits)
    assert tilt.multipliers[0] > 0
    assert tilt.multipliers[1] == 0
    ratios = latency.ratios(softmax(logits - tilt.shift))[0]
    assert ratios[0] == pytest.approx(1, abs=1e-9)
    assert ratios[1] < 1


def test_two_devices_that_both_bind_are_both_at_their_targets() -> None:
    latency = latency_at("proxyless-small", 0.3, 0.3)
    logits = np.where(latency.ratios.mask, 0.0, -np.inf)
    tilt = tilted(latency, logits, limit=True)
    assert (tilt.multipliers > 0).all()
    np.testing.assert_allclose(latency.ratios(softmax(logits - tilt.shift))[0], 1, atol=1e-9)


def test_nothing_on_target_is_nearer_to_the_probabilities() -> None:
    """The Kullback-Leibler divergence of random distributions that are on target, too, is larger."""
    latency = latency_at("proxyless-small", 0.3)
    rng = np.random.default_rng(0)
    logits = random_logits(latency, rng, 1.0)
    p = softmax(logits)

    def divergence(q: np.ndarray) -> float:
        return float((q * np.log(np.maximum(q, 1e-300) / np.maximum(p, 1e-300))).sum())

    tilt = tilted(latency, logits)
    best = divergence(softmax(logits - tilt.shift))
    for spread in (0.01, 0.1, 1.0):
        other = logits - tilt.shift + np.where(latency.ratios.mask, spread * rng.standard_normal(p.shape), 0.0)
        back = tilted(latency, other)
        assert divergence(softmax(other - back.shift)) > best


def test_targets_out_of_reach_are_approached() -> None:
    for name in ("proxyless-small", "nested"):
        for share, end in ((-0.3, 0), (1.3, 1)):
            latency = latency_at(name, share)
            logits = random_logits(latency, np.random.default_rng(0), 1.0)
            tilt = tilted(latency, logits)
            assert np.isfinite(tilt.shift).all()
            assert tilt.ratio == pytest.approx(latency.range()[end], rel=1e-3)


def test_roots() -> None:
    assert root(lambda x: x**3 - 2, 0, 2) == pytest.approx(2 ** (1 / 3), abs=1e-9)
    assert root(lambda x: 1e9 * (x - 0.3), 0, 1) == pytest.approx(0.3, abs=1e-12)
    step = root(lambda x: np.tanh(1e6 * (x - 0.7123)), 0, 1)
    assert abs(np.tanh(1e6 * (step - 0.7123))) < 2 * TOLERANCE
    assert root(lambda x: x + 1, 0, 1) == 0
    assert root(lambda x: x - 2, 0, 1) == 1
    assert root(lambda x: x, 0, 1) == 0
