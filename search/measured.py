"""Latency that is measured while searching: each network on the device itself, and none of them twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import NormalDist
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from ..devices.base import Device, DeviceError
from ..predictors.base import Origin, Predictor, PredictorError
from ..predictors.network_timer import Measured, NetworkTimer, check_visits
from ..profiler.calibration_data import CalibrationData
from ..profiler.progress import Progress
from ..profiler.protocol import MeasuringProtocol
from ..spaces.architecture import Architecture, ArchitectureError
from ..spaces.space import SearchSpace

VISITS = 10
"""A search averages over many networks: each may be off by a percent or two."""
FILE = "measured.jsonl"
AT_ONCE = 1000
"""Networks that are measured at one request; more would take longer than anyone who asks for them is aware of."""
PAUSE_S = 0.04


class DeviceLatency(Predictor):
    """A predictor that measures: what it is asked for is built, lowered and timed, once.

    Networks of one request are measured together, interleaved. What was measured is kept in a file of the folder, one
    JSON line a network, so that a search that goes on measures nothing twice. A context manager; the agent is started
    at the first request that needs it.

    Args:
        space, device: what to measure, and where. folder: for the file.
        origin: of a table of the same device, by whose route networks are lowered.
        visits: to each network.
        agent, agent_python: where the measuring process runs (see `Device.open`). seed: of the orders of visits.
        calibration: by which int8 networks are calibrated; None: by random numbers.

    Attributes:
        count: networks known. calls: measurements made by this object.

    Raises:
        PredictorError: the file is something else, or of another space, device or settings; and where a request cannot
            be answered by measuring.
        DeviceError: on a request, the device cannot be used, or a network cannot be measured on it.
    """

    kind: ClassVar[str] = "measured"

    def __init__(
        self,
        space: SearchSpace,
        device: Device,
        folder: Path,
        *,
        origin: Origin | None = None,
        visits: int = VISITS,
        agent: str | None = None,
        agent_python: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        calibration: CalibrationData | None = None,
    ) -> None:
        super().__init__(space, device.unit)
        check_visits(visits)
        self.device = device
        self.visits = visits
        self.calls = 0
        self._lowering = origin.lowering if origin is not None else ""
        self._timer = NetworkTimer(
            space,
            device,
            folder,
            origin=origin,
            agent=agent,
            agent_python=agent_python,
            protocol=MeasuringProtocol(pause_s=PAUSE_S),
            seed=seed,
            progress=progress,
            calibration=calibration,
        )
        self._open = False
        self.path = folder / FILE
        self._log = _Log(self.path, space, device)
        self._known = self._log.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the agent; a further request starts it again."""
        if self._open:
            self._open = False
            self._timer.__exit__(None, None, None)

    @property
    def count(self) -> int:
        return len(self._known)

    @property
    def known(self) -> Mapping[Architecture, Measured]:
        """All that was measured."""
        return dict(self._known)

    @property
    def measures(self) -> bool:
        return True

    @property
    def origin(self) -> Origin:
        return Origin(self.device.name, self.device.settings.as_dict(), self._lowering)

    def predict_codes(self, codes: np.ndarray) -> NDArray[np.float64]:
        """(N,) measured latencies; what is new is measured first.

        Raises:
            PredictorError: more than 1,000 networks are new.
            DeviceError: one of them cannot be measured, with the reason; the others are kept.
        """
        asked = self.space.decode(np.asarray(codes))
        new = [a for a in dict.fromkeys(asked) if a not in self._known]
        if len(new) > AT_ONCE:
            raise PredictorError(
                f"{len(new)} networks would have to be measured at once: take a table as --predictor for what looks at "
                "so many"
            )
        if new:
            self._measure(new)
        return np.array([self._known[a].value for a in asked])

    def spread(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        tail = NormalDist().inv_cdf((1 + coverage) / 2)
        self.predict_codes(codes)
        found = [self._known[a] for a in self.space.decode(np.asarray(codes))]
        return np.array([tail * (m.high - m.low) / 4 for m in found])

    def expected(self, probabilities: Sequence[Any]) -> Any:
        """There is none."""
        self._refuse("has no expectation: gradient search needs a table; take reinforce, evolution or random")

    def extremes(self) -> NoReturn:
        """There are none."""
        self._refuse("does not know the range of its space")

    def save(self, path: str | Path) -> None:
        """There is nothing but the file."""
        self._refuse(f"is not saved: what it measured is in {self.path}")

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Self:
        """It needs a device."""
        raise PredictorError(f"{path}: measured latencies of a search are not a predictor; profile the space")

    # -- inside

    def _refuse(self, why: str) -> NoReturn:
        raise PredictorError(f"latency that is measured {why}")

    def _measure(self, new: Sequence[Architecture]) -> None:
        if not self._open:
            self._timer.__enter__()
            self._open = True
        self.calls += 1
        found = self._timer.measure(new, self.visits, name="measured")
        self._known |= found
        self._log.append(found)
        failed = [a for a in new if a not in found]
        if failed:
            reason = self._timer.failed.get(failed[0], "not measured")
            raise DeviceError(f"{failed[0].short()} cannot be measured on device {self.device.name!r}: {reason}")


class _Log:
    """The file: a line that says what was measured where, then a line for each network."""

    def __init__(self, path: Path, space: SearchSpace, device: Device) -> None:
        self.path = path
        about = {"space": space.name, "fingerprint": space.fingerprint, "device": device.name, "unit": device.unit}
        self._header = {**about, "settings": json.loads(json.dumps(device.settings.as_dict()))}
        self._size = 0
        """Bytes of whole lines; a kill may have left a part of one behind them."""

    def read(self) -> dict[Architecture, Measured]:
        """What is there; raises PredictorError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PredictorError(f"{self.path} cannot be read: {error.strerror}") from error
        self._size = data.rfind(b"\n") + 1
        lines = data[: self._size].splitlines()
        if not lines:
            return {}
        found: dict[Architecture, Measured] = {}
        try:
            header, *rows = map(_object, lines)
            for row in rows:
                found[Architecture.from_dict(row["architecture"])] = _measured(row)
        except (ArchitectureError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise PredictorError(f"{self.path} holds something else than measured networks: {error}") from error
        for name, wanted in self._header.items():
            if header.get(name) != wanted:
                raise PredictorError(
                    f"{self.path} was measured with {name} = {header.get(name)!r}, not {wanted!r}: give another --out"
                )
        return found

    def append(self, found: Mapping[Architecture, Measured]) -> None:
        """Add networks; raises PredictorError."""
        rows = [{"architecture": a.as_dict(), **m.as_dict()} for a, m in found.items()]
        lines = [json.dumps(row) for row in ([] if self._size else [self._header]) + rows]
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PredictorError(f"{self.path} cannot be written: {error.strerror}") from error
        self._size += len(data)


def _object(line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"a line is no JSON object: {line[:40]!r}")
    return found


def _measured(row: Mapping[str, Any]) -> Measured:
    measured = Measured(**{part.name: row[part.name] for part in fields(Measured)})
    numbers = [measured.value, measured.low, measured.high]
    if not all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in numbers):
        raise ValueError(f"latencies that are no numbers: {numbers}")
    return measured
