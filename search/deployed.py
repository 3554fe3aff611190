"""The files that a search delivers its network in: ONNX, and what the device was given to measure."""

from __future__ import annotations

from pathlib import Path

from ..errors import HwnasError
from ..spaces.architecture import Architecture
from .export import DTYPES, export
from .preparation import Prepared


def write_models(prepared: Prepared, architecture: Architecture, folder: Path, weights: Path) -> list[str]:
    """Write ``model.onnx`` in fp32, and the model in the device's format and precision where that is another one.

    Args:
        weights: of the trained network.

    Returns:
        warnings: a model that cannot be made is left out; doubts about one that was.
    """
    device = prepared.final.device
    wanted = {"model.onnx": ("onnx", "fp32")}
    if device is not None and device.settings.dtype in DTYPES.get(device.format, ()):
        dtype = device.settings.dtype
        wanted[f"model{'' if dtype == 'fp32' else f'-{dtype}'}.{device.format}"] = (device.format, dtype)
    warnings: list[str] = []
    for name, (format, dtype) in wanted.items():
        try:
            exported = export(
                prepared.space,
                architecture,
                folder / name,
                format=format,
                dtype=dtype,
                weights=weights,
                batch=device.settings.batch if device is not None else 1,
                force=True,
                calibration=prepared.calibration if dtype == "int8" else None,
            )
        except HwnasError as error:
            warnings.append(f"no {name} was written: {error}")
        else:
            warnings += [f"{name}: {doubt}" for doubt in exported.doubts]
    return warnings
