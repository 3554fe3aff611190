"""The contract between a device and everything that measures on it.

A :class:`Device` lives on the host: it names a runtime, its settings and its unit, and opens a session. Its
:class:`Runtime` and :class:`Model` live in the agent process, where the clock runs.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from .data import (
    Artifact,
    DeviceError,
    DeviceLost,
    LoadReport,
    NodeTime,
    NodeTrace,
    OutputUnreadable,
    Round,
    Samples,
    TensorSpec,
    Unavailable,
    WorkloadFailed,
)

if TYPE_CHECKING:
    from .session import Session

__all__ = [
    "Artifact",
    "Device",
    "DeviceError",
    "DeviceLost",
    "LoadReport",
    "Model",
    "NodeTime",
    "NodeTrace",
    "OutputUnreadable",
    "Round",
    "Runtime",
    "Samples",
    "Settings",
    "TensorSpec",
    "Unavailable",
    "WorkloadFailed",
    "check_threads",
    "usable_cpus",
]

DTYPES = ("fp32", "fp16", "bf16", "tf32", "int8")
OPTIMIZATIONS = ("all", "extended", "basic", "disable")
MAX_BATCH = 65536
MAX_THREADS = 4096


@dataclass(frozen=True)
class Settings:
    """What a measurement depends on besides the device. A device may add fields in a subclass.

    Raises:
        DeviceError: a value out of range.
    """

    batch: int = 1
    threads: int = 1
    dtype: str = "fp32"
    optimization: str = "all"

    def __post_init__(self) -> None:
        _check_range("batch", self.batch, MAX_BATCH)
        _check_range("threads", self.threads, MAX_THREADS)
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("optimization", self.optimization, OPTIMIZATIONS)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON data; ``type(self)(**as_dict())`` gives them back."""
        return asdict(self)


