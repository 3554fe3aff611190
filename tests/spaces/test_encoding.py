"""Architectures as integers: both ways, counted, sampled and listed, with nested and tied decisions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hwnas.spaces.architecture import Architecture, ArchitectureError
from hwnas.spaces.description import Decision, SpaceError
from hwnas.spaces.encoding import Encoding
from hwnas.testing.zoo import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st

NESTED = (
    Decision("outer", "layer", ("a", "b", "c")),
    Decision("inner", "layer", ("x", "y"), (((0, 1),),)),
    Decision("deep", "layer", ("1", "2", "3"), (((0, 1), (1, 0)),)),
    Decision("other", "layer", ("p", "q")),
    Decision("tied", "input", ("0", "1", "0,1"), (((0, 2),), ((3, 1),))),
)


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    """Decisions of which each may depend on candidates of earlier ones."""
    decisions: list[Decision] = []
    for i in range(draw(st.integers(1, 5))):
        candidates = tuple(str(c) for c in range(draw(st.integers(1, 4))))
        reach: list[tuple[tuple[int, int], ...]] = []
        for _ in range(draw(st.integers(0, 2)) if i else 0):
            parents = draw(st.lists(st.integers(0, i - 1), min_size=1, max_size=2, unique=True))
            reach.append(tuple((j, draw(st.integers(0, len(decisions[j]) - 1))) for j in parents))
        decisions.append(Decision(f"d{i}", "layer", candidates, tuple(reach) or ((),)))
    shuffled = draw(st.permutations(range(len(decisions))))
    place = {old: new for new, old in enumerate(shuffled)}
    return Encoding(
        "s",
        [
            Decision(d.label, d.kind, d.candidates, tuple(tuple((place[j], c) for j, c in cond) for cond in d.reach))
            for d in (decisions[old] for old in shuffled)
        ],
    )


def brute_force(encoding: Encoding) -> set[tuple[int, ...]]:
    every = np.indices([len(d) for d in encoding.decisions]).reshape(len(encoding.decisions), -1).T
    return set(map(tuple, encoding.canonical(every).tolist()))


@given(encodings(), st.integers(1, 9))
@settings(deadline=None)
def test_counted_listed_and_sampled_alike(encoding: Encoding, seed: int) -> None:
    expected = brute_force(encoding)
    listed = [tuple(row) for block in encoding.enumerate() for row in block.tolist()]
    assert len(listed) == encoding.size == len(expected)
    assert set(listed) == expected
    sampled = encoding.sample(50, np.random.default_rng(seed))
    assert sampled.dtype == np.int16
    assert set(map(tuple, sampled.tolist())) <= expected


@given(encodings(), st.integers(0, 9))
@settings(deadline=None)
def test_both_ways(encoding: Encoding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = encoding.sample(20, rng)
    architectures = encoding.decode(codes)
    np.testing.assert_array_equal(encoding.encode(architectures), codes)
    assert [Architecture.from_json(a.to_json()) for a in architectures] == architectures
    # the same network, whatever stands where nothing is reached
    noise = rng.integers(0, 4, codes.shape).astype(np.int16)
    assert encoding.decode(np.where(codes < 0, noise, codes)) == architectures
    distinct = {tuple(row) for row in codes.tolist()}
    assert len(set(architectures)) == len(distinct)


def test_size_of_a_nested_space() -> None:
    encoding = Encoding("s", NESTED)
    assert encoding.size == len(brute_force(encoding)) == (1 + 4 + 3) + 3 * (1 + 4 + 1)


def chi_square(found: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """In units of its standard deviation from its mean."""
    assert set(found) <= set(expected)
    statistic = sum((found[row] - e) ** 2 / e for row, e in expected.items())
    degrees = len(expected) - 1
    return float((statistic - degrees) / np.sqrt(2 * degrees))


@pytest.mark.parametrize("name", ["constructed", "nested", "transformer", "graph"])
def test_uniform_over_architectures(name: str) -> None:
    encoding = Encoding("s", NESTED) if name == "constructed" else ZOO[name]().encoding
    n = 100 * encoding.size
    found = Counter(map(tuple, encoding.sample(n, np.random.default_rng(7)).tolist()))
    assert abs(chi_square(found, dict.fromkeys(brute_force(encoding), n / encoding.size))) < 4


def test_weighted_sampling() -> None:
    """Each choice that is reached is drawn from its own probabilities."""
    encoding = Encoding("s", NESTED)
    rng = np.random.default_rng(8)
    probabilities = [rng.dirichlet(np.ones(len(d))) for d in NESTED]
    n = 20_000
    expected = {
        row: n * float(np.prod([p[c] for p, c in zip(probabilities, row, strict=True) if c >= 0]))
        for row in brute_force(encoding)
    }
    assert sum(expected.values()) == pytest.approx(n)
    found = Counter(map(tuple, encoding.sample(n, rng, probabilities).tolist()))
    assert abs(chi_square(found, expected)) < 4


def test_certain_candidates_are_the_only_ones_drawn() -> None:
    encoding = Encoding("s", NESTED)
    certain = [np.eye(len(d))[-1] for d in NESTED]
    drawn = encoding.sample(1000, np.random.default_rng(9), certain)
    assert {tuple(row) for row in drawn.tolist()} == {(2, -1, -1, 1, 2)}


def test_same_seed_same_sample() -> None:
    encoding = ZOO["nested"]().encoding
    one, other = (encoding.sample(100, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "probabilities", [[], [[0.5, 0.5]] * 5, [[1.0, 0, 0], [0.5, 0.6], [1, 0, 0], [1, 0], [1, 0, 0]]]
)
def test_bad_probabilities(probabilities: list[list[float]]) -> None:
    with pytest.raises(SpaceError, match="probabilit"):
        Encoding("s", NESTED).sample(1, np.random.default_rng(0), [np.array(p) for p in probabilities])


def test_one_label_under_many_parents_is_counted() -> None:
    """Twenty-four layers with or without a block, whose heads are tied: 2 x (2^24 - 1) + 1."""
    layers = [Decision(f"layer{i}", "layer", ("skip", "block")) for i in range(24)]
    heads = Decision("heads", "layer", ("2", "4"), tuple(((i, 1),) for i in range(24)))
    encoding = Encoding("s", [*layers, heads])
    assert encoding.size == 2 * (2**24 - 1) + 1
    drawn = encoding.sample(2000, np.random.default_rng(1))
    assert abs(drawn[:, :-1].mean() - 0.5) < 0.01
    with pytest.raises(SpaceError, match=r"about 10\^8 architectures"):
        next(encoding.enumerate())


def test_huge_spaces() -> None:
    encoding = Encoding("s", [Decision(str(i), "layer", tuple("abcdefghij")) for i in range(400)])
    assert encoding.size == 10**400
    assert encoding.sample(3, np.random.default_rng(0)).shape == (3, 400)
    with pytest.raises(SpaceError, match=r"about 10\^400 architectures"):
        next(encoding.enumerate())


def test_labels_nested_in_each_other() -> None:
    circle = [Decision("a", "layer", ("0", "1"), (((1, 0),),)), Decision("b", "layer", ("0",), (((0, 1),),))]
    with pytest.raises(SpaceError, match=r"nested in each other \('a', 'b'\)"):
        _ = Encoding("s", circle).size


@pytest.mark.parametrize(
    ("space", "choices", "message"),
    [
        ("t", {"outer": "a", "other": "p"}, "is of space 't', not 's'"),
        ("s", {"outr": "a", "other": "p"}, "no choice 'outr'; it has outer, inner, deep, other, tied"),
        ("s", {"outer": "z", "other": "p"}, r"choice 'outer' has no candidate 'z'; it has a \| b \| c"),
        ("s", {"outer": "c", "other": "p", "tied": (0, 2)}, r"'tied' has no candidate '0,2'; it has 0 \| 1 \| 0,1"),
        ("s", {"outer": "c", "other": "p", "tied": (0, 0)}, "'tied' has no candidate '0,0'"),
        ("s", {"outer": "c", "other": "p", "tied": "0"}, "'tied' takes a list of inputs"),
        ("s", {"outer": (0,), "other": "p"}, "'outer' takes a candidate's name"),
        ("s", {"outer": "a"}, r"lacks choice 'other'; it has p \| q"),
        ("s", {"outer": "b", "inner": "y", "deep": "1", "other": "p"}, "decides 'deep', which .* do not reach"),
    ],
)
def test_architectures_that_do_not_fit(space: str, choices: dict[str, str | tuple[int, ...]], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Encoding("s", NESTED).encode([Architecture(space, choices)])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 0, 0]], r"shape \(N, 5\), not int64 \(1, 3\)"),
        ([0, 0, 0, 0, 0], "shape"),
        ([[0.0] * 5], "must be integers"),
        ([[0, 0, 0, 0, 0], [3, 0, 0, 0, 0]], "row 1: choice 'outer' has no candidate number 3; there are 3"),
        ([[-1, 0, 0, 0, 0]], "row 0: choice 'outer' has no candidate number -1"),
    ],
)
def test_codes_that_do_not_fit(codes: list[object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Encoding("s", NESTED).decode(np.array(codes))


def test_no_architectures_at_all() -> None:
    encoding = Encoding("s", NESTED)
    assert encoding.encode([]).shape == (0, 5)
    assert encoding.decode(np.empty((0, 5), np.int16)) == []
    assert encoding.sample(0, np.random.default_rng(0)).shape == (0, 5)
