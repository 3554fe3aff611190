"""The estimated expectation, and extremes, of functions that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hwnas.predictors.expectation import Expectation
from hwnas.predictors.extremes import all_skip, extreme
from hwnas.spaces.description import Decision
from hwnas.spaces.encoding import Encoding
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
    errors = {"plain": [], "control": []}  # type: ignore[var-annotated]
    for _ in range(20):
        p = [rng.dirichlet(np.ones(n)) for n in SIZES]
        wanted = np.prod([w @ q for w, q in zip(WEIGHTS, p, strict=True)])
        plain = Expectation(product, ENCODING)
        helped = Expectation(
            lambda codes: 0.1 * product(codes),
            ENCODING,
            control=lambda q: 0.9 * np.prod([w @ v for w, v in zip(WEIGHTS, q, strict=True)]),
        )
        errors["plain"].append(abs(plain(p) / wanted - 1))
        errors["control"].append(abs(helped(p) / wanted - 1))
    assert np.mean(errors["plain"]) < 0.02
    assert np.mean(errors["control"]) < 0.2 * np.mean(errors["plain"])


def test_an_estimate_is_kept_until_the_probabilities_have_moved() -> None:
    calls = []

    def f(codes: np.ndarray) -> np.ndarray:
        calls.append(len(codes))
        return product(codes)

    lazy = Expectation(f, ENCODING, refresh=0.2)
    p = [np.full(n, 1 / n) for n in SIZES]
    first = lazy(p)
    nearby = [np.array([0.35, 0.33, 0.32]), *p[1:]]
    assert lazy(nearby) != first
    assert len(calls) == 1
    lazy([np.array([0.6, 0.3, 0.1]), *p[1:]])
    assert len(calls) == 2


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
