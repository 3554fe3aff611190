"""A device that slows down, goes away, or says what nobody understands, and what the table keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hwnas.devices import Device, Session
from hwnas.devices.base import Artifact, DeviceLost, Round
from hwnas.devices.registry import create
from hwnas.profiler.bench import Bench, open_bench
from hwnas.profiler.conditions import STEP_S, TIRED, DeviceLog, is_slow
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow


def artifact(macs: int = 1_000_000) -> Artifact:
    return Artifact("ops", json.dumps({"macs": macs}).encode(), (), f"d{macs}", "ops")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LatencyTable]:
    with LatencyTable.create(tmp_path / "t.db", Provenance("simulated", "ms")) as table:
        table.register([WorkloadRow("a", "op"), WorkloadRow("b", "op")])
        yield table


def bench_of(table: LatencyTable, device: Device, session: Session) -> Any:
    bench = open_bench(device, session, table, MeasuringProtocol(min_visits=3, pause_s=0.0), 0)
    bench.session_id = table.add_session({})
    return bench


def test_output_that_nobody_understands_is_kept_in_the_table_and_named(table: LatencyTable) -> None:
    for after, kind in ((0, "while loading"), (4, "in a round")):
        device = create("simulated", faults={"b": "unreadable"}, fault_after=after)
        with device.open() as session:
            bench = bench_of(table, device, session)
            bench.load({"a": artifact, "b": artifact}, "load")
            bench.operators([key for key in ("a", "b") if key in session.loaded])
        row = next(row for row in table.rows() if row.key == "b")
        assert row.status == "failed", kind
        assert f"cannot be understood; it is kept: `hwnas table show {table.path} --json -`" in row.reason
    assert table.records("output") == [{"key": "b", "text": "count=many"}] * 2


def test_a_device_that_goes_away_leaves_what_was_measured_and_no_failure(table: LatencyTable) -> None:
    device = create("simulated", faults={"b": "lost"}, fault_after=12)
    with device.open() as session:
        bench = bench_of(table, device, session)
        bench.load({"a": artifact, "b": artifact}, "load")
        with pytest.raises(DeviceLost, match="has gone"):
            bench.operators(["a", "b"])
    visits = table.all_visits()
    assert len(visits["a"]) >= 2
    assert len(visits["b"]) == 2
    assert {row.status for row in table.rows()} == {"pending"}


def heating(cooling_s: float) -> Device:
    device = create("simulated")
    device.__class__ = type("Heating", (type(device),), {"cooling_s": cooling_s})
    return device


@pytest.fixture
def slept() -> list[float]:
    return []


def test_a_device_that_slows_down_is_given_time_and_then_doubted(slept: list[float]) -> None:
    log = DeviceLog(heating(2 * STEP_S), slept.append)
    steady, slow = [1.0, 1.01, 1.0, 1.0, 1.0, 1.02], [1.0, 1.0, 1.0, 1.2, 1.2, 1.2]
    log.cool(steady)
    assert slept == []
    for _ in range(4):
        log.cool(slow)
    assert slept == [STEP_S] * 2
    assert log.doubts == [TIRED]
    assert log.as_dict() == {"doubts": [TIRED], "cooled_s": 2 * STEP_S}


def test_a_device_that_does_not_heat_up_is_not_waited_for(slept: list[float]) -> None:
    log = DeviceLog(heating(0.0), slept.append)
    log.cool([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    assert (slept, log.as_dict()) == ([], {})


def test_few_visits_say_nothing() -> None:
    assert not is_slow([1.0, 1.0, 1.0, 9.0, 9.0])
    assert is_slow([1.0, 1.0, 1.0, 9.0, 9.0, 9.0])


def test_states_are_kept_and_doubts_told_once() -> None:
    log = DeviceLog(create("simulated"))
    for degrees in (30, 35):
        log.add(Round({}, {}, 0, 0.0, {"celsius": degrees, "doubts": ["the screen is off"]}))
    log.add(Round({}, {}, 0, 0.0))
    assert log.as_dict() == {"device": [{"celsius": 30}, {"celsius": 35}], "doubts": ["the screen is off"]}


def test_a_bench_tells_what_the_device_told(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    device = create("simulated")
    with device.open() as session:
        bench = bench_of(table, device, session)
        assert isinstance(bench, Bench)
        bench.load({"a": artifact}, "load")
        assert "device" not in bench.conditions()
        whole: Callable[..., Round] = session.round

        def told(*arguments: Any, **options: Any) -> Round:
            found = whole(*arguments, **options)
            return Round(found.samples, {}, 0, 0.0, {"celsius": 41, "doubts": ["hot"]})

        monkeypatch.setattr(session, "round", told)
        bench.operators(["a"])
    assert bench.conditions()["doubts"] == ["hot"]
    assert bench.conditions()["device"][-1] == {"celsius": 41}
