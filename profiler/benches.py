"""What every bench does: workloads go in by key, costs come out, everything is kept in a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..devices.base import Artifact, Device, DeviceError, LoadReport, NodeTrace, WorkloadFailed
from .lowering import LoweringError
from .progress import Progress, Silent
from .protocol import Estimate, MeasuringProtocol
from .table import LatencyTable


class OutOfTime(Exception):
    """The budget is used up; what was measured is kept."""


@dataclass
class AnyBench(ABC):
    """Workloads by key, and what they cost.

    Attributes:
        table: that everything goes into.
        deadline: `time.monotonic()` after which no new round begins.
        session_id: under which the table keeps the conditions of this run.
    """

    table: LatencyTable
    protocol: MeasuringProtocol
    device: Device
    session_id: int = 0
    deadline: float = float("inf")
    progress: Progress = field(default_factory=Silent)

    @abstractmethod
    def load(self, artifacts: Mapping[str, Callable[[], Artifact]], step: str) -> dict[str, LoadReport]:
        """Load workloads; one that fails is recorded as failed and left out."""

    @abstractmethod
    def unload(self, keys: Sequence[str]) -> None:
        """Give workloads back; those that are gone already are passed over."""

    def unmeasured(self, keys: Sequence[str], *, networks: bool = False) -> list[str]:
        """Those of the keys that the table does not hold enough visits of; only they need to be loaded."""
        return list(keys)

    @abstractmethod
    def operators(self, keys: Sequence[str]) -> dict[str, Estimate]:
        """Cost of single operators; workloads that fail are recorded and left out."""

    @abstractmethod
    def networks(self, keys: Sequence[str]) -> dict[str, Estimate]:
        """Cost of whole networks; those that fail are recorded and left out."""

    def trace(self, key: str) -> tuple[Artifact, NodeTrace]:
        """A loaded network and its node times; raises WorkloadFailed."""
        raise WorkloadFailed(key, f"device {self.device.name!r} cannot time single nodes")

    def conditions(self) -> dict[str, Any]:
        """What the machine did meanwhile."""
        return {}

    def canary_drift(self) -> float | None:
        """Relative change of an operator visited throughout, from the first to the last third of its visits."""
        return None


@dataclass
class ExactBench(AnyBench):
    """Of a device whose values are computed from the artifacts."""

    values: dict[str, float] = field(default_factory=dict)

    def load(self, artifacts: Mapping[str, Callable[[], Artifact]], step: str) -> dict[str, LoadReport]:
        for i, (key, artifact) in enumerate(artifacts.items()):
            self.progress.step(step, i, len(artifacts))
            try:
                self.values[key] = self.device.value(artifact())
            except (DeviceError, LoweringError) as error:
                self.table.finish(key, status="failed", reason=str(error))
        self.progress.step(step, len(artifacts), len(artifacts))
        return {key: LoadReport(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0) for key in artifacts if key in self.values}

    def unload(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.values.pop(key, None)

    def operators(self, keys: Sequence[str]) -> dict[str, Estimate]:
        return {key: Estimate(v, v, v, True) for key in keys if (v := self.values.get(key)) is not None}

    def networks(self, keys: Sequence[str]) -> dict[str, Estimate]:
        return self.operators(keys)
