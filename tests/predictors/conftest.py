"""Tables with invented numbers for the tests of predictors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.threads import one_thread
from hwnas.profiler.table import Provenance, Row
from hwnas.spaces.space import SearchSpace

CALIBRATION = {
    "method": "isolated",
    "factor": 1.07,
    "extra": 0.2,
    "residual": 0.3,
    "live": True,
    "error": {"n": 6, "rmse": 1.5},
}


def _lut(space: SearchSpace, calibration: Mapping[str, Any] | None = CALIBRATION, drop: int = 0) -> LutPredictor:
    """A predictor whose operators cost random amounts from 0.1 to 1 ms."""
    rng = np.random.default_rng(11)
    rows = []
    for workload in space.workloads():
        value = float(rng.uniform(0.1, 1))
        kind: Any = "fixed" if workload.fixed else "candidate"
        rows.append(
            Row(workload.key(), workload.op, kind, value, "ms", 0.9 * value, 1.1 * value, 3, 9, "ok", "", {"k": 1})
        )
    provenance = Provenance("cpu", "ms", {"batch": 1, "threads": 1}, space.name, fingerprint=space.fingerprint)
    return LutPredictor(space, provenance, rows[drop:], calibration)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As whoever fits a regressor by its kind has it; on a busy machine, more take many times as long."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def make_lut() -> Callable[..., LutPredictor]:
    return _lut
