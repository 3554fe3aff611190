"""What a space's operators cost by count: exact, and without any device."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..spaces.space import SearchSpace


@dataclass(frozen=True, eq=False)
class WorkloadCosts:
    """Exact counts of each workload of a space, in the order of its description.

    Attributes:
        macs, params, bytes: (workloads,) as `devices.flops.count` gives them; all NaN-free, or empty where some
            workload cannot be counted.
    """

    macs: NDArray[np.float64]
    params: NDArray[np.float64]
    bytes: NDArray[np.float64]

    @classmethod
    def of(cls, space: SearchSpace, batch: int = 1) -> WorkloadCosts:
        """Count them (from the cache where they have been counted before)."""
        from ..profiler.artifacts import Lowerer
        from ..profiler.lowering import LoweringError

        lowerer = Lowerer(space, "ops", batch, route="ops")
        try:
            counts = [json.loads(lowerer.workload(w).data) for w in space.workloads(batch)]
        except LoweringError:
            return cls(*np.empty((3, 0)))
        names = ("macs", "params", "activation_bytes")
        return cls(*(np.array([float(count[name]) for count in counts]) for name in names))
