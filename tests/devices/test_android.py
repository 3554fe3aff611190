"""Device android behind an adb that runs the phone's commands here; ``tests/remote`` has the real one."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hwnas.devices import Artifact, Device, DeviceError, DeviceLost, Session, WorkloadFailed, create, status
from hwnas.devices.android import cooling
from hwnas.devices.android.adb import Adb
from hwnas.devices.android.cooling import Cooling
from hwnas.devices.android.facts import State
from hwnas.testing.devices import DeviceConformance

HERE = Path(__file__).resolve().parent
GETPROP = """#!/bin/sh
case $1 in
  ro.product.manufacturer) echo Acme;;
  ro.product.model) echo 'Model 8';;
  ro.product.cpu.abi) echo arm64-v8a;;
  ro.product.cpu.abilist) echo arm64-v8a,armeabi-v7a;;
  ro.build.version.release) echo 14;;
  ro.build.version.sdk) echo 34;;
esac
"""
DUMPSYS = """#!/bin/sh
cat "$(dirname "$0")/dumpsys-$1" 2>/dev/null
"""
THERMAL = """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=90.0, mType=3, mName=skin, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=33.5, mType=3, mName=skin, mStatus=0}
\tTemperature{mValue=41.0, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=43.0, mType=0, mName=CPU1, mStatus=0}
\tTemperature{mValue=0.0, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=3, mType=2, mName=thermal-cpufreq-0}
"""
BATTERY = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 87\n  temperature: 312\n"


class Phone:
    """The folder of the fake adb: what it is told to do, and what is on the phone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tmp = folder / "phone"
        for name in ("phone", "bin"):
            (folder / name).mkdir()
        self.program("adb", (HERE / "fake_adb.sh").read_text(), folder)
        self.say("devices", "SER123\tdevice")
        self.program("getprop", GETPROP)
        self.program("dumpsys", DUMPSYS)
        self.dumpsys("thermalservice", THERMAL)
        self.dumpsys("battery", BATTERY)
        self.dumpsys("power", "  mWakefulness=Awake\n  mWakefulnessChanging=false\n")
        self.binary = self.benchmark("quick", f"{sys.executable} -IS {HERE / 'benchmark_standin.py'} --quick")
        self.real = self.benchmark("real", f"{sys.executable} {HERE / 'benchmark_standin.py'}")

    def say(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def dumpsys(self, service: str, text: str) -> None:
        (self.folder / "bin" / f"dumpsys-{service}").write_text(text)

    def behave(self, how: str) -> None:
        (self.tmp / "behave").write_text(how)

    def program(self, name: str, text: str, folder: Path | None = None) -> Path:
        path = (folder or self.folder / "bin") / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def benchmark(self, name: str, command: str) -> Path:
        return self.program(name, f'#!/bin/sh\nexec {command} "$@"\n', self.folder)

    def sessions(self) -> list[Path]:
        return list(self.tmp.glob("hwnas-*"))

    def device(self, **settings: Any) -> Device:
        return create("android", connection={"benchmark_binary": str(self.binary)}, **settings)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    (tmp_path / "adb").mkdir()
    phone = Phone(tmp_path / "adb")
    monkeypatch.setenv("PATH", f"{phone.folder}:{os.environ['PATH']}")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return phone


@pytest.fixture
def session(phone: Phone) -> Iterator[Session]:
    with phone.device().open() as session:
        yield session


@pytest.fixture
def tflite_conv(tflite_model: Callable[..., Any]) -> Callable[[int], Artifact]:
    return lambda width: tflite_model().conv(width).artifact()


@pytest.fixture
def model(tflite_conv: Callable[[int], Artifact]) -> Artifact:
    return tflite_conv(4)


class TestAndroid(DeviceConformance):
    @pytest.fixture
    def device(self, phone: Phone) -> Device:
        return phone.device()

    @pytest.fixture
    def artifacts(self, tflite_conv: Callable[[int], Artifact]) -> Mapping[str, Artifact]:
        return {"narrow": tflite_conv(4), "wide": tflite_conv(16)}

    def test_a_model_tells_its_start_up_memory_and_delegate(self, session: Session, model: Artifact) -> None:
        report = session.load("a", model)
        assert report.peak_mb == 93.2
        assert report.load_peak_mb == 1.25
        assert report.delegate == "XNNPACK"
        assert report.operators == report.delegated
        assert report.operators

    def test_it_tells_of_the_phone_and_not_its_serial_number(self, session: Session) -> None:
        about = session.describe()
        assert "SER123" not in json.dumps(about)
        assert about["hardware"] == "Acme Model 8"
        assert (about["system"], about["architecture"]) == ("Android 14", "arm64-v8a")
        runtime = about["runtime"]
        assert runtime["delegate"] == "XNNPACK"
        assert "--use_xnnpack=true" in runtime["flags"]
        assert len(runtime["phone_id"]) == 12
        assert runtime["state"]["celsius"] == {"battery": 31.2, "skin": 33.5, "cpu": 43.0}
        assert runtime["state"]["battery"] == {"percent": 87, "charging": True}
        assert runtime["state"]["status"] == "none"

    def test_a_real_model_is_timed_on_the_phone(self, phone: Phone, artifacts: Mapping[str, Artifact]) -> None:
        phone.binary = phone.real
        with phone.device().open() as session:
            for id, artifact in artifacts.items():
                assert session.load(id, artifact).operators == 1
            assert set(session.round(list(artifacts)).samples) == set(artifacts)
            with pytest.raises(WorkloadFailed, match=r"benchmark_model exited with code 1: .*mmap"):
                session.load("cut", Artifact("tflite", artifacts["wide"].data[:200], (), "d", "emitter"))

    def test_a_round_tells_the_phones_state(self, session: Session, model: Artifact, phone: Phone) -> None:
        session.load("a", model)
        assert session.round(["a"]).conditions["celsius"]["skin"] == 33.5
        phone.dumpsys("power", "mWakefulness=Dozing\n")
        assert "screen is off" in session.round(["a"]).conditions["doubts"][0]

    def test_what_lacks_on_the_phone_is_left_out(self, phone: Phone, model: Artifact) -> None:
        for name in ("getprop", "dumpsys"):
            phone.program(name, "#!/bin/sh\necho not here >&2\nexit 127\n")
        with phone.device().open() as session:
            about = session.describe()
            session.load("a", model)
            assert session.round(["a"]).conditions["doubts"] == []
        assert about["hardware"] is None
        assert about["architecture"]
        assert "status" not in about["runtime"]["state"]


# -- what is left behind


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_the_phone_is_left_clean(how: str, phone: Phone, model: Artifact) -> None:
    session = phone.device().open()
    session.load("a", model)
    assert len(phone.sessions()) == 1
    assert [file.name for file in sorted(phone.sessions()[0].iterdir())] == ["1.tflite", "benchmark_model"]
    if how == "close":
        session.close()
    else:
        phone.behave("hang")
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(KeyboardInterrupt):
                session.round(["a"])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert phone.sessions() == []
        session.close()
    assert phone.sessions() == []


def test_the_next_session_removes_what_a_dead_one_left(phone: Phone) -> None:
    session = phone.device().open()
    os.kill(session.agent_pid, signal.SIGKILL)
    (left,) = phone.sessions()
    for name in ("hwnas-notes", "hwnas-00000000-1-00000000"):  # somebody's own, and another computer's
        (phone.tmp / name).mkdir()
    old = phone.tmp / "hwnas-00000000-1-00000001"
    old.mkdir()
    os.utime(old, (time.time() - 8000, time.time() - 8000))
    session.close()
    with phone.device().open(), phone.device().open():
        names = {path.name for path in phone.sessions()}
        assert len(names) == 4
        assert not {left.name, old.name} & names
    assert {path.name for path in phone.sessions()} == {"hwnas-notes", "hwnas-00000000-1-00000000"}


def test_an_unloaded_model_is_removed(session: Session, phone: Phone, model: Artifact) -> None:
    session.load("a", model)
    session.load("b", model)
    session.unload("a")
    assert [path.name for path in phone.sessions()[0].glob("*.tflite")] == ["2.tflite"]
    assert session.round(["b"]).samples


# -- what goes wrong


@pytest.mark.parametrize(
    ("devices", "serial", "message"),
    [
        ("", None, "no phone is connected; .*USB debugging"),
        ("A\tunauthorized", None, "phone A has not allowed this computer to debug it; unlock it"),
        ("A\toffline", None, "phone A is offline.*cable"),
        ("A\tno permissions (missing udev rules?); see [http://x]", None, "may not be opened by this user.*udev"),
        ("A\trecovery", None, "phone A is in the state 'recovery'.*home screen"),
        ("A\tdevice\nB\tdevice", None, "2 phones are connected; choose one by --serial: A, B"),
        ("A\tdevice\nB\tdevice", "C", "no phone with the serial number 'C'; adb sees: A, B"),
        ("", "C", "no phone with the serial number 'C'; adb sees none"),
        ("A\tdevice\nB\tunauthorized", "B", "phone B has not allowed"),
    ],
)
def test_each_phone_that_cannot_be_used_has_its_message(
    devices: str, serial: str | None, message: str, phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.devices.android.adb.SETTLE_S", 0.1)
    phone.say("devices", devices)
    with pytest.raises(DeviceError, match=message) as caught:
        Adb(serial)
    assert "\n" not in str(caught.value)


def test_the_phone_is_chosen_by_serial_environment_or_because_it_is_the_only_one(
    phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.say("devices", "A\tdevice\nB\toffline")
    monkeypatch.setattr("hwnas.devices.android.adb.SETTLE_S", 0.1)
    assert Adb().serial == "A"
    phone.say("devices", "A\tdevice\nB\tdevice")
    assert Adb("B").serial == "B"
    monkeypatch.setenv("ANDROID_SERIAL", "A")
    assert Adb().serial == "A"


def test_without_adb_the_device_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = [line for line in status() if line.name == "android"]
    assert (line.available, line.reason) == (False, "adb is not installed")
    assert "apt-get install adb" in line.mend
    with pytest.raises(DeviceError, match="adb is not installed; apt-get install adb"):
        create("android").open()
    with pytest.raises(DeviceError, match="adb is not installed; apt-get"):
        Adb()


def test_a_server_that_cannot_be_started_is_named(phone: Phone) -> None:
    phone.say("cannot-start", "* daemon not running; starting now at tcp:5037\nadb: cannot connect to daemon")
    with pytest.raises(DeviceError, match=r"adb's server cannot be started or reached .*adb kill-server"):
        Adb()


def elf(machine: int, kind: int = 3) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", kind, machine) + bytes(44)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; it is built with"),
        ("folder", "is not a file"),
        (elf(62), "is built for x86_64, the phone runs arm64-v8a, armeabi-v7a; take a benchmark_model for arm64-v8a"),
        (elf(183, 1), "is an ELF file, but no program"),
        (b"PK\x03\x04", "an app or archive; needed is the command-line benchmark_model"),
        (b"hello", "neither a program for phones"),
        (elf(183), "the phone cannot run --benchmark-binary .*(Exec format|not executable|cannot execute)"),
        (b"#!/no/such/interpreter\n", "the phone cannot run"),
        (b"#!/bin/sh\nkill -ILL $$\n", "crashes on the phone .signal 4."),
    ],
)
def test_a_program_that_phones_cannot_run_is_refused(content: Any, message: str, phone: Phone, tmp_path: Path) -> None:
    path = tmp_path / "program"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DeviceError, match=message):
        create("android", connection={"benchmark_binary": str(path)}).open()
    assert phone.sessions() == []


