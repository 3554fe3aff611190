"""What is asked of `profile`, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..devices.base import Device
from ..spaces.space import SearchSpace
from .calibration import Calibration
from .calibration_data import CalibrationData
from .protocol import MeasuringProtocol

Method = Literal["auto", "isolated", "in-context"]


@dataclass(frozen=True)
class ProfileRequest:
    """What to profile and how.

    Attributes:
        out: the table's file; an unfinished one is resumed.
        method: where operator times come from; "auto" keeps what predicts held-out networks better.
        budget_s: no new measuring round begins after so many seconds; None: no limit.
        agent, agent_python: where the measuring process runs (see `Device.open`).
        calibration: by which int8 networks are calibrated; None: by random numbers.
    """

    device: Device
    space: SearchSpace
    out: Path
    method: Method = "auto"
    protocol: MeasuringProtocol = field(default_factory=MeasuringProtocol)
    budget_s: float | None = None
    agent: str | None = None
    agent_python: str | None = None
    seed: int = 0
    calibration: CalibrationData | None = None


@dataclass(frozen=True)
class ProfileResult:
    """What became of it; `doubts` are sentences for the user."""

    table: Path
    n: int
    failed: dict[str, str]
    unconverged: list[str]
    calibration: Calibration | None
    tried: list[Calibration]
    seconds: float
    phases: dict[str, float]
    doubts: list[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "table": str(self.table),
            "n": self.n,
            "failed": [{"key": key, "reason": reason} for key, reason in self.failed.items()],
            "unconverged": self.unconverged,
            "calibration": self.calibration.as_dict() if self.calibration else None,
            "methods": [c.as_dict() for c in self.tried],
            "seconds": self.seconds,
            "phases": self.phases,
            "doubts": self.doubts,
        }
