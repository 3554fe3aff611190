"""Whether a predictor and a device go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..devices.base import Device
from ..profiler.table import Provenance, TableMismatch
from ..profiler.table_provenance import check_agreement
from .base import Predictor, PredictorError


def check_device(predictor: Predictor, device: Device, about: Mapping[str, Any] | None = None) -> list[str]:
    """Compare the device and settings that a predictor was made for with the ones at hand.

    Args:
        about: what the device's session says of hardware and runtime.

    Returns:
        doubts: another machine or runtime.

    Raises:
        PredictorError: another unit, device, or setting.
    """
    if predictor.unit != device.unit:
        raise PredictorError(f"the predictor is in {predictor.unit}, device {device.name!r} in {device.unit}")
    origin = predictor.origin
    if origin is None:
        return []
    unit = device.unit
    made_for = Provenance(origin.device, unit, dict(origin.settings), environment=dict(origin.environment))  # type: ignore[arg-type]
    here = replace(made_for, device=device.name, settings=device.settings.as_dict(), environment=dict(about or {}))
    try:
        check_agreement("the predictor", made_for, here)
    except TableMismatch as error:
        if error.field.startswith("environment."):
            what = error.field.removeprefix("environment.")
            return [f"the predictor was made where {what} is {error.found!r}, here it is {error.wanted!r}"]
        raise PredictorError(
            f"the predictor was made for {error.field} = {error.found!r}, not {error.wanted!r}: use the device and "
            "settings it was made for, or profile these"
        ) from error
    return []
