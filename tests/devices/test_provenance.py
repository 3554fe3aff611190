"""What is said about the machine, and that nothing of it is needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hwnas.devices import provenance


def test_this_machine_is_described() -> None:
    about = provenance.environment()
    assert json.loads(json.dumps(about)) == about
    assert about["cpu"]["logical"] == os.cpu_count()
    assert set(about["cpu"]["usable"]) == os.sched_getaffinity(0)
    assert about["memory_mb"]["total"] >= about["memory_mb"]["available"] > 0
    assert provenance.preemptions() >= 0


def test_a_machine_that_says_nothing_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise PermissionError

    def no_load() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(os, "getloadavg", no_load)
    about = provenance.environment()
    json.dumps(about)
    assert about["load"] is None
    assert about["memory_mb"] == {"total": None, "available": None}
    assert about["cpu"]["governor"] is None
    assert all(value != value for value in provenance.resident_mb())
    provenance.reset_peak()


def test_cores_are_told_from_hardware_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [f"processor: {i}\nmodel name: Xeon\nphysical id: 0\ncore id: {i // 2}\n" for i in range(4)]
    monkeypatch.setattr(provenance, "_read", lambda path: "\n".join(blocks) if "cpuinfo" in str(path) else "")
    cpu = provenance.environment()["cpu"]
    assert cpu["physical"] == 2
    assert cpu["model"] == "Xeon"
