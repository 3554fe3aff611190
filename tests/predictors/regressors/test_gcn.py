"""What a graph network says and what it must not depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.graphs import GraphBatch, batch_of
from hwnas.predictors.regressors.base import Rows
from hwnas.predictors.regressors.gcn import Gcn
from hwnas.spaces.registry import load_space


@dataclass(frozen=True)
class Reordered:
    """Graphs with their nodes in another order."""

    graphs: Any
    order: tuple[int, ...]

    def __getitem__(self, index: Any) -> Reordered:
        return Reordered(self.graphs[index], self.order)

    def batch(self) -> GraphBatch:
        found, order = self.graphs.batch(), list(self.order)
        return GraphBatch(found.nodes[:, order], found.reads[:, order][:, :, order], found.there[:, order])


@pytest.fixture(scope="module")
def rows() -> Rows:
    space = load_space("nasbench201")
    features = SpaceFeatures.of(space)
    codes = space.encoding.sample(500, np.random.default_rng(0))
    return features.rows(codes[features.alive(codes)][:400])


def bare(rows: Rows) -> Rows:
    """Graphs and nothing else."""
    return Rows(np.empty((len(rows), 0), np.int16), (), np.empty((len(rows), 0)), graphs=rows.graphs)


def convs(rows: Rows, which: str) -> np.ndarray:
    return rows.numeric[:, rows.names.index(f"{which}: nor_conv_3x3")]


def test_the_order_of_nodes_does_not_matter(rows: Rows) -> None:
    y = 1 + 0.02 * convs(rows, "raw")
    fitted = Gcn(members=2, width=8).fit(rows.take(slice(80)), y[:80], np.random.default_rng(0))
    fitted.units = fitted.units + 0.1  # so that what the network says does count
    new = rows.take(slice(80, 180))
    order = tuple(np.random.default_rng(1).permutation(6).tolist())
    other = replace(new, graphs=Reordered(new.graphs, order))
    assert (batch_of(other).reads != batch_of(new).reads).any()
    np.testing.assert_allclose(fitted.predict(other), fitted.predict(new), rtol=1e-5)
    reversed_edges = replace(new, graphs=Turned(new.graphs))
    assert np.abs(fitted.predict(reversed_edges) / fitted.predict(new) - 1).max() > 1e-3


@dataclass(frozen=True)
class Turned(Reordered):
    """Graphs with their edges turned round."""

    order: tuple[int, ...] = ()

    def __getitem__(self, index: Any) -> Turned:
        return Turned(self.graphs[index])

    def batch(self) -> GraphBatch:
        found = self.graphs.batch()
        return replace(found, reads=found.reads.transpose(0, 2, 1))


@pytest.mark.parametrize("which", ["raw", "live"])
def test_the_data_decide_whether_dead_operators_cost(rows: Rows, which: str) -> None:
    y = 1 + 0.02 * convs(rows, which)
    known, new = bare(rows).take(slice(250)), bare(rows).take(slice(250, None))
    found = Gcn(members=2, width=16).fit(known, y[:250], np.random.default_rng(0)).predict(new)
    dead = (convs(rows, "raw") > convs(rows, "live"))[250:]
    assert dead.sum() > 10
    error = np.abs(found / y[250:] - 1)
    assert np.median(error[dead]) < 0.03
    assert np.median(error) < 0.02


def test_held_out_predictions_do_not_know_their_row(rows: Rows) -> None:
    few = rows.take(slice(60))
    y = 1 + 0.02 * convs(few, "raw")
    odd = y.copy()
    odd[7] *= 2
    plain, other = (Gcn(members=4, width=8).fit(few, own, np.random.default_rng(0)).held_out for own in (y, odd))
    assert plain is not None
    assert other is not None
    assert other[7] == pytest.approx(plain[7], rel=0.05)
    assert other[7] < 0.8 * odd[7]


def test_what_does_not_help_is_left_out(rows: Rows) -> None:
    few = rows.take(slice(60))
    y = 1 + 0.02 * convs(few, "raw")
    noisy = y * np.random.default_rng(2).normal(1, 0.1, 60)
    fitted = Gcn(members=4, width=8).fit(few, noisy, np.random.default_rng(0))
    assert fitted.held_out is not None
    new = rows.take(slice(60, None))
    base = fitted._base(new).mean(axis=0)
    truth = 1 + 0.02 * convs(new, "raw")
    assert np.abs(fitted.predict(new) / truth - 1).mean() < np.abs(base / truth - 1).mean() + 0.01


def test_torch_stays_as_it_is(rows: Rows) -> None:
    torch = pytest.importorskip("torch")
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    y = 1 + 0.02 * convs(rows, "raw")
    Gcn(members=2, width=8).fit(rows.take(slice(20)), y[:20], np.random.default_rng(0)).predict(rows)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
