"""What landing found, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..predictors.network_timer import Measured
from ..spaces.architecture import Architecture


@dataclass(frozen=True)
class Candidate:
    """A network that was measured to be chosen from; latencies in the device's unit.

    Attributes:
        log_probability: as it was derived (see `derive`).
        predicted, predicted_refitted: None where there is no predictor.
        measured: of all rounds in which it was measured.
        expected: what a further measurement will find, from both (see `refit`); the choice is made by it.
        round: in which it was first measured, from 1 on.
    """

    architecture: Architecture
    log_probability: float
    predicted: float | None
    predicted_refitted: float | None
    measured: Measured
    expected: float
    round: int

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "architecture": self.architecture.as_dict(),
            "log_probability": self.log_probability,
            "predicted": self.predicted,
            "predicted_refitted": self.predicted_refitted,
            **_flat(self.measured),
            "expected": self.expected,
            "round": self.round,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The inverse of `as_dict`."""
        return cls(
            Architecture.from_dict(data["architecture"]),
            data["log_probability"],
            data["predicted"],
            data["predicted_refitted"],
            _measured(data),
            data["expected"],
            data["round"],
        )


@dataclass(frozen=True)
class Landing:
    """The networks that were measured, which one was chosen, and what an independent measurement says of it.

    Attributes:
        device, settings, unit, rule: where and how.
        target: of the goal that was measured; None where there is none.
        candidates: in the order in which they were derived, the found network first.
        chosen: one of them.
        measured: from visits that had no part in the choice; None where this last measurement failed.
        ratio: measured / target; with several goals, of all of them together, the others as predicted.
        factor: measured / predicted now. calibration_factor: the same of the calibration networks alone.
        calibration_networks: how many of these were measured.
        drift: percent by which networks measured in both took longer in the last measurement than before the choice;
            `measured` contains it.
        clock: percent by which the machine ran slower in the last measurement than when the first candidates were
            measured, as the reference shows it (see `NetworkTimer`); `measured` does not contain it, being at the
            machine's speed then. None where there is no reference.
        failed: (architecture, reason) of candidates that could not be measured.
        doubts: sentences for the user.
    """

    device: str
    settings: Mapping[str, Any]
    unit: str
    rule: str
    target: float | None
    candidates: Sequence[Candidate]
    chosen: Architecture
    measured: Measured | None
    ratio: float | None
    factor: float | None
    calibration_factor: float | None
    calibration_networks: int
    drift: float | None
    clock: float | None
    failed: Sequence[tuple[Architecture, str]]
    doubts: Sequence[str]
    seconds: float

    @property
    def deviation(self) -> float | None:
        """Percent that the independent measurement is off the target."""
        return None if self.ratio is None else 100 * (self.ratio - 1)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "device": self.device,
            "settings": dict(self.settings),
            "unit": self.unit,
            "rule": self.rule,
            "target": self.target,
            "chosen": self.chosen.as_dict(),
            **_flat(self.measured),
            "ratio": self.ratio,
            "deviation": self.deviation,
            "factor": self.factor,
            "calibration_factor": self.calibration_factor,
            "calibration_networks": self.calibration_networks,
            "drift": self.drift,
            "clock": self.clock,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "failed": [{"architecture": a.as_dict(), "reason": reason} for a, reason in self.failed],
            "doubts": list(self.doubts),
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Landing:
        """The inverse of `as_dict`."""
        return cls(
            device=data["device"],
            settings=data["settings"],
            unit=data["unit"],
            rule=data["rule"],
            target=data["target"],
            candidates=tuple(Candidate.from_dict(candidate) for candidate in data["candidates"]),
            chosen=Architecture.from_dict(data["chosen"]),
            measured=None if data["measured"] is None else _measured(data),
            ratio=data["ratio"],
            factor=data["factor"],
            calibration_factor=data["calibration_factor"],
            calibration_networks=data["calibration_networks"],
            drift=data["drift"],
            clock=data["clock"],
            failed=tuple((Architecture.from_dict(f["architecture"]), f["reason"]) for f in data["failed"]),
            doubts=tuple(data["doubts"]),
            seconds=data["seconds"],
        )


def _flat(measured: Measured | None) -> dict[str, float | None]:
    if measured is None:
        return dict.fromkeys(("measured", "low", "high", "wall_p50", "wall_p90"))
    values = asdict(measured)
    return {"measured": values.pop("value"), **values}


def _measured(data: Mapping[str, Any]) -> Measured:
    return Measured(data["measured"], data["low"], data["high"], data["wall_p50"], data["wall_p90"])