def test_without_a_program_there_is_nothing_to_run(phone: Phone) -> None:
    with pytest.raises(DeviceError, match="needs --benchmark-binary PATH"):
        create("android").open()


def test_a_full_phone_stops_everything(phone: Phone, model: Artifact) -> None:
    with phone.device().open() as session:
        session.load("a", model)
        phone.say("full", "No space left on device")
        with pytest.raises(DeviceLost, match=r"storage is full, 0\.0 MB did not fit in /data/local/tmp/hwnas"):
            session.load("b", model)
        phone.say("full", "")
        assert session.round(["a"]).samples
    phone.say("full", "No space left on device")
    with pytest.raises(DeviceError, match="storage is full"):
        phone.device().open()
    assert phone.sessions() == []


def test_a_phone_that_vanishes_costs_no_workload(phone: Phone, tflite_conv: Callable[[int], Artifact]) -> None:
    with phone.device().open() as session:
        session.load("a", tflite_conv(4))
        session.load("b", tflite_conv(8))
        phone.say("cut", "2.tflite")
        result = session.round(["a", "b"])
        assert list(result.samples) == ["a"]
        assert result.failures == {}
        assert "the phone went away in the middle; check the cable" in result.lost
        with pytest.raises(DeviceLost, match="went away in the middle"):
            session.round(["a", "b"])
    assert len(phone.sessions()) == 1
    phone.say("cut", "")
    phone.say("devices", "SER123\tdevice")
    with phone.device().open():
        assert len(phone.sessions()) == 1
    assert phone.sessions() == []


