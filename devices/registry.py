"""Devices by name. Other packages add theirs through the entry-point group ``hwnas.devices``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .base import Device, DeviceError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "hwnas.devices"

# Named here and imported on use: `devices` imports nothing below itself, and no runtime before it is asked for.
_BUILT_IN = {
    "cpu": "hwnas.devices.onnxruntime_cpu:OnnxRuntimeCpu",
    "flops": "hwnas.devices.flops:Flops",
    "mobile": "hwnas.devices.litert:Litert",
    "android": "hwnas.devices.android.device:Android",
    "gpu": "hwnas.devices.cuda.device:Gpu",
    "simulated": "hwnas.testing.simulated:Simulated",
    "torch_cpu": "hwnas.testing.torch_cpu:TorchCpu",
}
_FOR_TESTING = ("simulated", "torch_cpu")
SAFE_SETTINGS = ("batch", "threads", "dtype", "optimization", "gpu", "eager")
"""What may be taken from a predictor's file, which may come from a stranger."""


@dataclass(frozen=True)
class DeviceStatus:
    """One line of ``hwnas devices``. ``reason`` and ``mend`` are empty where the device is available."""

    name: str
    unit: str
    format: str
    available: bool
    reason: str = ""
    mend: str = ""


def device_names(*, testing: bool = False) -> tuple[str, ...]:
    """All known names, usable here or not; with ``testing`` also those that exist for tests."""
    names = [*_BUILT_IN, *_plugins()]
    return tuple(dict.fromkeys(name for name in names if testing or name not in _FOR_TESTING))


def create(name: str, *, connection: Mapping[str, Any] | None = None, **settings: Any) -> Device:
    """The device of that name; ``gpuN`` is ``gpu`` at batch N. Settings that are None count as not given.

    Args:
        connection: how the device is reached, such as a serial number: names from its `connections`.

    Raises:
        DeviceError: an unknown name, a device that fails to import, or settings or
            connections that it does not have.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    sized = re.fullmatch(r"gpu([0-9]+)", name)
    if sized:
        if "batch" in given:
            raise DeviceError(f"{name!r} already says the batch; leave out batch={given['batch']}, or use 'gpu'")
        name, given["batch"] = "gpu", int(sized[1])
    device_type = _find(name)
    known = [f.name for f in fields(device_type.settings_type)]
    foreign = sorted(set(given) - set(known))
    if foreign:
        raise DeviceError(f"device {name!r} has no setting {foreign[0]!r}; it has: {', '.join(known)}")
    return device_type(device_type.settings_type(**given), connection)


def status() -> list[DeviceStatus]:
    """Which devices can be used here; for the others why not, and the mend."""
    return [_status(name) for name in device_names()]


def _status(name: str) -> DeviceStatus:
    try:
        device_type = _find(name)
        missing = device_type.unavailable()
    except DeviceError as error:
        return DeviceStatus(name, "", "", False, str(error), "mend or remove the package that adds it")
    if missing is not None:
        return DeviceStatus(name, device_type.unit, device_type.format, False, missing.reason, missing.mend)
    return DeviceStatus(name, device_type.unit, device_type.format, True)


def _find(name: str) -> type[Device]:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: type[Device] = getattr(importlib.import_module(module), attribute)
        return found
    plugin = _plugins().get(name)
    if plugin is not None:
        return _load(plugin)
    raise DeviceError(f"there is no device {name!r}; there are: {', '.join(device_names())}")


def _plugins() -> Mapping[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN}


def _load(point: EntryPoint) -> type[Device]:
    try:
        found = point.load()
    except Exception as error:  # foreign code: whatever its import raises must not take the command down
        raise DeviceError(f"device {point.name!r} ({point.value}) fails to import: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise DeviceError(f"device {point.name!r} ({point.value}) is no subclass of hwnas.devices.base.Device")
    return found
