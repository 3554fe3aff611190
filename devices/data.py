"""What passes between a device and those who measure on it: plain data, and the errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import HwnasError


class DeviceError(HwnasError):
    """A device that does not exist, cannot be used here, or was asked for something it does not have."""


class DeviceLost(DeviceError):
    """The device went away in the middle; no workload is to blame, and what was measured before holds."""


class OutputUnreadable(DeviceError):
    """A tool on the device printed something that cannot be understood.

    Attributes:
        output: what it printed, to be kept.
    """

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


class WorkloadFailed(HwnasError):
    """One workload cannot be loaded or run; the others are not affected. ``output`` as in `OutputUnreadable`."""

    def __init__(self, id: str, reason: str, output: str = "") -> None:
        super().__init__(f"{id}: {reason}")
        self.id = id
        self.reason = reason
        self.output = output


@dataclass(frozen=True)
class TensorSpec:
    """One input of a lowered model. Integers are drawn from [0, high), floats from a standard normal."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    high: int = 1

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random array of this shape and dtype.

        Raises:
            DeviceError: the dtype has no numpy counterpart.
        """
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            raise DeviceError(f"input {self.name!r} has dtype {self.dtype!r}, which cannot be drawn") from None
        if dtype.kind == "f":
            return rng.standard_normal(self.shape).astype(dtype)
        if dtype.kind == "b":
            return rng.integers(0, 2, self.shape).astype(dtype)
        if dtype.kind in "iu":
            return rng.integers(0, max(1, self.high), self.shape).astype(dtype)
        raise DeviceError(f"input {self.name!r} has dtype {self.dtype!r}, which cannot be drawn")


@dataclass(frozen=True)
class Artifact:
    """A workload lowered for one runtime.

    Attributes:
        format: what ``data`` is: "onnx" or "ops" (JSON list of operators).
        inputs: the model's inputs in order.
        digest: content digest of the traced operators.
        route: how it was lowered: "emitter", "torch.onnx" or "ops".
        owners: runtime tensor name -> "path#index" of the call that produced it ("" for none), to attribute node times.
    """

    format: str
    data: bytes
    inputs: tuple[TensorSpec, ...]
    digest: str
    route: str
    owners: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """The timed runs of one visit.

    Attributes:
        wall: int64 nanoseconds, shape (runs,), wall clock; (1,), their mean, where the runtime tells no more.
        cpu: int64 nanoseconds, CPU clock of the thread that runs the model; the same shape, or empty where there is
            no such clock.
        started: Unix time in seconds at which the visit began.
        reference: int64 nanoseconds of the runtime's reference before and after the visit, shape (2,); empty where
            there is none.
    """

    wall: np.ndarray
    cpu: np.ndarray
    started: float
    reference: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class Round:
    """One visit to each of several workloads.

    Attributes:
        samples: by workload id, in the order of the visits.
        failures: id -> reason, for workloads that failed twice; they are no longer loaded.
        preemptions: involuntary context switches of the measuring thread during the round.
        load: the machine's one-minute load average at the end of the round (0.0 where unknown).
        conditions: of the device at the end of the round (see `Runtime.conditions`).
        outputs: id -> what a tool printed, for failures that come from output that cannot be understood.
        lost: how the device went away before the end of the round.
    """

    samples: dict[str, Samples]
    failures: dict[str, str]
    preemptions: int
    load: float
    conditions: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    lost: str = ""


@dataclass(frozen=True)
class LoadReport:
    """What loading a workload took. Memory is what the agent's peak rose by, in MB (NaN where unknown).

    Attributes:
        delegate: what is to run the model's operators in place of the runtime's own kernels, where there is such a
            thing ("XNNPACK"), and of how many ``operators`` it runs so many (``delegated``).
        left: names of the operators that it does not run, each once.
    """

    load_ms: float
    first_run_ms: float
    warm_run_ms: float
    peak_mb: float
    load_peak_mb: float = float("nan")
    first_run_peak_mb: float = float("nan")
    warm_run_peak_mb: float = float("nan")
    delegate: str = ""
    operators: int | None = None
    delegated: int | None = None
    left: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """What is known of it, as JSON data."""
        told = {name: list(value) if name == "left" else value for name, value in vars(self).items()}
        return {name: value for name, value in told.items() if value == value and value not in (None, "", [])}


@dataclass(frozen=True)
class NodeTime:
    """One executed node of the optimised model. ``outputs`` are its tensor names there (empty if not identified)."""

    name: str
    op_type: str
    outputs: tuple[str, ...]
    ms: float


@dataclass(frozen=True)
class NodeTrace:
    """Times of the single nodes of a workload, inside whole runs.

    Attributes:
        nodes: in order of execution; ``ms`` is the mean of the lower half of the runs.
        model: the optimised model that was executed, in the device's format.
        run_ms: the same statistic of the whole run, by the runtime's own profiler.
        runs: how many runs were aggregated.
    """

    nodes: tuple[NodeTime, ...]
    model: bytes
    run_ms: float
    runs: int


@dataclass(frozen=True)
class Unavailable:
    """Why a device cannot be used here, and what would mend it."""

    reason: str
    mend: str