@pytest.mark.parametrize(
    ("behave", "settings", "message"),
    [
        ("crash", {}, "benchmark_model was ended by SIGSEGV"),
        ("gibberish", {}, "output of benchmark_model cannot be understood"),
        ("", {"gpu": True}, "the GPU runs none of this model .it does not support CONV_2D.*without --gpu"),
        ("silent", {"gpu": True}, "the program does not apply the GPU.*without --gpu"),
    ],
)
def test_a_model_that_fails_is_named(
    behave: str, settings: dict[str, Any], message: str, phone: Phone, model: Artifact
) -> None:
    phone.behave(behave)
    with phone.device(**settings).open() as session, pytest.raises(WorkloadFailed, match=message) as caught:
        session.load("a", model)
    assert ("count=many" in caught.value.output) == (behave == "gibberish")
    assert phone.sessions() == []


def test_on_the_gpu_models_that_run_there_in_part_are_doubted(phone: Phone, model: Artifact) -> None:
    phone.behave("gpu-part")
    with phone.device(gpu=True).open() as session:
        assert session.describe()["settings"]["gpu"] is True
        session.load("a", model)
        assert "the GPU runs 1 models only in part" in session.round(["a"]).conditions["doubts"][0]
    phone.behave("gpu")
    with phone.device(gpu=True, dtype="fp16").open() as session:
        assert "--gpu_precision_loss_allowed=true" in session.describe()["runtime"]["flags"]
        session.load("a", model)
        assert session.round(["a"]).conditions["doubts"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"gpu": 1}, "gpu must be true or false"), ({"optimization": "basic"}, "one of all, disable where TFLite runs")],
)
def test_settings_that_it_does_not_have(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        create("android", **settings)


def test_more_threads_than_the_phones_are_refused(phone: Phone) -> None:
    with pytest.raises(DeviceError, match="the phone's CPUs, not 4000"):
        phone.device(threads=4000).open()


# -- heat


class Heat:
    """A phone whose thermal status is that of the moment."""

    def __init__(self, *status: int) -> None:
        self.status = list(status)
        self.looks = 0

    def __call__(self) -> State:
        self.looks += 1
        return State(status=self.status.pop(0) if len(self.status) > 1 else self.status[0])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("STEP_S", 0.001), ("PAUSE_S", 0.005), ("CHECK_S", 0.0)):
        monkeypatch.setattr(cooling, name, seconds)


def test_a_hot_phone_is_waited_for(quick: None) -> None:
    heat = Heat(3, 1, 0)
    pauses = Cooling(heat, threading.Event())
    pauses.wait()
    assert pauses.paused_s == pytest.approx(2 * cooling.STEP_S)
    assert not pauses.gave_up
    pauses.new_round()
    pauses.wait()
    assert pauses.paused_s == 0


def test_a_phone_that_stays_hot_is_measured_as_it_is(quick: None) -> None:
    heat = Heat(3)
    pauses = Cooling(heat, threading.Event())
    pauses.wait()
    assert pauses.gave_up
    assert pauses.paused_s == pytest.approx(cooling.PAUSE_S, abs=2 * cooling.STEP_S)
    pauses.new_round()
    pauses.wait()
    assert (pauses.gave_up, pauses.paused_s) == (True, 0)


def test_a_phone_is_not_looked_at_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooling, "CHECK_S", 60.0)
    heat = Heat(0)
    pauses = Cooling(heat, threading.Event())
    for _ in range(5):
        pauses.wait()
    assert heat.looks == 1
