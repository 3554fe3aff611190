"""Device "android": a phone on adb that runs TFLite's ``benchmark_model``; the agent stays on the computer."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import signal
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from ..base import Artifact, Device, DeviceError, Model, OutputUnreadable, Runtime, Unavailable
from ..tflite import DTYPES, FORMAT, TfliteSettings, check_model
from .adb import Adb
from .benchmark import Benchmark, Delegation, delegation, parse
from .binary import Binary
from .cooling import PAUSE_S, Cooling
from .facts import FACTS, HEAT, STATE, Facts, State
from .folder import REMOVE_S, PhoneFolder

WARM_S, MEASURE_S = 0.1, 0.2
"""A visit warms up and measures for at least so long: starting the program on the phone takes about as much."""
MAX_S = 10.0
RUN_LIMIT_S = 45.0
"""Of one call of the program with its start-up, which compiles shaders for a GPU."""


@dataclass(frozen=True)
class AndroidSettings(TfliteSettings):
    """With ``gpu`` the GPU runs the models."""

    gpu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gpu, bool):
            raise DeviceError(f"gpu must be true or false, not {self.gpu!r}")


class Android(Device):
    """Reached by ``serial`` (not needed where one phone is connected); ``benchmark_binary`` is the path of the program,
    on the machine where the agent runs. Threads are the phone's."""

    name = "android"
    format = FORMAT
    dtypes = DTYPES
    settings_type = AndroidSettings
    connections = ("serial", "benchmark_binary")
    closing_s = REMOVE_S + 1.0
    pause_s = PAUSE_S + RUN_LIMIT_S
    cooling_s = 120.0

    @classmethod
    def unavailable(cls) -> Unavailable | None:
        if which("adb") is None:
            return Unavailable("adb is not installed", "apt-get install adb, or put platform-tools on the PATH")
        return None

    def check_machine(self) -> None:
        """Nothing: the phone's CPUs count, not those of the computer."""

    def runtime(self) -> Runtime:
        assert isinstance(self.settings, AndroidSettings)
        return AndroidRuntime(self.settings, self.connection)


class AndroidRuntime(Runtime):
    """A session with a phone.

    Raises:
        DeviceError: no adb, no usable phone, or a program that it cannot run.
    """

    def __init__(self, settings: AndroidSettings, connection: Mapping[str, Any]) -> None:
        self.settings = settings
        self._binary = Binary.read(connection.get("benchmark_binary"))
        self.adb = Adb(connection.get("serial"))
        self.facts = Facts.parse(self.adb.shell(FACTS).output)
        self._binary.check(self.facts.abis)
        if self.facts.cpus is not None and settings.threads > self.facts.cpus:
            raise DeviceError(f"threads must be from 1 to {self.facts.cpus}, the phone's CPUs, not {settings.threads}")
        self._ended = threading.Event()
        self.cooling = Cooling(lambda: State.parse(self.adb.shell(HEAT).output), self._ended)
        self.partly: set[str] = set()
        self.folder = PhoneFolder(self.adb, self._binary)

    @property
    def delegate(self) -> str | None:
        """What is asked to run the models."""
        if self.settings.gpu:
            return "GPU"
        return "XNNPACK" if self.settings.optimization == "all" else None

    @property
    def flags(self) -> list[str]:
        """Flags of every call that times depend on."""
        settings = self.settings
        flags = [f"--num_threads={settings.threads}"]
        if settings.gpu:  # by default the GPU computes in fp16 whatever the model is in
            flags += ["--use_gpu=true", f"--gpu_precision_loss_allowed={str(settings.dtype != 'fp32').lower()}"]
        else:
            flags.append(f"--use_xnnpack={str(settings.optimization == 'all').lower()}")
        return flags

    def describe(self) -> dict[str, Any]:
        return {
            "name": "benchmark_model",
            "version": self._binary.digest[:16],
            "flags": self.flags,
            "warm_s": WARM_S,
            "measure_s": MEASURE_S,
            "delegate": self.delegate,
            "adb": self.adb.version(),
            "phone": dict(self.facts.told),
            "phone_id": hashlib.sha256(f"hwnas {self.adb.serial}".encode()).hexdigest()[:12],
            "state": self._state().as_dict(),
        }

    def environment(self) -> dict[str, Any]:
        """Of the phone; host and Python are the agent's."""
        return {"host": platform.node(), "python": platform.python_version(), **self.facts.environment()}

    def load(self, id: str, artifact: Artifact) -> Model:
        """Copy the model to the phone.

        Raises:
            DeviceError: it is no TFLite model, or cannot be copied.
            DeviceLost: the phone has no room for it, or went away.
        """
        check_model(artifact)
        remote = self.folder.new_file()
        with tempfile.NamedTemporaryFile(prefix="hwnas-", suffix=".tflite") as file:
            file.write(artifact.data)
            file.flush()
            self.adb.push(Path(file.name), remote)
        return AndroidModel(self, id, remote)

    def conditions(self) -> dict[str, Any]:
        paused_s, gave_up = self.cooling.paused_s, self.cooling.gave_up
        self.cooling.new_round()
        try:
            state = self._state()
        except DeviceError:  # whoever measures next will hear of it
            return {}
        doubts = []
        if state.awake is False:
            doubts.append("the phone's screen is off, which slows many phones down: keep it on (`Stay awake`)")
        if self.facts.told.get("low_power"):
            doubts.append("the phone's battery saver is on, which slows it down: switch it off")
        if gave_up:
            doubts.append(
                "the phone was slowed down for heat, and pauses did not help: let it cool, then measure again"
            )
        if self.partly:
            doubts.append(f"the {self.delegate} runs {len(self.partly)} models only in part; the CPU ran the rest")
        told = {"time": self.now(), **state.as_dict(), "doubts": doubts}
        return told | ({"paused_s": paused_s} if paused_s else {})

    def close(self) -> None:
        self._ended.set()
        self.folder.remove()

    def _state(self) -> State:
        # A touched folder belongs to a living session.
        return State.parse(self.adb.shell(f"touch {self.folder.path}; {STATE}").output)


