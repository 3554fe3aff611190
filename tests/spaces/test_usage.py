"""What the description says a network uses, against what the plain network computes when it is traced."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hwnas.spaces import usage as usage_module
from hwnas.spaces.description import SpaceDescription, SpaceError
from hwnas.spaces.encoding import Codes
from hwnas.spaces.registry import load_space, space_names
from hwnas.spaces.space import SearchSpace
from hwnas.spaces.usage import Term, liveness, terms, usage
from hwnas.testing.random_spaces import random_space
from hwnas.testing.reference import called_workloads, digests
from hwnas.testing.zoo import ZOO

EVERY = [*ZOO, *space_names()]


def make(name: str) -> SearchSpace:
    return ZOO[name]() if name in ZOO else load_space(name)


def costs(description: SpaceDescription, seed: int = 0) -> np.ndarray:
    """A random cost for each workload, and 0 for none."""
    return np.append(np.random.default_rng(seed).random(len(description.workloads)), 0.0)


def dense(term: Term, cost: np.ndarray) -> np.ndarray:
    return np.asarray(cost[term.workloads].sum(axis=0).reshape(term.sizes))


def by_terms(found: list[Term], codes: Codes, cost: np.ndarray) -> np.ndarray:
    total = np.zeros(len(codes))
    for term in found:
        index = [np.maximum(codes[:, d], 0) for d in term.decisions]
        if term.classes is not None:
            index = [np.array(own)[column] for own, column in zip(term.classes, index, strict=True)]
        total += dense(term, cost)[tuple(index)] if index else dense(term, cost)
    return total


def by_usage(space: SearchSpace, codes: Codes, cost: np.ndarray, *, live: bool) -> np.ndarray:
    return np.asarray(cost[usage(space.description, codes, live=live)].sum(axis=1))


def expectation(found: list[Term], probabilities: list[np.ndarray], cost: np.ndarray) -> float:
    total = 0.0
    for term in found:
        rest = dense(term, cost)
        for axis, d in enumerate(term.decisions):
            p = probabilities[d]
            if term.classes is not None:
                p = np.bincount(term.classes[axis], weights=p)
            rest = np.tensordot(p, rest, axes=1)
        total += float(rest)
    return total


def check_against_networks(space: SearchSpace, n: int) -> None:
    for architecture in space.sample(n, np.random.default_rng(1)):
        codes = space.encode([architecture])
        for live in (True, False):
            said = digests(space, usage(space.description, codes, live=live)[0].tolist())
            assert said == called_workloads(space, architecture, live=live), architecture


@pytest.mark.parametrize("name", EVERY)
def test_usage_is_what_the_network_computes(name: str) -> None:
    check_against_networks(make(name), 8 if name in ZOO else 2)


@pytest.mark.parametrize("seed", range(25))
def test_usage_in_random_spaces(seed: int) -> None:
    check_against_networks(random_space(seed), 3)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("name", EVERY)
def test_terms_agree_with_usage(name: str, classes: bool, live: bool) -> None:
    space = make(name)
    every = np.concatenate(list(space.encoding.enumerate())) if space.size < 5000 else None
    codes = space.encoding.sample(500, np.random.default_rng(2)) if every is None else every
    cost = costs(space.description)
    found = terms(space.description, live=live, classes=classes)
    np.testing.assert_allclose(by_terms(found, codes, cost), by_usage(space, codes, cost, live=live))


@pytest.mark.parametrize("seed", range(25))
def test_terms_in_random_spaces(seed: int) -> None:
    space = random_space(seed)
    codes = space.encoding.sample(100, np.random.default_rng(3))
    cost = costs(space.description)
    for live in (True, False):
        found = terms(space.description, live=live, classes=True)
        np.testing.assert_allclose(by_terms(found, codes, cost), by_usage(space, codes, cost, live=live))


@pytest.mark.parametrize("name", ["audio", "graph", "nested", "shared", "strided", "instance"])
def test_expectation_is_the_mean_over_all(name: str) -> None:
    """With a probability for each candidate, an architecture's is the product over the choices it reaches."""
    space = make(name)
    rng = np.random.default_rng(4)
    probabilities = [rng.dirichlet(np.ones(len(d))) for d in space.decisions]
    codes = np.concatenate(list(space.encoding.enumerate()))
    weights = np.array([math.prod(p[c] for p, c in zip(probabilities, row, strict=True) if c >= 0) for row in codes])
    assert weights.sum() == pytest.approx(1)
    cost = costs(space.description)
    for live, classes in itertools.product([True, False], repeat=2):
        found = terms(space.description, live=live, classes=classes)
        mean = weights @ by_usage(space, codes, cost, live=live)
        assert expectation(found, probabilities, cost) == pytest.approx(mean)


@pytest.mark.parametrize("name", EVERY)
def test_every_workload_is_used_somewhere(name: str) -> None:
    space = make(name)
    codes = space.encoding.sample(3000, np.random.default_rng(5))
    used = set(np.unique(usage(space.description, codes, live=False)).tolist()) - {-1}
    assert used == set(range(len(space.workloads())))


def test_classes_save_entries_where_candidates_act_alike() -> None:
    space = make("darts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage_module, "MERGE_LIMIT", 0)
        patch.setattr(usage_module, "EXPAND_LIMIT", 0)
        few, many = (terms(space.description, live=True, classes=c) for c in (True, False))
    assert 0 < 3 * sum(t.workloads.size for t in few) < sum(t.workloads.size for t in many)
    codes, cost = space.encoding.sample(300, np.random.default_rng(6)), costs(space.description)
    np.testing.assert_allclose(by_terms(few, codes, cost), by_terms(many, codes, cost))


def test_only_large_terms_have_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    space = make("darts")
    sizes = sorted(math.prod(t.sizes) for t in terms(space.description, live=True))
    monkeypatch.setattr(usage_module, "EXPAND_LIMIT", sizes[-1] - 1)
    found = terms(space.description, live=True, classes=True)
    expanded = [math.prod(map(len, t.classes)) for t in found if t.classes is not None]
    assert set(expanded) == {sizes[-1]}
    assert sorted([*expanded, *(math.prod(t.sizes) for t in found if t.classes is None)]) == sizes


def test_too_many_combinations_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "TERM_LIMIT", 100)
    with pytest.raises(SpaceError, match=r"combinations of 7 choices \('0-2', .*too many to hold"):
        terms(make("darts").description, live=True)


def test_liveness_of_a_third_of_nasbench201() -> None:
    """Edges that `none` cuts off: about a third of the architectures have an operator that nothing uses or feeds."""
    space = load_space("nasbench201")
    codes = np.concatenate(list(space.encoding.enumerate()))[::7]
    raw, alive = (usage(space.description, codes, live=live) >= 0 for live in (False, True))
    assert (alive <= raw).all()
    assert (alive <= liveness(space.description, codes)).all()
    cells = [v for v, node in enumerate(space.description.nodes) if node.path.startswith("cells.0.")]
    dead = (raw[:, cells] & ~alive[:, cells]).any(axis=1).mean()
    assert 0.25 < dead < 0.45
