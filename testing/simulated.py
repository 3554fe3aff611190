"""A device that follows a table or a formula, on a clock of its own: exact, fast, and able to misbehave on request."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from ..devices.base import Artifact, Device, DeviceError, DeviceLost, Model, OutputUnreadable, Runtime, Settings

FAULTS = ("crash", "segv", "hang", "memory", "error", "print", "lost", "unreadable")
EPOCH = 1.7e9  # Unix time at which every simulated session begins
COLD, COLD_NS = 0.2, 1e5  # a run after another workload's is this much slower, but not by more than so many ns


@dataclass(frozen=True)
class SimulatedSettings(Settings):
    """How the simulated device behaves. Everything is deterministic for a seed.

    Attributes:
        table: workload id or digest -> milliseconds, or the path of a JSON file with that; others follow the formula.
        overhead_us: of every run; op_us: of every operator; gmacs_per_s: throughput, scaled for each operator type by a
            factor from 0.5 to 1.5 that depends on its name and the seed.
        noise: runs are slower by an exponential variable of this relative mean.
        burst_probability, burst_factor: a visit is slower by that factor with that probability.
        visit_s: simulated seconds between two visits.
        faults: pattern of workload ids -> one of FAULTS; ``fault_after``: how many runs of a loaded model go well
            before; ``fault_once``: path of a file that is written at the first fault and prevents all further ones.
    """

    table: Mapping[str, float] | str | None = None
    overhead_us: float = 5.0
    op_us: float = 1.0
    gmacs_per_s: float = 20.0
    noise: float = 0.002
    burst_probability: float = 0.0
    burst_factor: float = 1.2
    seed: int = 0
    visit_s: float = 0.5
    faults: Mapping[str, str] | None = None
    fault_after: int = 0
    fault_once: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in (self.faults or {}).values():
            if kind not in FAULTS:
                raise DeviceError(f"a fault must be one of {', '.join(FAULTS)}, not {kind!r}")


class Simulated(Device):
    """Device "simulated": the real agent process and protocol around invented durations.

    An artifact may misbehave by itself: ``{"simulate": {"fault": "hang", "after": 3}}`` at the top of its JSON.
    """

    name = "simulated"
    format = "ops"
    settings_type = SimulatedSettings
    for_testing = True

    @property
    def clock(self) -> str:
        return "cpu"

    def runtime(self) -> Runtime:
        assert isinstance(self.settings, SimulatedSettings)
        return SimulatedRuntime(self.settings)


class SimulatedRuntime(Runtime):
    """The virtual clock and the durations; ``last`` is the model that ran last, whose next run is warm."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self.settings = settings
        self.clock = EPOCH
        self.last: Model | None = None
        self._table = _table(settings.table)

    def describe(self) -> dict[str, Any]:
        return {"name": "simulated", "version": "1", "numpy": np.__version__}

    def now(self) -> float:
        return self.clock

    def load(self, id: str, artifact: Artifact) -> Model:
        """Raises DeviceError where the artifact is no JSON object."""
        try:
            data = json.loads(artifact.data)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise DeviceError("the artifact is no JSON object")
        known = self._table.get(id, self._table.get(artifact.digest))
        milliseconds = self._formula(data) if known is None else known
        return SimulatedModel(self, id, milliseconds * 1e6, self._fault(id, data))

    def _formula(self, data: Mapping[str, Any]) -> float:
        settings = self.settings
        ops = data.get("ops") or [{"op": "all", "macs": data.get("macs", 0)}]
        microseconds = settings.overhead_us
        for op in ops:
            speed = 0.5 + zlib.crc32(f"{settings.seed} {op.get('op')}".encode()) / 2**32
            microseconds += settings.op_us + op.get("macs", 0) / (settings.gmacs_per_s * speed * 1e3)
        return microseconds / 1e3

    def _fault(self, id: str, data: Mapping[str, Any]) -> tuple[str, int] | None:
        for pattern, kind in (self.settings.faults or {}).items():
            if fnmatchcase(id, pattern):
                return kind, self.settings.fault_after
        marker = data.get("simulate")
        return (marker["fault"], marker.get("after", 0)) if isinstance(marker, dict) else None


class SimulatedModel(Model):
    """Durations of one workload, drawn from its own seeded generator; nothing is waited for."""

    def __init__(self, runtime: SimulatedRuntime, id: str, nanoseconds: float, fault: tuple[str, int] | None) -> None:
        self._runtime = runtime
        self._nanoseconds = nanoseconds
        self._fault = fault
        self._runs = 0
        self._rng = np.random.default_rng([runtime.settings.seed, zlib.crc32(id.encode())])

    def run(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        runtime, settings = self._runtime, self._runtime.settings
        if self._fault is not None and self._runs + n > self._fault[1]:
            self._misbehave(self._fault[0])
        self._runs += n
        slowdown = 1 + settings.noise * self._rng.exponential(size=n)
        if self._rng.random() < settings.burst_probability:
            slowdown *= settings.burst_factor
        if runtime.last is not self:
            slowdown[0] *= 1 + min(COLD, COLD_NS / max(self._nanoseconds, 1))
            runtime.clock += settings.visit_s
        runtime.last = self
        cpu = np.rint(self._nanoseconds * slowdown).astype(np.int64)
        runtime.clock += float(cpu.sum()) / 1e9
        return cpu + 500, cpu

    def _misbehave(self, kind: str) -> None:
        once = self._runtime.settings.fault_once
        if once is not None:
            if Path(once).exists():
                return
            Path(once).touch()
        _FAULTS[kind]()


def _crash() -> None:
    sys.stderr.write("simulated crash\n")
    sys.stderr.flush()
    os._exit(3)


def _segv() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    while True:
        time.sleep(3600)


def _exhaust() -> None:
    hoard = []
    while True:
        hoard.append(np.ones(1 << 21))


def _error() -> None:
    raise RuntimeError("simulated error")


def _print() -> None:
    sys.stdout.write("a runtime that prints\n")
    sys.stdout.flush()
    os.write(1, b"and one that writes to descriptor 1\n")


def _lost() -> None:
    raise DeviceLost("the simulated device has gone")


def _unreadable() -> None:
    raise OutputUnreadable("the simulated tool's output cannot be understood", "count=many")


_FAULTS = {
    "crash": _crash,
    "segv": _segv,
    "hang": _hang,
    "memory": _exhaust,
    "error": _error,
    "print": _print,
    "lost": _lost,
    "unreadable": _unreadable,
}


def _table(source: Mapping[str, float] | str | None) -> dict[str, float]:
    if not isinstance(source, str):
        return dict(source or {})
    try:
        return dict(json.loads(Path(source).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DeviceError(f"the simulated device's table cannot be read: {error}") from None
