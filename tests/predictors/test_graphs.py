"""Architectures as graphs of operators: by hand, and against the sums that features know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.graphs import GraphBatch, GraphLayout, batch_of, column_graphs
from hwnas.predictors.regressors.base import Rows
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

TRICKY = f"{Path(__file__).parent / 'nets.py'}:tricky"
NONE, SKIP, CONV1, CONV3, POOL = range(5)
E01, E02, E03, E12, E13, E23 = range(6)
"""Nodes of a cell in the order of the network, where the decisions are in that of edges 0-1, 0-2, 1-2, 0-3, ..."""


@pytest.fixture(scope="module")
def nb201() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture(scope="module")
def tricky() -> SearchSpace:
    return load_space(TRICKY)


def graph(space: SearchSpace, *code: int) -> tuple[GraphBatch, dict[str, int]]:
    layout = GraphLayout(space.description)
    codes = space.encoding.canonical(np.array([code], np.int16))
    return layout.batch(codes), {name: i for i, name in enumerate(layout.names)}


class TestCells:
    def test_equal_cells_are_one_graph(self, nb201: SearchSpace) -> None:
        found, names = graph(nb201, *6 * [CONV3])
        assert found.nodes.shape == (1, 6, len(names))
        assert found.there.all()
        assert set(np.flatnonzero(found.reads[0, E23])) == {E02, E12}
        assert set(np.flatnonzero(found.reads[0, E12])) == {E01}
        assert set(np.flatnonzero(found.reads[0, E01])) == {E03, E13, E23}  # the sum that the cell before it gives
        np.testing.assert_array_equal(found.nodes[0, :, names["nor_conv_3x3"]], 1)
        np.testing.assert_allclose(found.nodes[0, :, names["log copies"]], np.log(15), rtol=1e-6)

    def test_a_dead_operator_says_so(self, nb201: SearchSpace) -> None:
        code = [CONV3, NONE, NONE, CONV1, NONE, SKIP]  # 0-1 feeds nothing; 2-3 sees only zeros
        found, names = graph(nb201, *code)

        def flags(node: int) -> list[float]:
            return found.nodes[0, node, [names[n] for n in ("zero", "identity", "fed", "used", "live")]].tolist()

        assert flags(E01) == [0, 0, 1, 0, 0]
        assert flags(E23) == [0, 1, 0, 1, 0]
        assert flags(E03) == [0, 0, 1, 1, 1]
        assert flags(E12) == [1, 0, 0, 1, 0]
        assert set(np.flatnonzero(found.reads[0, E12])) == {E01}  # which a runtime that executes zeros reads

    def test_amounts_are_sums_over_all_copies(self, nb201: SearchSpace) -> None:
        features = SpaceFeatures.of(nb201)
        rows = features.rows(nb201.encoding.sample(50, np.random.default_rng(0)))
        names = features.rows(np.zeros((1, 6), np.int16)).graphs.layout.names
        macs = np.expm1(batch_of(rows).nodes[:, :, names.index("log sum of MACs")].astype(float)).sum(axis=1)
        known = rows.numeric[:, rows.names.index("raw: macs")]
        np.testing.assert_allclose(macs - macs[0], known - known[0], rtol=1e-4, atol=1e-3 * known.max())


def test_a_chain_reads_what_is_before() -> None:
    space = load_space("proxyless")
    found = GraphLayout(space.description).batch(space.encoding.sample(3, np.random.default_rng(0)))
    assert found.nodes.shape[:2] == (3, 21)
    np.testing.assert_array_equal(found.reads, np.broadcast_to(np.eye(21, k=-1), (3, 21, 21)))


class TestTrickySpace:
    """Its nodes: first, then outer.deep.0 and 1, outer, tied.0 and 1, inputs."""

    def test_what_is_not_reached_is_not_there(self, tricky: SearchSpace) -> None:
        found, _ = graph(tricky, 0, 1, 0, 0, 2)
        np.testing.assert_array_equal(found.there[0], [1, 0, 0, 1, 1, 1, 1])
        assert not found.nodes[0, 1:3].any()
        assert not found.reads[0, 1:3].any()
        assert not found.reads[0, :, 1:3].any()
        assert found.reads[0, 3].tolist() == [1, 0, 0, 0, 0, 0, 0]

    def test_edges_follow_the_choice(self, tricky: SearchSpace) -> None:
        for chosen, source in ((0, 0), (1, 3), (2, 5)):
            found, _ = graph(tricky, 0, 0, 1, 0, chosen)
            assert np.flatnonzero(found.reads[0, 6]).tolist() == [source]
        assert np.flatnonzero(found.reads[0, 3]).tolist() == [2]  # through the nested choice


def test_rows_take_their_graphs_along(tricky: SearchSpace) -> None:
    rows = SpaceFeatures.of(tricky).rows(tricky.encoding.sample(20, np.random.default_rng(0)))
    whole, some = batch_of(rows), batch_of(rows.take(np.array([7, 3])))
    np.testing.assert_array_equal(some.nodes, whole.nodes[[7, 3]])
    np.testing.assert_array_equal(some.reads, whole.reads[[7, 3]])
    assert batch_of(rows.take(slice(0, 0))).nodes.shape == (0, *whole.nodes.shape[1:])


def test_columns_are_nodes_where_there_is_no_space() -> None:
    choices = np.array([[0, 1], [2, -1]], np.int16)
    found = column_graphs(Rows(choices, (3, 3), np.array([[0.5], [1.5]]), ("size",)))
    assert found.there.all()
    np.testing.assert_array_equal(found.reads[0], 1 - np.eye(3))
    own = [np.eye(3, dtype=np.float32).tolist()[i] for i in range(3)]
    assert found.nodes[0].tolist() == [[*own[0], 1, 0, 0, 0], [*own[1], 0, 1, 0, 0], [*own[2], 0, 0, 0, 0.5]]
    assert found.nodes[1].tolist() == [[*own[0], 0, 0, 1, 0], [*own[1], 0, 0, 0, 0], [*own[2], 0, 0, 0, 1.5]]
    other = column_graphs(Rows(choices[:, :1] * 0, (3,), np.empty((2, 0))))
    assert other.nodes.shape == (2, 1, 4)
    apart = column_graphs(Rows(choices, (3, 2), np.empty((2, 0))))
    assert apart.nodes.shape == (2, 2, 7)
