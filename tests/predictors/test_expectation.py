"""The estimated expectation, and extremes, of functions that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property

import numpy as np
import pytest
from hwnas.predictors.base import Predictor
from hwnas.predictors.control import additive_control
from hwnas.predictors.expectation import Estimate, Expectation
from hwnas.predictors.extremes import all_skip, extreme
from hwnas.profiler.additive import AdditiveModel, CostTerm
from hwnas.spaces.description import Decision
from hwnas.spaces.encoding import Encoding
from hwnas.spaces.registry import load_space
from hwnas.testing.search import Formula, made_up_table
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = (3, 4, 2)
ENCODING = Encoding("toy", [Decision(f"d{i}", "layer", tuple(f"c{j}" for j in range(n))) for i, n in enumerate(SIZES)])
WEIGHTS = [np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.1, 3.0, 1.0]), np.array([2.0, 1.0])]


def additive(codes: np.ndarray) -> np.ndarray:
    return np.asarray(5 + sum(w[c] for w, c in zip(WEIGHTS, codes.T, strict=True)))


def product(codes: np.ndarray) -> np.ndarray:
    return np.asarray(np.prod([w[c] for w, c in zip(WEIGHTS, codes.T, strict=True)], axis=0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_it_is_exact_for_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = [rng.dirichlet(np.full(n, 0.7)) for n in SIZES]
    wanted = 5 + sum(w @ q for w, q in zip(WEIGHTS, p, strict=True))
    assert Expectation(additive, ENCODING)(p) == pytest.approx(wanted, rel=2e-3)


def test_it_is_close_for_products_and_closer_with_a_control() -> None:
    rng = np.random.default_rng(1)
    table = np.einsum("i,j,k->ijk", *WEIGHTS)
    nearly = AdditiveModel(ENCODING, [CostTerm((0, 1, 2), 0.9 * table)], 1.0)
    errors = {"plain": [], "control": []}  # type: ignore[var-annotated]
    for _ in range(20):
        p = [rng.dirichlet(np.ones(n)) for n in SIZES]
        wanted = np.prod([w @ q for w, q in zip(WEIGHTS, p, strict=True)])
        for name, control in (("plain", None), ("control", nearly)):
            errors[name].append(abs(Expectation(product, ENCODING, control=control)(p) / wanted - 1))
    assert np.mean(errors["plain"]) < 0.02
    assert np.mean(errors["control"]) < 0.2 * np.mean(errors["plain"])


def test_an_estimate_tells_how_good_it_is() -> None:
    rng = np.random.default_rng(2)
    misses = []
    for seed in range(40):
        p = [rng.dirichlet(np.full(n, 3.0)) for n in SIZES]
        exact = Expectation(additive, ENCODING).estimate(p)
        assert exact.r2 == pytest.approx(1, abs=1e-6)
        assert exact.error < 1e-3
        bent = Expectation(product, ENCODING, samples=200, seed=seed).estimate(p)
        assert 0.5 < bent.r2 < 0.999
        wanted = float(np.prod([w @ q for w, q in zip(WEIGHTS, p, strict=True)]))
        misses.append((bent.expected(p) - wanted) / bent.error)
    assert 0.3 < np.std(misses) < 1.5  # errors are of the size that is told


def test_what_is_certain_is_explained() -> None:
    certain = Expectation(product, ENCODING).estimate([np.eye(n)[1] for n in SIZES])
    assert certain.r2 == 1
    assert certain.error < 1e-15


def test_a_kept_estimate_is_the_tangent() -> None:
    at = [np.array([0.3, 0.3, 0.4]), np.full(4, 0.25), np.array([0.5, 0.5])]
    kept = Expectation(product, ENCODING, samples=20_000).estimate(at)
    moved = [np.array([0.4, 0.3, 0.3]), *at[1:]]  # the product is linear in one decision's probabilities
    assert kept.moved(at) == 0
    assert kept.moved(moved) == pytest.approx(0.1)
    assert kept.moved([at[0], at[1], np.array([0.9, 0.1])]) == pytest.approx(0.4)
    assert kept.expected(moved) == pytest.approx(
        np.prod([w @ q for w, q in zip(WEIGHTS, moved, strict=True)]), rel=0.01
    )


def test_slopes_are_averaged_and_the_value_kept() -> None:
    rng = np.random.default_rng(3)
    first, second = (
        Expectation(product, ENCODING).estimate([rng.dirichlet(np.full(n, 3.0)) for n in SIZES]) for _ in range(2)
    )
    mean = second.after(first)
    assert mean.expected(second.at) == pytest.approx(second.expected(second.at))
    for own, one, other in zip(mean.weights, first.weights, second.weights, strict=True):
        np.testing.assert_allclose(own, (one + other) / 2)


def test_an_estimate_survives_as_plain_numbers() -> None:
    expectation = Expectation(product, ENCODING)
    found = expectation.estimate([np.full(n, 1 / n) for n in SIZES])
    state = json.loads(json.dumps(found.state()))
    again = Estimate.from_state(state, expectation.control)
    p = [np.eye(n)[0] for n in SIZES]
    assert again.expected(p) == found.expected(p)
    assert again.state() == found.state()


# -- the bound that the module states, on all of two spaces


class Bent(Formula):
    """As learned predictors have it, its own fit by a sum over choices and live operators is its control."""

    @cached_property
    def control(self) -> AdditiveModel:
        return additive_control(self)


def cells() -> Predictor:
    """Dead operators, and a latency that is no sum of them."""
    table = made_up_table(load_space("nasbench201"))
    return Bent(table.space, lambda codes: table.predict_codes(codes) ** 1.2)


def neighbours() -> Predictor:
    """Up to 10 % that hang on two choices in a row each."""
    table = made_up_table(load_space("proxyless-small", {"resolution": 8}))

    def latency(codes: np.ndarray) -> np.ndarray:
        bend = np.sin(1.0 + codes[:, :-1] * (codes[:, 1:] + 1.5)).mean(axis=1)
        return np.asarray(table.predict_codes(codes) * (1 + 0.1 * bend))

    return Bent(table.space, latency)


@pytest.mark.parametrize("make", [cells, neighbours])
def test_value_and_derivatives_are_within_half_a_percent_of_enumeration(make: Callable[[], Predictor]) -> None:
    torch = pytest.importorskip("torch")
    predictor = make()
    sizes = [len(d) for d in predictor.space.decisions]
    every = np.indices(sizes).reshape(len(sizes), -1).T
    values = predictor.predict_codes(predictor.space.encoding.canonical(every)).reshape(sizes)
    for seed, spread in enumerate((0.0, 1.0, 3.0)):
        start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
        found, right = start.clone().requires_grad_(), start.clone().requires_grad_()
        estimated = predictor.expectation([z.softmax(0) for z in found.split(sizes)])
        exact = torch.from_numpy(values)
        for z in right.split(sizes):
            exact = torch.tensordot(z.softmax(0), exact, 1)
        estimated.backward()
        exact.backward()
        latency = exact.item()
        assert abs(estimated.item() / latency - 1) < 0.005
        assert found.grad is not None
        assert (found.grad - right.grad).abs().max().item() < 0.005 * latency  # type: ignore[operator]
        assert (right.grad.abs().max().item() > 0.02 * latency) or spread == 3.0  # type: ignore[union-attr]


def test_extremes_of_a_product() -> None:
    assert extreme(product, ENCODING, 1).tolist() == [0, 1, 1]
    assert extreme(product, ENCODING, -1).tolist() == [2, 2, 0]


def test_all_skip_takes_the_last_of_that_name_and_follows_where_there_is_none() -> None:
    decisions = [
        Decision("a", "layer", ("none", "skip_connect", "conv")),
        Decision("b", "layer", ("k3", "k5")),
        Decision("c", "layer", ("Identity", "k3", "skip")),
        Decision("d", "input", ("0", "1")),
    ]
    row = all_skip(Encoding("x", decisions), np.array([0, 1, 0, 1]))
    assert row is not None
    assert row.tolist() == [1, 1, 2, 1]
    assert all_skip(ENCODING, np.zeros(3, int)) is None
