"""What goes into a latency table comes out again, and nothing else goes in."""

from __future__ import annotations

import math
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.data import Samples
from hwnas.profiler.table import LatencyTable, TableError, WorkloadRow
from hwnas.profiler.table_schema import KINDS, MAX_TEXT
from hwnas.tests.profiler.tables import ABOUT, objects, samples
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def table(tmp_path: Path) -> Any:
    with LatencyTable.create(tmp_path / "t.db", ABOUT) as made:
        made.register([WorkloadRow("a 1", "a", "candidate", {"kernel": 3}), WorkloadRow("b 1", "b", "fixed")])
        yield made


def test_a_new_table_is_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "t.db"
    LatencyTable.create(path, ABOUT).close()
    with LatencyTable.open(path) as read:
        assert read.provenance == ABOUT
        assert read.rows() == []
        assert read.calibration is None
    assert [p.name for p in path.parent.iterdir()] == ["t.db"]


def test_rows_count_visits_and_runs(table: LatencyTable) -> None:
    session = table.add_session({"load": [0.5]})
    table.add_visits({"a 1": samples(30, 10, 20), "b 1": samples(5)}, session)
    table.add_visit("a 1", samples(11, 12), session)
    table.finish("a 1", latency=1.25, low=1.0, high=1.5, phases={"load_ms": 2.0})
    first, second = table.rows()
    assert (first.key, first.op, first.kind, first.info) == ("a 1", "a", "candidate", {"kernel": 3})
    assert (first.latency, first.low, first.high, first.unit) == (1.25, 1.0, 1.5, "ms")
    assert (first.visits, first.runs, first.status, first.phases) == (2, 5, "ok", {"load_ms": 2.0})
    assert (second.visits, second.runs, second.status, second.latency) == (1, 1, "pending", None)
    assert [row.key for row in table.rows("fixed")] == ["b 1"]
    assert table.values() == {"a 1": 1.25}
    assert table.missing(["b 1", "c", "a 1", "c"]) == ["b 1", "c"]


def test_raw_samples_come_back_as_they_were(table: LatencyTable) -> None:
    session = table.add_session({})
    table.add_visit("a 1", samples(2**62, 0, cpu=(7, 9), started=1e9 + 0.25), session)
    table.add_visit("a 1", Samples(wall=np.array([3]), cpu=np.empty(0, np.int64), started=0), session)
    table.add_visit("b 1", replace(samples(1, 2), reference=np.array([40, 50])), session)
    first, second = table.visits("a 1")
    assert first.wall.dtype == np.int64
    assert first.wall.tolist() == [2**62, 0]
    assert first.cpu.tolist() == [7, 9]
    assert (first.started, first.session) == (1e9 + 0.25, session)
    assert (second.wall.tolist(), second.cpu.tolist()) == ([3], [])
    assert first.reference.tolist() == []
    assert [visit.reference.tolist() for visit in table.visits("b 1")] == [[40, 50]]
    assert {key: len(visits) for key, visits in table.all_visits().items()} == {"a 1": 2, "b 1": 1}


def test_samples_lie_as_little_endian_int64(table: LatencyTable) -> None:
    table.add_visit("a 1", samples(1, 258), table.add_session({}))
    with sqlite3.connect(table.path) as connection:
        (blob,) = connection.execute("SELECT wall FROM visits").fetchone()
    assert blob == bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0])


def test_a_later_result_replaces_an_earlier_one(table: LatencyTable) -> None:
    table.finish("a 1", status="failed", reason="it\ncrashed \x1b[31m", phases={"lowering_ms": 1})
    (row, _) = table.rows()
    assert (row.status, row.latency, row.reason) == ("failed", None, "it crashed ?[31m")
    table.finish("a 1", latency=2, status="unconverged")
    (row, _) = table.rows()
    assert (row.status, row.latency, row.low, row.high, row.reason) == ("unconverged", 2.0, 2.0, 2.0, "")
    assert row.phases == {"lowering_ms": 1}


def test_registering_again_changes_nothing(table: LatencyTable) -> None:
    table.finish("a 1", latency=1)
    table.register([WorkloadRow("a 1", "other", "fixed"), WorkloadRow("c 1", "c")])
    assert [(row.key, row.op, row.kind) for row in table.rows()] == [
        ("a 1", "a", "candidate"),
        ("b 1", "b", "fixed"),
        ("c 1", "c", "candidate"),
    ]
    assert table.values() == {"a 1": 1.0}


def test_sessions_calibration_and_records(table: LatencyTable) -> None:
    assert [table.add_session({"load": n}) for n in range(2)] == [1, 2]
    assert table.sessions() == {1: {"load": 0}, 2: {"load": 1}}
    table.set_calibration({"factor": np.float64(1.5)})
    table.set_calibration({"factor": 1.25, "networks": (1, 2)})
    assert table.calibration == {"factor": 1.25, "networks": [1, 2]}
    table.add_record("canary", {"ms": 1})
    table.add_record("trace", {"ms": 2})
    table.add_record("canary", {"ms": 3})
    assert table.records("canary") == [{"ms": 1}, {"ms": 3}]
    assert table.records("unknown") == []


