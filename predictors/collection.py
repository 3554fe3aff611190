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
from .network_timer import NetworkTimer, Taken

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
    """Measure networks batch by batch, each in a file of the timer's folder; finished ones are not measured again.

    Batches have in common the full speed of the reference in the first one (see `NetworkTimer.measure`).

    Args:
        timer: open.

    Raises:
        PredictorError: none of them could be measured.
    """
    progress = progress or Silent()
    found: dict[str, float] = {}
    rows: dict[str, np.ndarray] = {}
    failed: list[tuple[Architecture, str]] = []
    for i, start in enumerate(range(0, len(codes), BATCH)):
        progress.step("all networks", start, len(codes))
        taken = _batch(timer, codes[start : start + BATCH], i, visits)
        found |= {key: one.value for key, one in timer.at_one_speed(taken).items()}
        rows |= taken.networks.codes
        failed += taken.failed
    progress.step("all networks", len(codes), len(codes))
    if not found:
        raise PredictorError(f"none of the networks could be measured: {failed[0][1] if failed else 'there is none'}")
    kept = np.stack([rows[key] for key in found]).astype(np.int16)
    return Collected(kept, np.array(list(found.values())), failed, timer.provenance(visits))


def _batch(timer: NetworkTimer, codes: Codes, number: int, visits: int) -> Taken:
    networks = timer.networks()
    networks.add(codes, "training")
    timer.choose_route(next(iter(networks.architectures.values())))
    wanted = {"networks": sorted(networks.codes)}
    file = f"networks-{number:03d}.db"
    return timer.finished(networks, file, wanted, visits) or timer.take(networks, file, wanted, visits)
