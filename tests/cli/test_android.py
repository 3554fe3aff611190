"""The options of device android, and what becomes of a phone whose program says what nobody understands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hwnas.cli.measuring import create_device
from hwnas.devices import DeviceError

DEVICES = Path(__file__).resolve().parents[1] / "devices"
SPACE = """
import torch
from hwnas import LayerChoice, SearchSpace

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.only = LayerChoice([torch.nn.Conv2d(3, 4, k, padding=k // 2) for k in (1, 3)])

    def forward(self, x):
        return self.only(x)

def space():
    return SearchSpace(Net, (3, 8, 8))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark program; its phone is in ``tmp_path / "adb"``, behind an adb on the PATH."""
    folder = tmp_path / "adb"
    (folder / "phone").mkdir(parents=True)
    (folder / "devices").write_text("SER1\tdevice\n")
    for name, text in (
        ("adb", (DEVICES / "fake_adb.sh").read_text()),
        ("program", f'#!/bin/sh\nexec {sys.executable} -IS {DEVICES / "benchmark_standin.py"} --quick "$@"\n'),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "program"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu", "--serial", "S"], "device 'cpu' has no connection option 'serial'; it takes: none"),
        (["--device", "cpu", "--gpu"], "device 'cpu' has no setting 'gpu'"),
        (["--device", "android"], "needs --benchmark-binary PATH"),
        (["--device", "android", "--benchmark-binary", "none"], "--benchmark-binary none: there is no such file"),
        (
            ["--device", "android", "--serial", "S", "--benchmark-binary", "PROGRAM"],
            "serial number 'S'; adb sees: SER1",
        ),
        (["--device", "android", "--dtype", "bf16"], "device 'android' has no bf16, only fp32, fp16, int8"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    arguments: list[str], message: str, hwnas: Callable[..., Any], program: Path, tmp_path: Path
) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    given = [str(program) if argument == "PROGRAM" else argument for argument in arguments]
    result = hwnas("profile", "--space", "space.py:space", "--out", "t.db", *given)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err
    assert not (tmp_path / "t.db").exists()


def test_output_that_nobody_understands_is_kept_and_named(
    hwnas: Callable[..., Any], program: Path, tmp_path: Path
) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "adb/phone/behave").write_text("gibberish")
    options = ("--device", "android", "--benchmark-binary", program, "--space", "space.py:space")
    result = hwnas("profile", *options, "--out", "t.db", "--quiet", "--json", "-")
    assert result.code == 1
    assert len(result.json["failed"]) == result.json["n"] == 2
    assert "cannot be understood" in result.json["failed"][0]["reason"]
    assert "`hwnas table show t.db --json -`" in result.json["failed"][0]["reason"]
    shown = hwnas("table", "show", "t.db", "--json", "-")
    assert {output["key"] for output in shown.json["outputs"]} >= {failed["key"] for failed in result.json["failed"]}
    assert "count=many" in shown.json["outputs"][0]["text"]
    assert "SER1" not in shown.out
    assert [path.name for path in (tmp_path / "adb/phone").iterdir()] == ["behave"]


def test_the_gpu_is_taken_from_a_predictors_file_and_the_phone_is_not() -> None:
    made_for = ("android", {"gpu": True, "threads": 2, "serial": "S", "benchmark_binary": "/evil"})
    device = create_device(None, made_for=made_for, serial="MINE")
    assert device.settings.as_dict()["gpu"] is True
    assert device.settings.threads == 2
    assert device.connection == {"serial": "MINE"}
    with pytest.raises(DeviceError, match="gpu must be true or false"):
        create_device(None, made_for=("android", {"gpu": "rm -rf"}))
