"""Multiply-accumulates as a predictor: exact, and without any measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ..devices.base import Device
from ..devices.flops import Flops
from ..profiler.additive import MissingKeys
from ..profiler.artifacts import Lowerer
from ..profiler.calibration import Calibration, Observed, calibrate
from ..profiler.designs import designed
from ..profiler.lowering import LoweringError
from ..profiler.table import Row, TableError
from ..profiler.table_provenance import provenance_of
from ..spaces.space import SearchSpace
from .base import PredictorError
from .lut import LutPredictor

NETWORKS = 4
"""Whole networks that are counted, to find what lies between the modules and whether dead operators count."""


class FlopsPredictor(LutPredictor):
    """Predicts MMACs (1 MAC = 2 FLOPs); a table of device `flops` on disk."""

    kind: ClassVar[str] = "flops"

    @classmethod
    def of(cls, space: SearchSpace, *, batch: int = 1) -> Self:
        """Count the operators of a space.

        Raises:
            PredictorError: one of them cannot be counted.
        """
        device = Flops(Flops.settings_type(batch=batch))
        lowerer = Lowerer(space, device.format, batch, route=device.format)
        values: dict[str, float] = {}
        rows = []
        for workload in space.workloads(batch):
            key = workload.key(batch)
            try:
                value = values[key] = device.value(lowerer.workload(workload))
            except LoweringError as error:
                raise PredictorError(f"{key} cannot be counted: {error}") from error
            info = dict(workload.info)
            kind: Any = "fixed" if workload.fixed else "candidate"
            rows.append(Row(key, workload.op, kind, value, device.unit, value, value, 0, 0, "ok", "", info))
        about = {"device": device.name, "unit": device.unit, "clock": device.clock}
        calibration = _calibrate(space, lowerer, device, values)
        return cls(
            space,
            provenance_of(device, space, device.format, about),
            rows,
            calibration.as_dict() if calibration else None,
        )

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace, *, space_option: str | None = None) -> Self:
        """As `LutPredictor.load`, for a table in MMACs only."""
        predictor = super().load(path, space, space_option=space_option)
        if predictor.unit != "MMACs":
            raise PredictorError(f"{path} is a table in {predictor.unit}, not in MMACs")
        return predictor


def _calibrate(space: SearchSpace, lowerer: Lowerer, device: Device, values: dict[str, float]) -> Calibration | None:
    rows = designed(space.encoding, NETWORKS)
    try:
        counted = np.array([device.value(lowerer.network(a)) for a in space.decode(rows)])
        networks = Observed(rows, counted)
        none = Observed(rows[:0], counted[:0])
        found, _, _ = calibrate(
            space.encoding, space.describe(lowerer.batch), {"counted": values}, networks, none, exact=True
        )
    except (LoweringError, MissingKeys, TableError):
        return None  # whole networks cannot be lowered: the sum over the modules is the count
    return found
