"""Finding devices, and settings that they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hwnas.devices import DeviceError, create, device_names, status


def test_users_see_the_devices_and_not_the_simulated_one() -> None:
    assert set(device_names()) >= {"cpu", "flops", "mobile", "android", "gpu"}
    assert "simulated" not in device_names()
    assert "simulated" in device_names(testing=True)


def test_status_says_what_can_be_used_and_what_would_mend_the_rest() -> None:
    lines = {line.name: line for line in status()}
    assert lines["cpu"].available
    assert (lines["cpu"].unit, lines["cpu"].format) == ("ms", "onnx")
    assert lines["flops"].unit == "MMACs"
    for line in lines.values():
        assert line.available or (line.reason and line.mend)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cpuu", {}, "no device 'cpuu'; there are: cpu, flops"),
        ("", {}, "no device ''"),
        ("gpu8", {"batch": 2}, "already says the batch"),
        ("gpu0", {}, "batch must be a whole number from 1 to 65536, not 0"),
        ("gpu", {"dtype": "int8"}, "'gpu' has no int8, only fp32, tf32, fp16, bf16"),
        ("gpu", {"threads": 2}, "'gpu' takes no threads, 2 were asked for"),
        ("gpu", {"eager": "yes"}, "eager must be true or false"),
        ("cpu", {"colour": "red"}, "no setting 'colour'; it has: batch, threads, dtype, optimization"),
        ("cpu", {"batch": 0}, "batch must be a whole number from 1 to 65536, not 0"),
        ("cpu", {"batch": True}, "not True"),
        ("cpu", {"batch": "2"}, "not '2'"),
        ("cpu", {"threads": -1}, "threads"),
        ("cpu", {"dtype": "fp64"}, "one of fp32, fp16, bf16, tf32, int8, not 'fp64'"),
        ("cpu", {"dtype": "fp16"}, "'cpu' has no fp16, only fp32, int8"),
        ("cpu", {"optimization": "O3"}, "one of all, extended, basic, disable"),
        ("simulated", {"faults": {"x": "explode"}}, "a fault must be one of"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        create(name, **settings)
    assert "\n" not in str(caught.value)


def test_a_connection_that_a_device_does_not_take_is_refused() -> None:
    assert create("cpu", connection={"serial": None}).connection == {}
    with pytest.raises(DeviceError, match="'cpu' has no connection option 'serial'; it takes: none"):
        create("cpu", connection={"serial": "123"})


def test_settings_that_are_none_count_as_not_given() -> None:
    assert create("cpu", batch=None, threads=None).settings == create("cpu").settings
    assert create("gpu8", batch=None).settings.batch == 8


PLUGIN = """
from hwnas.devices.base import Device, Unavailable
class Abacus(Device):
    name, format = "abacus", "ops"
    @classmethod
    def unavailable(cls):
        return Unavailable("the beads are missing", "buy beads")
    def runtime(self):
        raise NotImplementedError
not_a_device = 3
"""


def run_with_plugins(tmp_path: Path, entries: str, code: str) -> str:
    """What ``code`` prints where a package with these entry points is installed."""
    (tmp_path / "abacus.py").write_text(PLUGIN)
    info = tmp_path / "abacus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hwnas.devices]\n{entries}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", f"from hwnas.devices import *\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )
    return result.stdout


def test_other_packages_add_devices(tmp_path: Path) -> None:
    code = """
print(device_names())
print(create("abacus"))
print([line for line in status() if line.name == "abacus"])
try: create("abacus").open()
except DeviceError as error: print(error)
"""
    said = run_with_plugins(tmp_path, "abacus = abacus:Abacus", code)
    assert "'abacus'" in said
    assert "<device abacus batch=1" in said
    assert "reason='the beads are missing', mend='buy beads'" in said
    assert "cannot be used here: the beads are missing; buy beads" in said


@pytest.mark.parametrize(
    ("entry", "message"),
    [("broken = no_such_module:X", "fails to import"), ("broken = abacus:not_a_device", "no subclass of")],
)
def test_a_broken_package_costs_only_its_own_device(tmp_path: Path, entry: str, message: str) -> None:
    code = """
for line in status(): print(line.name, line.available, line.reason)
try: create("broken")
except DeviceError as error: print("error:", error)
"""
    said = run_with_plugins(tmp_path, entry, code)
    assert "cpu True" in said
    assert "broken False" in said
    assert message in said.split("error:")[1]


def test_a_package_cannot_replace_a_built_in_device(tmp_path: Path) -> None:
    assert "<device cpu" in run_with_plugins(tmp_path, "cpu = abacus:Abacus", "print(create('cpu'))")


def test_importing_the_room_is_light() -> None:
    heavy = "('torch', 'onnx', 'onnxruntime', 'pandas', 'sklearn', 'numpy')"
    code = f"import sys, hwnas.devices; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
    code = (
        "import sys, hwnas.devices as d\n"
        "[getattr(d, name) for name in d.__all__]; d.status(); d.create('cpu'); d.create('flops')\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'pandas', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
