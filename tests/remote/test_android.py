"""Device android end to end: the real adb and adbd, and a stand-in program that times the real interpreter."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hwnas import LayerChoice, SearchSpace
from hwnas.devices import Artifact, Device, DeviceError, DeviceLost, Session, create
from hwnas.profiler.lowering import lower
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Silent
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable

STANDIN = Path(__file__).resolve().parents[1] / "devices" / "benchmark_standin.py"


def write_program(path: Path, command: str) -> Path:
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Times the real interpreter."""
    return write_program(tmp_path / "benchmark_model", f"{sys.executable} {STANDIN}")


@pytest.fixture
def made(phone: Any, program: Path) -> Callable[..., Device]:
    def make(**settings: Any) -> Device:
        return create("android", connection={"serial": phone.serial, "benchmark_binary": str(program)}, **settings)

    return make


@pytest.fixture
def session(made: Callable[..., Device]) -> Iterator[Session]:
    with made().open() as session:
        yield session


def conv(width: int) -> Artifact:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3, padding=1), torch.nn.ReLU6()).eval()
    return lower(module, (torch.zeros(1, 3, 16, 16),), format="tflite")


def left(phone: Any) -> list[str]:
    return sorted(path.name for path in (phone.root / "data/local/tmp").iterdir())


def running(phone: Any) -> bool:
    processes = (phone.root / "proc").glob("[0-9]*/cmdline")
    return any(b"benchmark_standin" in path.read_bytes() for path in processes if path.exists())


def alarm_when_running(phone: Any) -> None:
    """However long the machine takes to start the program."""
    for _ in range(600):
        if running(phone):
            break
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGALRM)


def behave(phone: Any, how: str) -> None:
    (phone.root / "data/local/tmp/behave").write_text(how)


def test_models_are_measured_on_the_phone(phone: Any, made: Callable[..., Device]) -> None:
    with made().open() as session:
        about = session.describe()
        assert about["architecture"] in ("x86_64", "arm64-v8a")
        assert phone.serial not in str(about)
        for id, width in (("narrow", 4), ("wide", 32)):
            report = session.load(id, conv(width))
            assert (report.delegate, report.operators, report.delegated) == ("XNNPACK", 1, 1)
            assert report.peak_mb == 93.2
        result = session.round(["wide", "narrow"], warmup=2, runs=3)
        assert list(result.samples) == ["wide", "narrow"]
        for samples in result.samples.values():
            assert samples.wall.shape == (1,)
            assert samples.wall[0] > 0
        folder, *others = left(phone)
        assert others == []
        files = {path.name for path in (phone.root / "data/local/tmp" / folder).iterdir()}
        assert files == {"benchmark_model", "1.tflite", "2.tflite"}
    assert left(phone) == []


def test_an_interrupt_ends_the_program_on_the_phone_and_cleans_up(phone: Any, session: Session) -> None:
    session.load("a", conv(4))
    behave(phone, "hang")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupt = threading.Thread(target=alarm_when_running, args=(phone,))
    interrupt.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            session.round(["a"])
    finally:
        interrupt.join()
        signal.signal(signal.SIGALRM, before)
    assert left(phone) == ["behave"]
    for _ in range(100):
        if not running(phone):
            break
        time.sleep(0.05)
    assert not running(phone)


def test_what_a_killed_session_left_is_removed_by_the_next(phone: Any, made: Callable[..., Device]) -> None:
    session = made().open()
    os.kill(session.agent_pid, signal.SIGKILL)
    (dead,) = left(phone)
    with made().open():
        assert len(left(phone)) == 1
        assert dead not in left(phone)
    session.close()


def test_a_pulled_cable_is_told_and_what_was_measured_holds(phone: Any, made: Callable[..., Device]) -> None:
    with made().open() as session:
        session.load("a", conv(4))
        assert session.round(["a"]).samples
        phone.unplug()
        result = session.round(["a"])
        assert (result.samples, result.failures) == ({}, {})
        assert "the phone went away in the middle" in result.lost
        assert phone.serial not in result.lost
        with pytest.raises(DeviceLost, match="went away in the middle"):
            session.round(["a"])
    assert len(left(phone)) == 1
    assert phone.plug() == phone.serial
    with made().open() as session:
        session.load("a", conv(4))
        assert session.round(["a"]).samples
    assert left(phone) == []


def test_with_two_phones_one_has_to_be_chosen(phone: Any, program: Path) -> None:
    other = phone.plug(6556)
    with pytest.raises(DeviceError, match=f"2 phones are connected; choose one by --serial: .*{other}"):
        create("android", connection={"benchmark_binary": str(program)}).open()
    with pytest.raises(DeviceError, match="no phone with the serial number 'none'; adb sees"):
        create("android", connection={"serial": "none", "benchmark_binary": str(program)}).open()


def test_a_phone_without_room_is_told(phone: Any, made: Callable[..., Device]) -> None:
    space = os.statvfs(phone.root / "data/local/tmp")
    filler = phone.root / "data/local/tmp/filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - 40_000)
    with pytest.raises(DeviceLost, match="storage is full"), made().open() as session:
        session.load("a", conv(4000))
    assert left(phone) == ["filler"]


def test_a_program_for_other_phones_is_refused(phone: Any, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xf3\x00" + bytes(44))
    with pytest.raises(DeviceError, match="is built for riscv64, the phone runs"):
        create("android", connection={"benchmark_binary": str(tmp_path / "other")}).open()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice({"k1": torch.nn.Conv2d(3, 8, 1), "k5": torch.nn.Conv2d(3, 8, 5, padding=2)})
        self.second = LayerChoice({"k1": torch.nn.Conv2d(8, 8, 1), "k7": torch.nn.Conv2d(8, 8, 7, padding=3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Unplugging(Silent):
    """Pulls the cable once some operators have been visited."""

    def __init__(self, phone: Any) -> None:
        self.phone: Any = phone

    def step(self, name: str, done: float, total: float) -> None:
        if name == "operators" and self.phone is not None:
            self.phone.unplug()
            self.phone = None


def test_a_profile_goes_on_where_the_cable_was_pulled(
    phone: Any, made: Callable[..., Device], program: Path, tmp_path: Path
) -> None:
    write_program(program, f"{sys.executable} -IS {STANDIN} --quick")
    rules = MeasuringProtocol(min_visits=3, max_visits=3, span_s=0.0, network_visits=2)
    request = ProfileRequest(made(), SearchSpace(Net, (3, 16, 16)), tmp_path / "t.db", protocol=rules)
    with pytest.raises(DeviceLost, match="the phone went away in the middle"):
        profile(request, Unplugging(phone))
    with LatencyTable.open(request.out) as table:
        before = table.all_visits()
        assert {len(visits) for visits in before.values()} == {1}
        assert {row.status for row in table.rows()} == {"pending"}
    phone.plug()
    result = profile(request)
    assert (result.n, result.failed) == (4, {})
    assert result.calibration is not None
    with LatencyTable.open(request.out) as table:
        after = table.all_visits()
        assert all(len(after[key]) == 3 and after[key][0].wall == before[key][0].wall for key in before)
        assert table.provenance.settings["gpu"] is False
        assert phone.serial not in str([table.provenance.to_json(), table.sessions(), table.records("conditions")])
    assert left(phone) == []
