"""Many networks measured for a predictor to learn from: in batches, so that an interrupted run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..profiler.progress import Progress, Silent
from ..profiler.table import Provenance
from ..spaces.architecture import Architecture
from ..spaces.encoding import Codes, Encoding
from .base import PredictorError
from .network_timer import NetworkTimer

BATCH = 32
"""Networks that the agent holds at a time."""
DRAWN = 256
"""Networks drawn at a time."""


@dataclass(frozen=True, eq=False)
class Collected:
    """Measured networks.

    Attributes:
        codes, latency: (N, decisions) and (N,) in the device's unit, at one speed of the machine.
        failed: (architecture, reason) of the others.
        provenance: of all of them.
    """

    codes: Codes
    latency: NDArray[np.float64]
    failed: Sequence[tuple[Architecture, str]]
    provenance: Provenance


def draw(encoding: Encoding, n: int, seed: int) -> Codes:
    """Up to `n` different networks, uniform; more of the same seed begin with the same ones."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(20 + 20 * n // DRAWN):
        found |= dict.fromkeys(map(tuple, encoding.sample(DRAWN, rng).tolist()))
        if len(found) >= n:
            break
    return np.array(list(found)[:n], np.int16).reshape(-1, len(encoding.decisions))


def collect(timer: NetworkTimer, codes: Codes, visits: int, progress: Progress | None = None) -> Collected:
    """Measure networks (see `Collection`)."""
    collection = Collection(timer, visits, len(codes), progress)
    collection.measure(codes)
    return collection.collected()


class Collection:
    """Networks measured batch by batch, each in a file of the timer's folder; finished ones are not measured again.

    Batches have in common the full speed of the reference in the first one (see `NetworkTimer.measure`).

    Args:
        timer: open. visits: to each network.
        total: networks that are to be measured at most, for the progress.
        name: of the files.
    """

    def __init__(
        self,
        timer: NetworkTimer,
        visits: int,
        total: int,
        progress: Progress | None = None,
        *,
        name: str = "networks",
    ) -> None:
        self.timer, self.visits, self.total, self.name = timer, visits, total, name
        self._progress = progress or Silent()
        self._asked = self._batches = 0
        self._rows: list[np.ndarray] = []
        self._latency: list[float] = []
        self._failed: list[tuple[Architecture, str]] = []

    def __len__(self) -> int:
        """Networks that were asked for."""
        return self._asked

    def measure(self, codes: Codes) -> None:
        """Measure more networks."""
        for start in range(0, len(codes), BATCH):
            self._progress.step("all networks", self._asked, self.total)
            self._batch(codes[start : start + BATCH])
        self._progress.step("all networks", self._asked, self.total)

    def collected(self) -> Collected:
        """All that were measured; raises PredictorError if none could be."""
        if not self._rows:
            reason = self._failed[0][1] if self._failed else "there is none"
            raise PredictorError(f"none of the networks could be measured: {reason}")
        codes = np.stack(self._rows).astype(np.int16)
        return Collected(codes, np.array(self._latency), list(self._failed), self.timer.provenance(self.visits))

    def _batch(self, codes: Codes) -> None:
        timer, networks = self.timer, self.timer.networks()
        networks.add(codes, "training")
        timer.choose_route(next(iter(networks.architectures.values())))
        wanted, file = {"networks": sorted(networks.codes)}, f"{self.name}-{self._batches:03d}.db"
        taken = timer.finished(networks, file, wanted, self.visits) or timer.take(networks, file, wanted, self.visits)
        for key, one in timer.at_one_speed(taken).items():
            self._rows.append(networks.codes[key])
            self._latency.append(one.value)
        self._failed += taken.failed
        self._asked += len(codes)
        self._batches += 1