class AndroidModel(Model):
    """A model in the session's folder. Every visit starts the program anew, so there is always a warm-up."""

    def __init__(self, runtime: AndroidRuntime, id: str, remote: str) -> None:
        self._runtime = runtime
        self._id = id
        self._remote = remote
        self._first: Benchmark | None = None
        self._delegation = Delegation()

    def run(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        return self.visit(0, n)

    def visit(self, warmup: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
        """At least so many runs, and more where they are short; the mean of the timed ones, and no CPU time."""
        if self._first is None:
            text = self._call(warmup, runs, "--enable_op_profiling=true", "--report_peak_memory_footprint=true")
            self._check_delegate(text)
            found = self._first = self._parse(text)
        else:
            self._runtime.cooling.wait()
            found = self._parse(self._call(warmup, runs))
        return np.array([max(1, round(found.measured.mean * 1000))], np.int64), np.empty(0, np.int64)

    def report(self) -> dict[str, Any]:
        first, told = self._first, self._delegation
        if first is None:
            return {}
        unknown = float("nan")
        times = {
            "load_ms": first.init,
            "first_run_ms": first.first,
            "warm_run_ms": first.measured.mean,
        }
        report: dict[str, Any] = {name: value / 1000 for name, value in times.items() if value}
        report |= {"first_run_peak_mb": unknown, "warm_run_peak_mb": unknown}  # the agent's own memory says nothing
        report["peak_mb"] = first.peak_mb or first.overall_mb or unknown
        report["load_peak_mb"] = first.init_mb if first.init_mb is not None else unknown
        if self._runtime.delegate is not None and told.delegated is not None and told.operators is not None:
            counts = {"operators": told.operators, "delegated": told.delegated}
            report |= {"delegate": self._runtime.delegate, **counts, "left": list(told.left)}
        return report

    def close(self) -> None:
        self._runtime.partly.discard(self._id)
        with contextlib.suppress(DeviceError):
            self._runtime.adb.shell(f"rm -f {self._remote}")

    def _call(self, warmup: int, runs: int, *more: str) -> str:
        """Run the program; raises DeviceError where it fails."""
        short = runs == 1
        flags = [
            f"--graph={self._remote}",
            *self._runtime.flags,
            f"--warmup_runs={max(1, warmup)}",
            f"--warmup_min_secs={WARM_S if warmup else 0}",
            f"--num_runs={runs}",
            f"--min_secs={0 if short else MEASURE_S}",
            f"--max_secs={MAX_S:g}",
            *more,
        ]
        # Where the connection breaks, only the shell is told; it may be before the program has begun.
        told = "trap 'kill -9 $! 2>/dev/null; exit 129' HUP"
        started = f"{self._runtime.folder.program} {' '.join(flags)}"
        ended = self._runtime.adb.shell(f"{told}; {started} & wait $!", RUN_LIMIT_S)
        if ended.code:
            raise DeviceError(f"benchmark_model {_cause(ended.code)}: {self._last_words(ended.output)}")
        return ended.output

    def _parse(self, text: str) -> Benchmark:
        try:
            return parse(text)
        except OutputUnreadable as error:
            raise OutputUnreadable(str(error), text.replace(self._runtime.adb.serial, "SERIAL")) from None

    def _check_delegate(self, text: str) -> None:
        """Refuse a silent fall-back from the GPU to the CPU, and keep what was delegated."""
        delegate = self._runtime.delegate
        if delegate is None:
            return
        told = self._delegation = delegation(text, delegate)
        if delegate == "GPU" and told.extent not in ("completely", "partially"):
            left = f" (it does not support {', '.join(told.left)})" if told.left else ""
            said = f"the GPU runs none of this model{left}" if told.extent else "the program does not apply the GPU"
            raise DeviceError(f"{said}, the CPU would silently run it instead; measure without --gpu")
        if told.extent == "partially" and told.operators is None:
            self._runtime.partly.add(self._id)

    def _last_words(self, output: str) -> str:
        text = output.replace(self._runtime.folder.path + "/", "").replace(self._runtime.adb.serial, "SERIAL")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "Failed" in line or "F tflite" in line]
        return " | ".join((errors or lines)[-3:])[-400:] or "it said nothing"


def _cause(code: int) -> str:
    if code <= 128:
        return f"exited with code {code}"
    number = code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
