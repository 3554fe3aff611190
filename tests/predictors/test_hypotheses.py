"""What is left of a cell when a runtime merges, folds and prunes: by hand, and against a slow counterpart."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.graph_features import GraphFeatures
from hwnas.predictors.hypotheses import CONSTANT, FOLDED, HYPOTHESES, RUN, Hypothesis, count
from hwnas.predictors.segments import Operator, Segment, X, segments
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

TRICKY = f"{Path(__file__).parent / 'nets.py'}:tricky"
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NONE, SKIP, CONV1, CONV3, POOL = range(5)


@pytest.fixture(scope="module")
def nb201() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture(scope="module")
def cell(nb201: SearchSpace) -> Segment:
    (only,) = segments(nb201.description)
    return only


def counts(cell: Segment, code: list[int], hypothesis: Hypothesis) -> dict[str, float]:
    return {name: float(values[0]) for name, values in count(cell, np.array([code]), hypothesis).items()}


class TestSegments:
    def test_a_cell_is_found_as_often_as_it_occurs(self, nb201: SearchSpace, cell: Segment) -> None:
        assert segments(nb201.description) == {cell: 15}
        assert cell.decisions == (0, 1, 2, 3, 4, 5)
        assert len(cell.steps) == 6
        conv = cell.steps[0].candidates[CONV3]
        assert conv == Operator((X,), "nor_conv_3x3", weights=True, before=("relu",))

    def test_a_chain_falls_into_single_operators(self) -> None:
        found = segments(load_space("proxyless").description)
        assert len(found) == 21
        assert all(len(segment.steps) == 1 for segment in found)


class TestCounts:
    def test_equal_operators_without_weights_are_one(self, cell: Segment) -> None:
        code = [POOL, POOL, CONV1, CONV3, CONV3, CONV3]  # nodes 1 and 2 begin with the same pool
        apart, merged = (counts(cell, code, Hypothesis(RUN, own)) for own in (False, True))
        assert (apart["avg_pool_3x3"], merged["avg_pool_3x3"]) == (2, 1)
        assert (apart["nor_conv_3x3"], merged["nor_conv_3x3"]) == (3, 3)
        # Edges 1-2 and 1-3 read the same tensor through the same relu.
        assert (apart["relu"], merged["relu"]) == (4, 3)

    def test_a_sum_of_a_tensor_with_itself(self, cell: Segment) -> None:
        found = counts(cell, [SKIP, SKIP, SKIP, NONE, NONE, SKIP], Hypothesis(FOLDED, merged=True))
        assert (found["add"], found["doubled"], found["zero"], found["longest path"]) == (1, 1, 0, 1)

    def test_what_zeros_cost(self, cell: Segment) -> None:
        code = [NONE, CONV3, CONV1, SKIP, CONV1, NONE]
        run, constant, folded = (counts(cell, code, Hypothesis(own, merged=True)) for own in (RUN, CONSTANT, FOLDED))
        assert [own["zero"] for own in (run, constant, folded)] == [2, 1, 0]
        # Node 1 is zero: its convolutions act on the output (1-3) or on what is thrown away (1-2), or are not there.
        assert [own["nor_conv_1x1"] for own in (run, constant, folded)] == [2, 1, 0]
        assert [own["nor_conv_3x3"] for own in (run, constant, folded)] == [1, 0, 0]
        assert [own["add"] for own in (run, constant, folded)] == [3, 2, 0]

    def test_nothing_is_dropped_where_all_is_kept(self, cell: Segment) -> None:
        found = counts(cell, [CONV3, CONV3, CONV3, SKIP, NONE, NONE], HYPOTHESES[0])
        assert (found["nor_conv_3x3"], found["add"], found["zero"]) == (3, 3, 2)

    @pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda own: own.name)
    def test_they_are_those_of_a_graph_built_one_by_one(self, cell: Segment, hypothesis: Hypothesis) -> None:
        codes = np.random.default_rng(0).integers(0, 5, size=(300, 6))
        codes[:, 3] = np.maximum(codes[:, 3], SKIP)  # connected
        found = count(cell, codes, hypothesis)
        names = [name for name in found if name != "tensors at once"]
        for i, code in enumerate(codes.tolist()):
            wanted = slow(tuple(code), hypothesis)
            assert {name: found[name][i] for name in names} == {name: wanted[name] for name in names}, code


@cache
def slow(code: tuple[int, ...], hypothesis: Hypothesis) -> dict[str, float]:
    """The cell of one architecture, operator by operator."""
    graph = _Graph(hypothesis)
    values: list[Any] = [graph.add("input")]
    for target in (1, 2, 3):
        total: Any = None
        for (source, end), op in zip(EDGES, code, strict=True):
            if end == target:
                one = graph.edge(op, values[source])
                total = one if total is None else total if one is None else graph.add("add", total, one)
        values.append(total)
    return graph.counts(values[3])


class _Graph:
    def __init__(self, hypothesis: Hypothesis) -> None:
        self.hypothesis = hypothesis
        self.nodes: list[tuple[str, tuple[int, ...]]] = []
        self.known: dict[Any, int] = {}

    def add(self, kind: str, *inputs: Any) -> int:
        inputs = tuple(sorted(inputs)) if self.hypothesis.merged else inputs
        own = self.hypothesis.merged and "conv" not in kind
        key = (kind, inputs) if own else (kind, inputs, len(self.nodes))
        if key not in self.known:
            self.known[key] = len(self.nodes)
            self.nodes.append((kind, inputs))
        return self.known[key]

    def edge(self, op: int, value: int | None) -> int | None:
        if op == NONE:
            zeros = {RUN: lambda: self.add("zero", value), CONSTANT: lambda: self.add("zero"), FOLDED: lambda: None}
            return zeros[self.hypothesis.zeros]()  # type: ignore[no-any-return,no-untyped-call]
        if value is None or op == SKIP:
            return value
        if op == POOL:
            return self.add("avg_pool_3x3", value)
        return self.add("nor_conv_1x1" if op == CONV1 else "nor_conv_3x3", self.add("relu", value))

    def counts(self, output: int) -> dict[str, float]:
        live, waiting = set(range(len(self.nodes))), [output]
        if self.hypothesis.pruned:
            live = set()
            while waiting:
                live.add(i := waiting.pop())
                waiting += [u for u in self.nodes[i][1] if u not in live]
        depth: dict[int, int] = {}
        readers: dict[int, list[str]] = {i: [] for i in live}
        for i in sorted(live):
            depth[i] = 1 + max((depth[u] for u in self.nodes[i][1]), default=-1)
            for u in self.nodes[i][1]:
                readers[u].append(self.nodes[i][0])
        kinds = [self.nodes[i][0] for i in live]
        names = ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "relu", "add", "zero")
        read = {i: (self.nodes[i][0][:8], readers[i]) for i in live}
        return {
            **{name: kinds.count(name) for name in names},
            "doubled": sum(n == "add" and len(set(own)) == 1 for n, own in (self.nodes[i] for i in live)),
            "longest path": depth[output],
            "weights to add": sum(own == ("nor_conv", ["add"]) for own in read.values()),
            "weights to plain": sum(own == ("nor_conv", ["relu"]) for own in read.values()),
            "add to plain": sum(own == ("add", ["relu"]) for own in read.values()),
        }


class TestGraphFeatures:
    def test_each_hypothesis_is_a_block_of_the_rows(self, nb201: SearchSpace, cell: Segment) -> None:
        codes = nb201.encoding.sample(40, np.random.default_rng(0))
        rows = SpaceFeatures.of(nb201).rows(codes)
        assert [block.name for block in rows.blocks] == [h.name for h in HYPOTHESES]
        for block, hypothesis in zip(rows.blocks, HYPOTHESES, strict=True):
            assert all(rows.names[i].startswith(f"{hypothesis.name}: ") for i in (*block.core, *block.more))
            pools = next(i for i in block.core if rows.names[i].endswith("avg_pool_3x3"))
            np.testing.assert_array_equal(rows.numeric[:, pools], 15 * count(cell, codes, hypothesis)["avg_pool_3x3"])
        assert rows.blocks[0].choices == tuple(range(6))
        assert rows.blocks[3].choices == tuple(range(6, 12))

    def test_a_chain_has_none(self) -> None:
        space = load_space("proxyless")
        assert GraphFeatures(space).hypotheses == ()
        rows = SpaceFeatures.of(space).rows(space.encoding.sample(5, np.random.default_rng(0)))
        assert rows.blocks == ()
        assert rows.names[-1] == "depth"

    def test_choices_inside_choices(self) -> None:
        space = load_space(TRICKY)
        own = GraphFeatures(space)
        codes = space.encoding.sample(50, np.random.default_rng(0))
        found = own.matrix(codes)
        assert found.shape == (50, len(own.names))
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(own.matrix(codes[::-1]), found[::-1])
