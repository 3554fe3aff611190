"""What a device said of itself meanwhile, whether it slowed down, and what became of output that nobody understood."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..devices.base import Device, Round
from .table import LatencyTable

SLOW = 0.08
"""A canary that takes so much longer than at the start shows that the device slowed down."""
STEP_S = 20.0
FEW = 3
"""Canary's visits that are compared, at the start and now."""
MAX_OUTPUT = 200_000
"""Characters that are kept of what a tool printed."""


@dataclass
class DeviceLog:
    """Round by round.

    Attributes:
        states: what `Runtime.conditions` told, without the doubts. doubts: its sentences, each once.
        cooled_s: pauses between rounds until now.
    """

    device: Device
    sleep: Callable[[float], None] = time.sleep
    states: list[Mapping[str, Any]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    cooled_s: float = 0.0

    def add(self, answer: Round) -> None:
        """Note what a round told."""
        told = dict(answer.conditions)
        self.doubts += [doubt for doubt in told.pop("doubts", ()) if doubt not in self.doubts]
        if told:
            self.states.append(told)

    def cool(self, canary: Sequence[float]) -> None:
        """Wait for a moment where the device is one that heats up and its canary takes longer than at the start.

        All pauses together stay below `Device.cooling_s`: after that it is measured as it is, which is doubted.
        """
        if not self.device.cooling_s or not is_slow(canary):
            return
        if self.cooled_s + STEP_S <= self.device.cooling_s:
            self.cooled_s += STEP_S
            self.sleep(STEP_S)
        elif self.doubts.count(TIRED) == 0:
            self.doubts.append(TIRED)

    def as_dict(self) -> dict[str, Any]:
        """JSON form: the device's state from the first round to the last."""
        told = {"device": self.states, "doubts": self.doubts, "cooled_s": self.cooled_s}
        return {name: value for name, value in told.items() if value}


TIRED = (
    "the device got slower while it was measured, and pauses did not help: heat, or other work; let it rest and "
    "measure a new table"
)


def is_slow(canary: Sequence[float]) -> bool:
    """Whether the last visits to the canary took longer than the first ones."""
    if len(canary) < 2 * FEW:
        return False
    return bool(np.median(canary[-FEW:]) > (1 + SLOW) * np.median(canary[:FEW]))


def keep_output(table: LatencyTable, key: str, reason: str, output: str) -> str:
    """Keep what a tool printed about a workload that failed for it; the reason that says where it is."""
    if not output:
        return reason
    table.add_record("output", {"key": key, "text": output[:MAX_OUTPUT]})
    return f"{reason}; it is kept: `hwnas table show {table.path} --json -` has it under outputs"
