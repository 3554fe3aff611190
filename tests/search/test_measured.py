"""Latency that is measured while searching: each network once, over interruptions, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.base import DeviceError
from hwnas.devices.registry import create
from hwnas.predictors.base import PredictorError
from hwnas.predictors.network_timer import NetworkTimer
from hwnas.profiler.designs import network_key
from hwnas.search import measured
from hwnas.search.goals import Goal, Latency
from hwnas.search.measured import DeviceLatency
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LayerChoice({f"k{k}": nn.Conv2d(3, 3, k, padding=k // 2) for k in (1, 3, 5)}) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "PAUSE_S", 0.0)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(Net, (3, 8, 8), name="three")


@pytest.fixture(scope="module")
def codes(space: SearchSpace) -> np.ndarray:
    return np.concatenate(list(space.encoding.enumerate()))


@pytest.fixture
def made(space: SearchSpace, tmp_path: Path) -> Callable[..., DeviceLatency]:
    def make(device: Any = None, **options: Any) -> DeviceLatency:
        return DeviceLatency(space, device or create("simulated"), tmp_path, **{"visits": 3, **options})

    return make


def durations(space: SearchSpace, codes: np.ndarray) -> dict[str, float]:
    """Milliseconds of each network: its number, from 1 on."""
    return {network_key(a, 1, "fp32"): 1.0 + i for i, a in enumerate(space.decode(codes))}


def test_each_network_once(made: Callable[..., DeviceLatency], space: SearchSpace, codes: np.ndarray) -> None:
    with made(create("simulated", table=durations(space, codes))) as latency:
        found = latency.predict_codes(codes[[0, 1, 0, 4]])
        np.testing.assert_allclose(found, [1, 2, 1, 5], rtol=0.01)
        assert (latency.calls, latency.count) == (1, 3)
        again = latency.predict_codes(codes[[4, 2]])
        assert again[0] == found[3]
        assert (latency.calls, latency.count) == (2, 4)
        latency.predict_codes(codes[[2, 1]])
        assert (latency.calls, latency.count) == (2, 4)
        assert set(latency.known) == set(space.decode(codes[[0, 1, 4, 2]]))


def test_a_search_that_goes_on_measures_nothing_twice(made: Callable[..., DeviceLatency], codes: np.ndarray) -> None:
    with made() as latency:
        found = latency.predict_codes(codes[:3])
    with made(agent_python="/no/such/python") as again:
        assert again.predict_codes(codes[:3]).tolist() == found.tolist()
        assert (again.calls, again.count) == (0, 3)
        with pytest.raises(DeviceError, match="/no/such/python"):
            again.predict_codes(codes[3:4])
    with made() as third:
        third.predict_codes(codes[:5])
        assert third.calls == 1
    assert made().count == 5


def test_a_line_that_a_kill_cut_off(made: Callable[..., DeviceLatency], codes: np.ndarray) -> None:
    with made() as latency:
        found = latency.predict_codes(codes[:3])
    path = latency.path
    whole = path.read_bytes()
    for cut in (1, 40, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        with made() as again:
            assert again.count == 2
            assert again.predict_codes(codes[:3])[:2].tolist() == found[:2].tolist()
        assert made().count == 3
    path.write_bytes(b'{"space": "thr')
    assert made().count == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precious\n", "something else"),
        ("[1]\n", "something else"),
        ('{"space": "three"}\n', "fingerprint = None"),
        ("[" * 100_000 + "\n", "something else"),
    ],
)
def test_a_file_of_something_else(made: Callable[..., DeviceLatency], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / measured.FILE).write_text(text)
    with pytest.raises(PredictorError, match=message):
        made()
    assert (tmp_path / measured.FILE).read_text() == text


@pytest.mark.parametrize("value", ["NaN", "-1", '"1"', "null"])
def test_numbers_that_are_none(made: Callable[..., DeviceLatency], codes: np.ndarray, value: str) -> None:
    with made() as latency:
        latency.predict_codes(codes[:1])
    header, row = latency.path.read_text().splitlines()
    data = json.loads(row)
    latency.path.write_text(f"{header}\n{row.replace(json.dumps(data['value']), value, 1)}\n")
    with pytest.raises(PredictorError, match="something else"):
        made()


def test_another_device_or_setting(made: Callable[..., DeviceLatency], codes: np.ndarray) -> None:
    with made() as latency:
        latency.predict_codes(codes[:1])
    for device, name in ((create("simulated", noise=0.5), "settings"), (create("flops"), "device")):
        with pytest.raises(PredictorError, match=rf"with {name} = .*give another --out"):
            made(device)


def test_what_cannot_be_measured_is_named_and_the_others_are_kept(
    made: Callable[..., DeviceLatency], space: SearchSpace, codes: np.ndarray
) -> None:
    (bad,) = space.decode(codes[1:2])
    with made(create("simulated", faults={network_key(bad, 1, "fp32"): "error"})) as latency:
        with pytest.raises(DeviceError, match=r"cannot be measured on device 'simulated': .*simulated error"):
            latency.predict_codes(codes[:3])
        assert latency.count == 2
        latency.predict_codes(codes[[0, 2]])
        assert latency.calls == 1


def test_what_it_cannot_do(made: Callable[..., DeviceLatency], space: SearchSpace, tmp_path: Path) -> None:
    latency = made()
    assert latency.measures
    assert not latency.closed_form
    assert latency.unit == "ms"
    with pytest.raises(PredictorError, match="no expectation: gradient search needs a table"):
        latency.expected([np.full(3, 1 / 3)] * 3)
    with pytest.raises(PredictorError, match="range"):
        latency.extremes()
    with pytest.raises(PredictorError, match="is not saved"):
        latency.save(tmp_path / "x")
    with pytest.raises(PredictorError, match="profile the space"):
        DeviceLatency.load(tmp_path / "x", space)


def test_too_many_at_once(
    made: Callable[..., DeviceLatency], codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "AT_ONCE", 4)
    with made() as latency:
        with pytest.raises(PredictorError, match="5 networks would have to be measured"):
            latency.predict_codes(codes[:5])
        assert len(latency.predict_codes(codes[:4])) == 4


def test_as_a_goal(made: Callable[..., DeviceLatency], space: SearchSpace, codes: np.ndarray) -> None:
    with made(create("simulated", table=durations(space, codes))) as predictor:
        latency = Latency(space, [Goal(predictor, 4.0)])
        assert latency.measures
        np.testing.assert_allclose(latency.ratio(codes[[1, 3]]), [0.5, 1.0], rtol=0.01)
        latency.check_reachable(limit=False)
        assert latency.names == ["simulated"]
        interval = predictor.interval(space.decode(codes[1:2]), 0.9)
        assert interval[0, 0] <= 2.0 * 1.01 <= 1.02 * interval[0, 1]
        assert predictor.calls == 1


def test_the_agent_is_started_when_needed(
    made: Callable[..., DeviceLatency], codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    enter = NetworkTimer.__enter__

    def counted(self: NetworkTimer) -> NetworkTimer:
        opened.append(1)
        return enter(self)

    monkeypatch.setattr(NetworkTimer, "__enter__", counted)
    latency = made()
    assert not opened
    latency.predict_codes(codes[:1])
    latency.predict_codes(codes[1:2])
    assert len(opened) == 1
    latency.close()
    latency.close()
    latency.predict_codes(codes[2:3])
    assert len(opened) == 2
    latency.close()


def test_on_the_cpu(made: Callable[..., DeviceLatency], codes: np.ndarray) -> None:
    with made(create("cpu", threads=1), visits=5) as latency:
        found = latency.predict_codes(codes[:2])
    assert ((found > 0) & (found < 100)).all()