def _check_range(name: str, value: Any, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise DeviceError(f"{name} must be a whole number from 1 to {high}, not {value!r}")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise DeviceError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_threads(settings: Settings) -> None:
    """Refuse more threads than this machine has CPUs for us; called on the machine that measures.

    Raises:
        DeviceError: naming the number of CPUs.
    """
    count = usable_cpus()
    if settings.threads > count:
        raise DeviceError(f"threads must be from 1 to {count}, the CPUs usable here, not {settings.threads}")


class Model(ABC):
    """A loaded workload, in the agent."""

    @abstractmethod
    def run(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Run ``n`` times in a row; wall and thread-CPU nanoseconds, two int64 arrays of shape (n,).

        Where the runtime gives a summary only: its mean, shape (1,). The second is empty where there is no such clock.
        """

    def visit(self, warmup: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
        """Run ``warmup`` times, then ``runs`` times timed as in `run`."""
        if warmup:
            self.run(warmup)
        return self.run(runs)

    def report(self) -> dict[str, Any]:
        """Fields of the `LoadReport` that the runtime itself knows better than its process; asked after two runs."""
        return {}

    def trace(self, runs: int) -> NodeTrace:
        """Time the nodes over ``runs`` runs; only where "trace" is among the device's capabilities."""
        raise DeviceError("this device cannot time single nodes")

    def close(self) -> None:
        """Give back what the model holds."""
        return


class Runtime(ABC):
    """What runs models in the agent; constructed there, once."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, version and options of the runtime as JSON data: whatever its times depend on."""

    @abstractmethod
    def load(self, id: str, artifact: Artifact) -> Model:
        """Get a workload ready to run. The artifact may come from a stranger and must not be able to run code."""

    def reference(self) -> int | None:
        """Nanoseconds of a fixed piece of work on the processor that runs the models; None where there is none."""
        return None

    def environment(self) -> dict[str, Any]:
        """Hardware and system that run the models, with the keys of :func:`hwnas.devices.provenance.environment`."""
        from .provenance import environment

        return environment()

    def conditions(self) -> dict[str, Any]:
        """What changes meanwhile and times depend on, as JSON data; asked once a round.

        The sentences under "doubts" are shown to the user.
        """
        return {}

    def close(self) -> None:
        """Clean up outside of this process, within `Device.closing_s`.

        Called once, before the process ends; also from another thread while a model runs.
        """
        return

    def now(self) -> float:
        """Unix time in seconds; a simulated runtime has its own."""
        from time import time

        return time()


class Device(ABC):
    """Target hardware plus runtime and settings.

    Class attributes name what does not depend on the settings: ``name``; ``unit`` ("ms" or "MMACs"); ``format`` of the
    artifacts it loads; ``exact`` (values are computed, nothing is timed); ``dtypes`` it has; ``capabilities``
    ("trace"); ``settings_type``; ``connections``, the names of what it takes to reach it, on which times do not depend
    and which is in no table; ``closing_s`` and ``pause_s``, how long its agent may take to clean up, and may pause
    within a request; ``cooling_s``, how long all pauses between rounds may be, for a device that heats up;
    ``for_testing`` (not listed to users).

    Raises:
        DeviceError: settings or connections that this device does not have.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "ms"
    format: ClassVar[str]
    exact: ClassVar[bool] = False
    dtypes: ClassVar[tuple[str, ...]] = ("fp32",)
    capabilities: ClassVar[frozenset[str]] = frozenset()
    settings_type: ClassVar[type[Settings]] = Settings
    connections: ClassVar[tuple[str, ...]] = ()
    closing_s: ClassVar[float] = 0.0
    pause_s: ClassVar[float] = 0.0
    cooling_s: ClassVar[float] = 0.0
    for_testing: ClassVar[bool] = False

    def __init__(self, settings: Settings | None = None, connection: Mapping[str, Any] | None = None) -> None:
        self.connection = {name: value for name, value in (connection or {}).items() if value is not None}
        foreign = sorted(set(self.connection) - set(self.connections))
        if foreign:
            takes = ", ".join(self.connections) or "none"
            raise DeviceError(f"device {self.name!r} has no connection option {foreign[0]!r}; it takes: {takes}")
        self.settings = settings if settings is not None else self.settings_type()
        if not isinstance(self.settings, self.settings_type):
            wanted = self.settings_type.__name__
            raise DeviceError(f"device {self.name!r} takes {wanted}, not {type(settings).__name__}")
        if self.settings.dtype not in self.dtypes:
            raise DeviceError(f"device {self.name!r} has no {self.settings.dtype}, only {', '.join(self.dtypes)}")

    def __repr__(self) -> str:
        given = ", ".join(f"{f.name}={getattr(self.settings, f.name)!r}" for f in fields(self.settings))
        return f"<device {self.name} {given}>"

    @property
    def clock(self) -> str:
        """Which clock latencies are taken from: "cpu" (thread CPU time), "wall" or "none"."""
        return "wall"

    @classmethod
    def unavailable(cls) -> Unavailable | None:
        """Why the device cannot be used on this machine; None if it can. Must be cheap: no runtime is imported."""
        return None

    def check_machine(self) -> None:
        """Refuse settings that the machine at hand cannot fulfil; called where the agent runs.

        Raises:
            DeviceError: more threads than CPUs.
        """
        check_threads(self.settings)

    @abstractmethod
    def runtime(self) -> Runtime:
        """Build the runtime; called in the agent process only."""

    def value(self, artifact: Artifact) -> float:
        """The exact value of a workload in ``unit``; only where ``exact``."""
        self._refuse("times its workloads", "open a session")

    def open(
        self,
        *,
        agent: str | None = None,
        agent_python: str | None = None,
        timeout_s: float = 60.0,
        memory_mb: int | None = None,
    ) -> Session:
        """Start the agent and return the session with it (a context manager).

        Args:
            agent: command prefix that starts a Python elsewhere, as in ``"ssh board /opt/hwnas/bin/python"``.
            agent_python: path of another Python interpreter on this machine; excludes ``agent``.
            timeout_s: patience for a request whose duration is not known yet.
            memory_mb: limit of the agent's memory; default: nine tenths of what is available where it runs.

        Raises:
            DeviceError: the device is not usable, or the agent cannot be started or is of another version.
        """
        from .session import Session

        if self.exact:
            self._refuse("is exact and times nothing", "use value(artifact)")
        if agent is None and agent_python is None:
            missing = self.unavailable()
            if missing is not None:
                raise DeviceError(f"device {self.name!r} cannot be used here: {missing.reason}; {missing.mend}")
            self.check_machine()
        return Session(self, agent=agent, agent_python=agent_python, timeout_s=timeout_s, memory_mb=memory_mb)

    def _refuse(self, why: str, instead: str) -> NoReturn:
        raise DeviceError(f"device {self.name!r} {why}; {instead}")
