"""The benchmark with tabulated rewards: who shares a row, what counts as a query, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hwnas.benchmarks import tabulated
from hwnas.errors import HwnasError
from hwnas.spaces.registry import load_space
from hwnas.testing.search import TabulatedTask


@pytest.fixture(scope="module")
def table() -> tabulated.Table:
    return tabulated.made_up(load_space("nasbench201"))


def test_there_are_as_many_networks_as_the_benchmark_says(table: tabulated.Table) -> None:
    assert len(table.accuracy) == 6466  # Dong and Yang, 2020, section 2.1
    assert set(np.unique(table.row_of)) == set(range(6466))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((1, 3, 3, 0, 0, 1), (1, 0, 3, 0, 0, 1), False),
        ((3, 3, 0, 1, 0, 0), (3, 3, 0, 1, 0, 0), True),
        ((1, 2, 3, 0, 0, 1), (1, 3, 2, 0, 0, 1), True),  # node 1 is the input, so edges 0-2 and 1-2 may swap
        ((0, 2, 3, 0, 4, 1), (0, 2, 4, 0, 3, 1), True),  # what follows a dead node does not matter
        ((2, 0, 3, 0, 0, 1), (3, 0, 2, 0, 0, 1), False),
    ],
)
def test_architectures_that_are_one_network(one: tuple[int, ...], other: tuple[int, ...], same: bool) -> None:
    assert (tabulated.network(one) == tabulated.network(other)) is same


def test_rows_are_asked_once_and_gaps_never(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [(1, 2, 3, 0, 0, 1), (2, 0, 3, 0, 0, 1)]
    frame = pandas.DataFrame(rows, columns=[f"op{i}" for i in range(6)])
    frame["lat_a"], frame["lat_b"], frame["acc_x"] = [1.0, 2.0], [3.0, float("nan")], [80.0, 90.0]
    frame.to_parquet(tmp_path / "t.parquet")
    table, latency, accuracy = tabulated.read(tmp_path / "t.parquet", "lat", "acc")
    assert (latency, accuracy) == ("lat_a", "acc_x")
    task = TabulatedTask(load_space("nasbench201"), table.rows, table.accuracy)
    asked = np.array([(2, 0, 3, 0, 0, 1), (3, 3, 3, 3, 3, 3), (1, 3, 2, 0, 0, 1), (1, 2, 3, 0, 0, 1)], np.int16)
    np.testing.assert_allclose(task.accuracy(asked), [0.9, np.nan, 0.8, 0.8])
    assert list(task.queries) == [1, 0]
    assert table.latencies(asked).tolist() == [2.0, 1.0, 1.0, 1.0]
    assert len(tabulated.read(tmp_path / "t.parquet", "lat_b", "acc")[0].accuracy) == 1
    with pytest.raises(HwnasError, match="needs columns op0 to op5 and 'energy'; it has op0"):
        tabulated.read(tmp_path / "t.parquet", "energy", "acc")
    (tmp_path / "bad").write_bytes(b"no parquet")
    with pytest.raises(HwnasError, match="cannot be read"):
        tabulated.read(tmp_path / "bad", "lat", "acc")


def test_regret_is_of_networks_below_the_limit() -> None:
    table = tabulated.Table(np.zeros(0), np.array([0.5, 0.9, 0.7, 0.6]), np.array([1.0, 9.0, 2.0, 1.0]))
    np.testing.assert_allclose(tabulated.regret(table, 3.0, [1, 3, 2], 4), [20, 10, 0, 0])


def test_expectation_is_exact(table: tabulated.Table) -> None:
    space = load_space("nasbench201")
    predictor = tabulated.Tabulated(space, table)
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(5)) for _ in range(6)]
    every = np.indices((5,) * 6).reshape(6, -1).T
    weights = np.prod([v[c] for v, c in zip(p, every.T, strict=True)], axis=0)
    assert predictor.expected(p) == pytest.approx(weights @ predictor.predict_codes(every))


def test_it_prints_curves_and_writes_json_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--queries", "20", "--seeds", "1", "--shares", "50"]
    tabulated.main([*words, "--json", str(tmp_path / "t.json"), "--plot", str(tmp_path / "t.png")])
    shown = capsys.readouterr().out
    assert all(way in shown for way in (*tabulated.SEARCHED, tabulated.ALL, tabulated.BELOW))
    written = json.loads((tmp_path / "t.json").read_text())
    assert [finding["bar"] is not None for finding in written["findings"]] == [True, True, False]
    assert np.shape(written["ways"]["reinforce"]["final"]) == (1, 1)
    assert (tmp_path / "t.png").stat().st_size > 1000
