"""Where a model runs, and the process that times it there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import (
        Artifact,
        Device,
        DeviceError,
        DeviceLost,
        LoadReport,
        NodeTrace,
        Round,
        Samples,
        Settings,
        TensorSpec,
        Unavailable,
        WorkloadFailed,
    )
    from .registry import create, device_names, status
    from .session import Session

_HOMES = {
    "base": (
        "Artifact",
        "Device",
        "DeviceError",
        "DeviceLost",
        "LoadReport",
        "NodeTrace",
        "Round",
        "Samples",
        "Settings",
        "TensorSpec",
        "Unavailable",
        "WorkloadFailed",
    ),
    "registry": ("create", "device_names", "status"),
    "session": ("Session",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "Device",
    "DeviceError",
    "DeviceLost",
    "LoadReport",
    "NodeTrace",
    "Round",
    "Samples",
    "Session",
    "Settings",
    "TensorSpec",
    "Unavailable",
    "WorkloadFailed",
    "create",
    "device_names",
    "status",
]


def __getattr__(name: str) -> Any:
    # Lazy, because the agent must claim its pipes before anything else is imported.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
