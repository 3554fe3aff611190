"""What is known of architectures before they are measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hwnas.devices.flops import count
from hwnas.predictors import features
from hwnas.predictors.features import SpaceFeatures, WorkloadCosts
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.regressors.base import Rows
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

TRICKY = f"{Path(__file__).parent / 'nets.py'}:tricky"


@pytest.fixture(scope="module")
def nb201() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture(scope="module")
def of_nb201(nb201: SearchSpace) -> SpaceFeatures:
    return SpaceFeatures.of(nb201)


def column(rows: Rows, name: str) -> np.ndarray:
    return rows.numeric[:, rows.names.index(name)]


def encoded(space: SearchSpace, *rows: list[int]) -> np.ndarray:
    return space.encoding.canonical(np.array(rows, np.int16))


def test_operators_are_counted_raw_and_live(nb201: SearchSpace, of_nb201: SpaceFeatures) -> None:
    # Edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3: in the second network nothing leaves node 2, in the third nothing enters it.
    rows = of_nb201.rows(encoded(nb201, [3, 3, 3, 3, 3, 3], [3, 2, 0, 1, 4, 0], [3, 0, 0, 1, 4, 2]))
    np.testing.assert_array_equal(column(rows, "raw: nor_conv_3x3"), [90, 15, 15])
    np.testing.assert_array_equal(column(rows, "raw: nor_conv_1x1"), [0, 15, 15])
    np.testing.assert_array_equal(column(rows, "live: nor_conv_3x3"), [90, 15, 15])
    np.testing.assert_array_equal(column(rows, "live: nor_conv_1x1"), [0, 0, 0])
    np.testing.assert_array_equal(column(rows, "live: avg_pool_3x3"), [0, 15, 15])
    np.testing.assert_array_equal(rows.choices[1], [3, 2, 0, 1, 4, 0, 3, -1, -1, 1, 4, -1])
    np.testing.assert_array_equal(rows.choices[2], [3, 0, 0, 1, 4, 2, 3, -1, -1, 1, 4, -1])
    assert rows.labels[6] == f"live {rows.labels[0]}"


def test_counts_are_those_of_the_built_network(nb201: SearchSpace, of_nb201: SpaceFeatures) -> None:
    codes = nb201.encoding.sample(3, np.random.default_rng(0))
    rows = of_nb201.rows(codes)
    for i, architecture in enumerate(nb201.decode(codes)):
        found = count(nb201.build(architecture), nb201.inputs())
        assert column(rows, "raw: macs")[i] == found.macs
        assert column(rows, "raw: params")[i] == found.params
        assert (column(rows, "live: macs") <= column(rows, "raw: macs")).all()


def test_stages_add_up_to_the_whole(of_nb201: SpaceFeatures, nb201: SearchSpace) -> None:
    rows = of_nb201.rows(nb201.encoding.sample(20, np.random.default_rng(1)))
    for what in ("raw: macs", "live: bytes", "live: operators"):
        parts = [column(rows, name) for name in rows.names if name.startswith(f"{what} at ")]
        assert len(parts) == 4
        np.testing.assert_allclose(np.sum(parts, axis=0), column(rows, what))


def test_depth_is_the_longest_live_path(nb201: SearchSpace, of_nb201: SpaceFeatures) -> None:
    chain, shortcut, dead = [3, 0, 3, 0, 0, 3], [0, 0, 0, 3, 0, 0], [3, 3, 3, 1, 0, 0]
    rows = of_nb201.rows(encoded(nb201, chain, shortcut, dead))
    depth = column(rows, "depth")
    fixed = depth[2]
    np.testing.assert_array_equal(depth - fixed, [45, 15, 0])
    assert fixed == 5  # stem, two reductions, norm, classifier


def test_every_disconnected_network_is_known(nb201: SearchSpace, of_nb201: SpaceFeatures) -> None:
    every = np.concatenate(list(nb201.encoding.enumerate()))
    assert (~of_nb201.alive(every)).sum() == 341
    assert of_nb201.alive(encoded(nb201, [0, 0, 0, 1, 0, 0], [3, 3, 3, 0, 0, 0])).tolist() == [True, False]


def test_no_live_columns_where_nothing_can_be_dead() -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    rows = SpaceFeatures.of(space).rows(space.encoding.sample(5, np.random.default_rng(0)))
    assert rows.sizes == tuple(len(d) for d in space.decisions)
    assert not any(name.startswith("live") for name in rows.names)


def test_choices_that_are_not_reached_have_no_category() -> None:
    space = load_space(TRICKY)
    inner = space.description.index["outer.deep.0"]
    codes = space.encoding.sample(50, np.random.default_rng(0))
    rows = SpaceFeatures.of(space).rows(codes)
    np.testing.assert_array_equal(rows.choices[:, : len(space.decisions)], codes)
    assert (rows.choices[:, inner] == -1).any()


def test_equal_rows_are_worked_out_once_with_the_same_result(
    nb201: SearchSpace, of_nb201: SpaceFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = nb201.encoding.sample(300, np.random.default_rng(0))
    once = of_nb201.rows(np.concatenate([codes, codes]))
    monkeypatch.setattr(features, "LISTED", 0)
    monkeypatch.setattr(features, "CHUNK", 128)
    each = of_nb201.rows(codes)
    np.testing.assert_array_equal(once.choices, np.concatenate([each.choices, each.choices]))
    np.testing.assert_array_equal(once.numeric, np.concatenate([each.numeric, each.numeric]))


@pytest.mark.parametrize("spec", ["nasbench201", "proxyless", TRICKY])
def test_with_a_table_and_through_a_file(spec: str, make_lut: Callable[..., LutPredictor]) -> None:
    space = load_space(spec)
    table = make_lut(space)
    own = SpaceFeatures.of(space, table.model)
    codes = space.encoding.sample(20, np.random.default_rng(0))
    rows = own.rows(codes)
    np.testing.assert_allclose(column(rows, "table"), table.predict_codes(codes))
    meta, arrays = own.state()
    again = SpaceFeatures.from_state(space, json.loads(json.dumps(meta)), arrays).rows(codes)
    assert again.layout == rows.layout
    np.testing.assert_array_equal(again.numeric, rows.numeric)
    assert own.rows(codes[:0]).layout == rows.layout


def test_costs_of_another_space_are_refused(of_nb201: SpaceFeatures) -> None:
    meta, arrays = of_nb201.state()
    with pytest.raises(ValueError, match="costs"):
        SpaceFeatures.from_state(load_space("proxyless"), meta, arrays)


def test_what_cannot_be_counted_is_left_out(nb201: SearchSpace) -> None:
    rows = SpaceFeatures(nb201, WorkloadCosts(*np.empty((3, 0)))).rows(encoded(nb201, [3] * 6))
    assert not any("macs" in name for name in rows.names)
    assert column(rows, "raw: operators")[0] == 95
