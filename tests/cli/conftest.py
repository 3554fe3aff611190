"""Running commands, in this process and in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hwnas.cli import main
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def hwnas(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def process() -> Callable[..., Result]:
    """Runs a command in a process of its own."""

    def call(*arguments: object, **options: Any) -> Result:
        command = [sys.executable, "-m", "hwnas.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.db"
    about = Provenance(device="cpu", unit="ms", settings={"batch": 1, "threads": 1}, space="x", created="2026-01-02")
    with LatencyTable.create(path, about) as made:
        made.register([WorkloadRow("slow [red]8x8[/red]", "slow"), WorkloadRow("fast 8x8", "fast", "fixed")])
        made.register([WorkloadRow("bad 8x8", "bad"), WorkloadRow("waiting 8x8", "waiting")])
        made.finish("slow [red]8x8[/red]", latency=2.5, low=2, high=3)
        made.finish("fast 8x8", latency=0.5, status="unconverged", reason="3 visits did not agree")
        made.finish("bad 8x8", status="failed", reason="crashed")
        made.set_calibration({"factor": 1.0})
    return path
