"""Which networks calibrate: every candidate soon, no network twice, the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest
from hwnas.profiler.designs import designed, held_out, network_key, uniform
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.zoo import ZOO

SPACES = ["residual", "transformer", "darts", "nested", "strided", "nasbench201", "proxyless-small"]


@pytest.fixture(scope="module", params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return ZOO[request.param]() if request.param in ZOO else load_space(request.param)


def ends(space: SearchSpace) -> np.ndarray:
    return space.encoding.sample(2, np.random.default_rng(7))


def test_each_candidate_occurs_after_as_many_rows_as_there_are(space: SearchSpace) -> None:
    first = np.unique(ends(space), axis=0)
    n = len(first) + max(map(len, space.decisions))
    rows = designed(space.encoding, n, ends=first)
    for d, decision in enumerate(space.decisions):
        if () in decision.reach:
            assert set(range(len(decision))) <= set(rows[:, d].tolist()), decision.label


@pytest.mark.parametrize("n", [1, 5, 20, 60])
def test_rows_are_different_valid_and_as_many_as_there_can_be(space: SearchSpace, n: int) -> None:
    for given in (None, ends(space)):
        rows = designed(space.encoding, n, ends=given)
        assert len(rows) <= n
        assert len(rows) == n or space.size < 10 * n
        assert len(np.unique(rows, axis=0)) == len(rows)
        np.testing.assert_array_equal(space.encoding.canonical(rows), rows)


def test_the_ends_come_first_and_more_rows_go_on_where_fewer_stop(space: SearchSpace) -> None:
    given = ends(space)
    rows = designed(space.encoding, 20, ends=given)
    np.testing.assert_array_equal(rows[:2], given)
    np.testing.assert_array_equal(designed(space.encoding, 8, ends=given), rows[:8])


def test_designs_are_the_same_every_time(space: SearchSpace) -> None:
    np.testing.assert_array_equal(designed(space.encoding, 20), designed(space.encoding, 20))
    taken = designed(space.encoding, 10)
    first, same, other = (held_out(space.encoding, 8, seed, taken) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_held_out_rows_are_no_others_and_not_among_those_taken(space: SearchSpace) -> None:
    taken = designed(space.encoding, 10)
    rows = held_out(space.encoding, 8, 0, taken)
    assert len(rows) == min(8, space.size - len(taken))
    both = np.concatenate([rows, taken])
    assert len(np.unique(both, axis=0)) == len(both)
    np.testing.assert_array_equal(space.encoding.canonical(rows), rows)


def test_a_space_may_be_used_up() -> None:
    encoding = ZOO["instance"]().encoding
    everything = np.concatenate(list(encoding.enumerate()))
    assert held_out(encoding, 5, 0, everything).shape == (0, len(encoding.decisions))
    assert len(designed(encoding, 50)) == len(everything)


def test_uniform_rows_have_one_operator_throughout() -> None:
    space = load_space("nasbench201")
    chosen = [set(a.choices.values()) for a in space.decode(uniform(space.encoding))]
    assert sorted(map(sorted, chosen)) == sorted([[name] for name in space.decisions[0].candidates])


def test_a_network_s_key_tells_networks_and_settings_apart() -> None:
    space = ZOO["residual"]()
    a, b = space.sample(2, np.random.default_rng(0))
    assert a != b
    assert network_key(a, 1, "fp32") == network_key(space.decode(space.encode([a]))[0], 1, "fp32")
    assert len({network_key(a, 1, "fp32"), network_key(b, 1, "fp32"), network_key(a, 8, "fp32")}) == 3
    assert network_key(a, 8, "fp32").startswith("network residual b8 fp32 #")