def test_a_batch_is_all_or_nothing(table: LatencyTable) -> None:
    def fill() -> None:
        with table.batch():
            table.finish("a 1", latency=1)
            table.register([WorkloadRow("c 1", "c")])
            table.finish("unknown", latency=1)

    with pytest.raises(TableError, match="no workload 'unknown'"):
        fill()
    assert [(row.key, row.status) for row in table.rows()] == [("a 1", "pending"), ("b 1", "pending")]
    with table.batch():
        table.finish("a 1", latency=1)
    assert table.values() == {"a 1": 1.0}


def test_a_round_with_one_bad_visit_stores_none(table: LatencyTable) -> None:
    session = table.add_session({})
    with pytest.raises(TableError, match="no workload 'c'"):
        table.add_visits({"a 1": samples(1), "c": samples(2)}, session)
    assert table.visits("a 1") == []


def test_reading_does_not_write(table: LatencyTable) -> None:
    before = table.path.read_bytes()
    with LatencyTable.open(table.path) as read:
        for write in (
            lambda: read.register([WorkloadRow("c", "c")]),
            lambda: read.add_session({}),
            lambda: read.finish("a 1", latency=1),
            lambda: read.set_calibration({}),
            lambda: read.add_record("x", {}),
            lambda: read.add_visit("a 1", samples(1), 1),
        ):
            with pytest.raises(TableError, match="opened to be read"):
                write()
    assert table.path.read_bytes() == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, "1", None, True, 10**400])
def test_a_latency_is_a_finite_number(table: LatencyTable, bad: Any) -> None:
    with pytest.raises(TableError, match="latency of a 1"):
        table.finish("a 1", latency=bad)
    if bad is not None:
        with pytest.raises(TableError, match="low of a 1"):
            table.finish("a 1", latency=1, low=bad)
    assert table.values() == {}


def test_results_that_make_no_sense(table: LatencyTable) -> None:
    with pytest.raises(TableError, match="upside down"):
        table.finish("a 1", latency=1, low=2, high=1)
    with pytest.raises(TableError, match="cannot have a latency"):
        table.finish("a 1", latency=1, status="failed")
    with pytest.raises(TableError, match="not one of ok"):
        table.finish("a 1", latency=1, status="fine")  # type: ignore[arg-type]
    with pytest.raises(TableError, match="runs of 'a 1'"):
        table.finish("a 1", latency=1, runs=-1)
    with pytest.raises(TableError, match="no workload"):
        table.finish("\udcff", latency=1)


@pytest.mark.parametrize(
    ("visit", "message"),
    [
        (samples(), "0 wall times"),
        (samples(1, 2, cpu=(1,)), "2 wall times and 1 CPU times"),
        (samples(-1), "negative time"),
        (Samples(wall=np.array([1.5]), cpu=np.array([1]), started=0), "whole nanoseconds"),
        (Samples(wall=np.array([[1]]), cpu=np.array([[1]]), started=0), "whole nanoseconds"),
        (samples(1, started=math.nan), "start time"),
        (samples(1, started=-1), "start time"),
    ],
)
def test_visits_that_make_no_sense(table: LatencyTable, visit: Any, message: str) -> None:
    session = table.add_session({})
    with pytest.raises(TableError, match=message):
        table.add_visit("a 1", visit, session)
    assert table.visits("a 1") == []


def test_visits_need_their_session(table: LatencyTable) -> None:
    for session in (1, -1, 2**80):
        with pytest.raises(TableError, match="session"):
            table.add_visit("a 1", samples(1), session)


@pytest.mark.parametrize("key", ["", "x" * (MAX_TEXT + 1), "line\nbreak", "\x1b[31mred", "\udcff"])
def test_keys_are_printable(table: LatencyTable, key: str) -> None:
    with pytest.raises(TableError, match="printable text"):
        table.register([WorkloadRow(key, "op")])


def test_unknown_kinds_are_refused(table: LatencyTable) -> None:
    with pytest.raises(TableError, match="not one of candidate"):
        table.register([WorkloadRow("c", "c", "other")])  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [{"x": math.nan}, {"x": object()}, {"x": "\udcff"}, {"x": {1j: 2}}])
def test_what_has_no_json_form_is_refused(table: LatencyTable, data: dict[str, Any]) -> None:
    with pytest.raises(TableError, match="cannot be stored as JSON"):
        table.add_record("x", data)


names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Cn", "Co", "Z")), min_size=1, max_size=20)
amounts = st.floats(min_value=0, max_value=1e300)
times = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        names,
        st.tuples(
            st.sampled_from(KINDS), objects, st.lists(amounts, min_size=3, max_size=3), st.lists(times, max_size=3)
        ),
        max_size=5,
    )
)
def test_rows_round_trip(rows: dict[str, tuple[Any, dict[str, Any], list[float], list[list[int]]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.db"
        with LatencyTable.create(path, ABOUT) as table:
            session = table.add_session({})
            table.register(WorkloadRow(key, "op", kind, info) for key, (kind, info, _, _) in rows.items())
            for key, (_, _, values, visits) in rows.items():
                low, latency, high = sorted(values)
                for visit in visits:
                    table.add_visit(key, samples(*visit), session)
                table.finish(key, latency=latency, low=low, high=high)
        with LatencyTable.open(path) as table:
            for row, (key, (kind, info, values, visits)) in zip(table.rows(), rows.items(), strict=True):
                assert (row.key, row.kind, row.info) == (key, kind, info)
                assert [row.low, row.latency, row.high] == sorted(values)
                assert (row.visits, row.runs) == (len(visits), sum(map(len, visits)))
                assert [visit.wall.tolist() for visit in table.visits(key)] == visits
