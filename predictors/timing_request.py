"""What requests to measure whole networks have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..devices.base import Device
from ..profiler.calibration_data import CalibrationData
from ..profiler.progress import Progress
from ..profiler.protocol import MeasuringProtocol
from ..spaces.space import SearchSpace
from .base import Origin
from .network_timer import VISITS, NetworkTimer, check_visits


@dataclass(frozen=True, kw_only=True)
class TimingRequest:
    """How networks are to be measured.

    Attributes:
        visits: to each network, spread over the measurement.
        seed: of the order of visits, and of what is drawn.
        agent, agent_python: where the measuring process runs (see `Device.open`).
        calibration: by which int8 networks are calibrated; None: by random numbers.
    """

    visits: int = VISITS
    seed: int = 0
    agent: str | None = None
    agent_python: str | None = None
    protocol: MeasuringProtocol = field(default_factory=MeasuringProtocol)
    calibration: CalibrationData | None = None

    def __post_init__(self) -> None:
        check_visits(self.visits)

    def timer(
        self,
        space: SearchSpace,
        device: Device,
        folder: Path,
        *,
        origin: Origin | None = None,
        progress: Progress | None = None,
    ) -> NetworkTimer:
        """What measures so; to be entered."""
        return NetworkTimer(
            space,
            device,
            folder,
            origin=origin,
            agent=self.agent,
            agent_python=self.agent_python,
            protocol=self.protocol,
            seed=self.seed,
            progress=progress,
            calibration=self.calibration,
        )
