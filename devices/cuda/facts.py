"""What NVIDIA's management library tells of a GPU: what it is, and the state it measures in."""

from __future__ import annotations

import contextlib
from typing import Any

HOT_C = 85
"""Temperature in degrees Celsius from which times are doubted."""
_SLOW = {
    0x4: "its power limit",
    0x8: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature",
    0x80: "a hardware power brake",
}
"""Bits of NVML's throttle reasons that make times doubtful."""


class Facts:
    """One GPU, by its index among all of the machine or its UUID; says nothing where nvidia-ml-py is not installed.

    Attributes:
        busy: whether other processes computed on the GPU before this one did.
    """

    def __init__(self, uuid: str) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        with contextlib.suppress(Exception):  # the library, its driver or the right to ask it may be missing
            import pynvml

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._nvml = pynvml
        self.busy = bool(self._ask("nvmlDeviceGetComputeRunningProcesses"))

    def fixed(self) -> dict[str, Any]:
        """Driver, power limit, largest clocks, compute mode; None for what cannot be told."""
        driver = self._call("nvmlSystemGetDriverVersion")
        return {
            "driver": driver.decode() if isinstance(driver, bytes) else driver,
            "power_limit_w": _thousandth(self._ask("nvmlDeviceGetPowerManagementLimit")),
            "max_sm_mhz": self._of("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_SM"),
            "max_memory_mhz": self._of("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_MEM"),
            "compute_mode": self._ask("nvmlDeviceGetComputeMode"),
            "others": self.busy,
        }

    def now(self) -> dict[str, Any]:
        """Clocks, power, temperature and what holds the clock down, and doubts on times taken in this state."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        heat = self._of("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU")
        slow = sorted({why for bit, why in _SLOW.items() if reasons & bit})
        doubts = [f"the GPU's clock is held down by {why}" for why in slow]
        if heat is not None and heat >= HOT_C:
            doubts.append(f"the GPU has {heat} degrees Celsius")
        if self.busy:
            doubts.append("other processes compute on this GPU")
        return {
            "sm_mhz": self._of("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM"),
            "memory_mhz": self._of("nvmlDeviceGetClockInfo", "NVML_CLOCK_MEM"),
            "power_w": _thousandth(self._ask("nvmlDeviceGetPowerUsage")),
            "celsius": heat,
            "throttle": reasons,
            "doubts": doubts,
        }

    def _ask(self, function: str, *arguments: Any) -> Any:
        return self._call(function, self._handle, *arguments)

    def _of(self, function: str, kind: str) -> Any:
        """One of several clocks or sensors, by the name of NVML's constant."""
        return self._ask(function, getattr(self._nvml, kind, None))

    def _call(self, function: str, *arguments: Any) -> Any:
        if self._nvml is None:
            return None
        try:
            return getattr(self._nvml, function)(*arguments)
        except Exception:  # each of these is missing on some GPU
            return None


def _thousandth(value: Any) -> float | None:
    return None if value is None else value / 1000
