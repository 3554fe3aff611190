"""Whole networks measured through one agent: interleaved, afresh at every call, and what fails is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.base import DeviceError, Samples
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.predictors.base import Origin
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.network_timer import NetworkTimer, Taken, spread_networks
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.designs import network_key
from hwnas.profiler.lowering import LoweringError
from hwnas.profiler.protocol import Estimate, MeasuringProtocol
from hwnas.profiler.table import LatencyTable, TableError
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

QUICK = MeasuringProtocol(pause_s=0.0)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": "8"})


@pytest.fixture(scope="module")
def some(space: SearchSpace) -> list[Architecture]:
    return space.sample(4, np.random.default_rng(3))


def visits(path: Path) -> dict[str, list[float]]:
    """When each network was visited."""
    with LatencyTable.open(path) as table:
        return {key: [v.started for v in own] for key, own in table.all_visits().items()}


def test_networks_are_measured_by_turns(space: SearchSpace, some: list[Architecture], tmp_path: Path) -> None:
    with NetworkTimer(space, create("simulated"), tmp_path / "new", protocol=QUICK) as timer:
        assert timer.about["device"] == "simulated"
        found = timer.measure([*some, some[0]], 6)
    assert set(found) == set(some)
    assert timer.failed == {}
    for measured in found.values():
        assert measured.low <= measured.value <= measured.high
        assert measured.wall_p50 is not None
        assert measured.wall_p90 is not None
        assert measured.value <= measured.wall_p50 <= measured.wall_p90
    times = visits(tmp_path / "new" / "measurements.db")
    assert [len(own) for own in times.values()] == [6] * 4
    rounds = np.sort(np.array(list(times.values())), axis=1)
    assert (rounds[:, 1:].min(axis=0) > rounds[:, :-1].max(axis=0)).all()


def test_values_are_the_devices(space: SearchSpace, some: list[Architecture], tmp_path: Path) -> None:
    table = {network_key(a, 1, "fp32"): 0.5 + 0.25 * i for i, a in enumerate(some)}
    with NetworkTimer(space, create("simulated", table=table), tmp_path, protocol=QUICK) as timer:
        found = timer.measure(some, 6)
    assert [found[a].value for a in some] == pytest.approx([0.5, 0.75, 1.0, 1.25], rel=0.01)


def test_a_second_call_takes_visits_of_its_own(space: SearchSpace, some: list[Architecture], tmp_path: Path) -> None:
    with NetworkTimer(space, create("simulated", noise=0.05), tmp_path, protocol=QUICK) as timer:
        timer.measure(some, 5, name="first")
        timer.measure(some[:2], 7, name="again")
        before, after = visits(tmp_path / "first.db"), visits(tmp_path / "again.db")
        timer.measure(some[:1], 3, name="first")
    assert [len(own) for own in after.values()] == [7, 7]
    assert max(max(own) for own in before.values()) < min(min(own) for own in after.values())
    assert [len(own) for own in visits(tmp_path / "first.db").values()] == [3]


def test_what_fails_is_named_and_the_others_are_measured(
    space: SearchSpace, some: list[Architecture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = Lowerer.network

    def network(self: Lowerer, architecture: Architecture) -> Any:
        if architecture == some[0]:
            raise LoweringError("no such operator")
        return lower(self, architecture)

    monkeypatch.setattr(Lowerer, "network", network)
    faults = {network_key(some[1], 1, "fp32"): "crash"}
    with NetworkTimer(space, create("simulated", faults=faults), tmp_path, protocol=QUICK) as timer:
        found = timer.measure(some, 3)
        assert set(found) == set(some[2:])
        assert set(timer.measure(some[1:3], 3)) == {some[2]}
    assert timer.failed[some[0]] == "no such operator"
    assert "simulated crash" in timer.failed[some[1]]


def test_counting(space: SearchSpace, some: list[Architecture], tmp_path: Path) -> None:
    with NetworkTimer(space, create("flops"), tmp_path) as timer:
        found = timer.measure(some)
    np.testing.assert_allclose([found[a].value for a in some], FlopsPredictor.of(space).predict(some))
    assert found[some[0]].wall_p50 is None


class Canned(NetworkTimer):
    """Finds what it is told: the milliseconds of one network, and of the reference in microseconds, one a visit."""

    plans: list[tuple[np.ndarray, np.ndarray]]

    def take(self, networks: Any, file: str, wanted: Any, visits: int) -> Taken:
        ms, reference = self.plans.pop(0)
        (key,) = networks.codes
        own = [
            Samples(np.full(3, int(1e6 * m)), np.full(3, int(1e6 * m)), float(i), np.full(2, int(1e3 * r)))
            for i, (m, r) in enumerate(zip(ms, reference, strict=True))
        ]
        return Taken(networks, {key: Estimate(0.0, 0.0, 0.0, True)}, {key: own}, [], {})


def test_a_changed_clock_between_calls_is_taken_out(
    space: SearchSpace, some: list[Architecture], tmp_path: Path
) -> None:
    timer = Canned(space, create("cpu"), tmp_path)
    jitter = np.random.default_rng(0).uniform(1, 1.1, 20)
    timer.plans = [(ms * jitter, 10 * ms * jitter) for ms in (1.0, 1.07, 0.9)]
    values, changes = [], []
    for _ in range(3):
        values.append(timer.measure(some[:1])[some[0]].value)
        changes.append(timer.change)
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)
    assert changes == pytest.approx([0, 0.07, -0.1], abs=1e-3)
    timer.plans = [(1.07 * jitter, 10 * jitter)]
    assert timer.measure(some[:1])[some[0]].value / values[0] == pytest.approx(1.07, rel=1e-3)


def test_it_is_also_where_the_reference_steadies_no_single_call(
    space: SearchSpace, some: list[Architecture], tmp_path: Path
) -> None:
    timer = Canned(space, create("cpu"), tmp_path)
    draw = np.random.default_rng(1).uniform
    timer.plans = [(ms * draw(1, 1.01, 20), 10 * ms * draw(1, 1.01, 20)) for ms in (1.0, 1.07)]
    before, after = (timer.measure(some[:1])[some[0]].value for _ in range(2))
    assert after / before == pytest.approx(1, rel=0.01)


def test_networks_spread_over_the_latencies(some: list[Architecture]) -> None:
    latencies: list[float | None] = [3.0, None, 1.0, 2.0]
    origin = Origin("cpu", networks=dict(zip(some, latencies, strict=True)))
    assert spread_networks(origin, 2) == {some[2]: 1.0, some[0]: 3.0}
    assert list(spread_networks(origin, 9)) == [some[2], some[3], some[0]]
    assert spread_networks(None, 4) == spread_networks(Origin("cpu"), 4) == {}


def test_an_agent_that_cannot_be_started(space: SearchSpace, tmp_path: Path) -> None:
    timer = NetworkTimer(space, create("simulated"), tmp_path / "new", agent_python="/no/such/python")
    with pytest.raises(DeviceError, match="/no/such/python"):
        timer.__enter__()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("wrong", [1, 10_001])
def test_visits_out_of_range(space: SearchSpace, some: list[Architecture], tmp_path: Path, wrong: int) -> None:
    with NetworkTimer(space, create("flops"), tmp_path) as timer, pytest.raises(HwnasError, match=str(wrong)):
        timer.measure(some, wrong)


def test_a_file_of_something_else_is_not_replaced(space: SearchSpace, some: list[Architecture], tmp_path: Path) -> None:
    (tmp_path / "measurements.db").write_text("precious")
    with NetworkTimer(space, create("flops"), tmp_path) as timer, pytest.raises(TableError):
        timer.measure(some)
    assert (tmp_path / "measurements.db").read_text() == "precious"


def test_on_the_cpu(space: SearchSpace, some: list[Architecture], tmp_path: Path) -> None:
    with NetworkTimer(space, create("cpu", threads=1), tmp_path) as timer:
        found = timer.measure(some[:2], 5)
    assert all(0 < m.low <= m.value <= m.high < 100 for m in found.values())
