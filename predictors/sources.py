"""Where the measured networks come from that a predictor is fitted on: a device, a latency table, a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..devices.base import Device
from ..profiler.calibration_data import CalibrationData
from ..profiler.progress import Progress
from ..profiler.protocol import MeasuringProtocol
from ..profiler.table import LatencyTable, Provenance
from ..spaces.architecture import Architecture, ArchitectureError
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .base import PredictorError
from .collection import collect, draw
from .frames import FrameRequest, read_measured
from .network_timer import NetworkTimer, check_visits

MOST = 100_000


@dataclass(frozen=True, eq=False)
class Source:
    """Measured networks of one space.

    Attributes:
        codes, latency: (N, decisions) and (N,), in `unit`.
        text: where they come from, for people.
        provenance: of the measurements; None where it is not known.
        notes: what a user should know. doubts: what casts doubt on the result.
    """

    codes: Codes
    latency: NDArray[np.float64]
    unit: str
    text: str
    provenance: Provenance | None = None
    notes: Sequence[str] = ()
    doubts: Sequence[str] = ()


@dataclass(frozen=True)
class MeasureRequest:
    """Which networks to measure, and how.

    Attributes:
        folder: for the raw samples; an unfinished run goes on from there.
        n: networks, drawn uniformly by `seed`.
        visits: to each network.
        agent, agent_python: where the measuring process runs (see `Device.open`).
    """

    device: Device
    space: SearchSpace
    folder: Path
    n: int
    visits: int = 12
    seed: int = 0
    agent: str | None = None
    agent_python: str | None = None
    calibration: CalibrationData | None = None
    protocol: MeasuringProtocol = field(default_factory=MeasuringProtocol)

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST:
            raise PredictorError(f"the number of networks must be from 1 to {MOST}, not {self.n}")
        check_visits(self.visits)


def from_device(request: MeasureRequest, progress: Progress | None = None) -> Source:
    """Measure networks now.

    Raises:
        HwnasError: the device cannot be used, or none of the networks could be measured.
    """
    codes = draw(request.space.encoding, request.n, request.seed)
    timer = NetworkTimer(
        request.space,
        request.device,
        request.folder,
        agent=request.agent,
        agent_python=request.agent_python,
        protocol=request.protocol,
        seed=request.seed,
        progress=progress,
        calibration=request.calibration,
    )
    with timer:
        found = collect(timer, codes, request.visits, progress)
    few = f"the space has no more than {len(codes)} networks" if len(codes) < request.n else ""
    return Source(
        found.codes,
        found.latency,
        found.provenance.unit,
        f"{len(found.latency)} networks measured on {request.device.name}",
        found.provenance,
        notes=(few,) if few else (),
        doubts=tuple(f"left out, not measured: {a.short()}: {reason}" for a, reason in found.failed),
    )


def from_table(path: Path, space: SearchSpace) -> Source:
    """The whole networks that were measured for a latency table's calibration, or for a comparison.

    Raises:
        HwnasError: the table cannot be read, is of another space, or holds no measured network.
    """
    with LatencyTable.open(path) as table:
        about, rows = table.provenance, [row for row in table.rows("network") if row.latency is not None]
    if about.fingerprint != space.fingerprint:
        raise PredictorError(
            f"{path} is of space {about.space!r} ({about.fingerprint}), not of {space.name!r} ({space.fingerprint})"
        )
    if not rows:
        raise PredictorError(f"{path} holds no measured network, only operators; give --networks to measure some")
    try:
        codes = space.encode([Architecture.from_dict(row.info.get("architecture")) for row in rows])
    except ArchitectureError as error:
        raise PredictorError(f"{path}: one of its networks cannot be read: {error}") from error
    latency = np.array([row.latency for row in rows], float)
    return Source(codes, latency, about.unit, f"{len(rows)} networks of {path}", about)


def from_frame(request: FrameRequest, space: SearchSpace, device: Device | None = None) -> Source:
    """The architectures of a Parquet file.

    Args:
        device: on which they were measured, where that is known.

    Raises:
        PredictorError: see `read_measured`.
    """
    measured = read_measured(request, space)
    assert measured.codes is not None
    about = None
    if device is not None:
        about = Provenance(
            device=device.name,
            unit="MMACs" if device.unit == "MMACs" else "ms",
            settings=device.settings.as_dict(),
            space=space.name,
            space_arguments=space.arguments,
            fingerprint=space.fingerprint,
        )
    text = f"{len(measured.latency)} rows of column {request.target} of {request.data}"
    unit = about.unit if about else "ms"
    return Source(measured.codes, measured.latency, unit, text, about, notes=tuple(measured.notes()))
