"""What the machine is like while it measures. Whatever cannot be read is left out or None; nothing here raises."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

_CPU = Path("/sys/devices/system/cpu")


def environment() -> dict[str, Any]:
    """Hardware and system of this machine now, as JSON data.

    Keys: ``host``, ``system``, ``kernel``, ``architecture``, ``python``, ``cpu`` (model, logical, physical, usable,
    governor, mhz, max_mhz), ``memory_mb`` (total, available), ``load`` (1, 5, 15 minutes), ``virtualisation``.
    """
    return {
        "host": platform.node(),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "memory_mb": memory_mb(),
        "load": load_average(),
        "virtualisation": _virtualisation(),
    }


def load_average() -> list[float] | None:
    """The 1, 5 and 15 minute load averages."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (OSError, AttributeError):
        return None


def preemptions() -> int:
    """Involuntary context switches of the calling thread so far (of the process where threads are not told apart)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nivcsw


def memory_mb() -> dict[str, int | None]:
    """Total and available memory in MB; within a container, no more than its limit."""
    found = {key: int(value) >> 10 for key, value in re.findall(r"(?m)^(\w+):\s+(\d+) kB", _read("/proc/meminfo"))}
    total, available = found.get("MemTotal"), found.get("MemAvailable")
    limit = _container_limit_mb()
    if limit is not None:
        total = limit if total is None else min(total, limit)
        available = limit if available is None else min(available, limit)
    return {"total": total, "available": available}


def resident_mb() -> tuple[float, float]:
    """Resident memory of this process and its peak so far, in MB; NaN where unknown."""
    found = dict(re.findall(r"(?m)^(VmRSS|VmHWM):\s+(\d+) kB", _read("/proc/self/status")))
    now, peak = (float(found.get(key, "nan")) / 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak


def reset_peak() -> None:
    """Let the peak of the resident memory start anew, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _cpu() -> dict[str, Any]:
    info = _read("/proc/cpuinfo")
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "model": _first(info, "model name", "Model", "Hardware") or platform.processor(),
        "logical": os.cpu_count(),
        "physical": _physical_cores(info),
        "usable": sorted(affinity(0)) if affinity else None,
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor").strip() or None,
        "mhz": _number(_first(info, "cpu MHz")),
        "max_mhz": _khz(_CPU / "cpu0/cpufreq/cpuinfo_max_freq"),
    }


def _physical_cores(info: str) -> int | None:
    cores = set()
    for block in info.split("\n\n"):
        core = _first(block, "core id")
        if core is not None:
            cores.add((_first(block, "physical id"), core))
    return len(cores) or None


def _virtualisation() -> str | None:
    """The hypervisor if one shows itself: the DMI product, else "hypervisor" for the CPU flag alone."""
    if sys.platform != "linux" or not re.search(r"(?m)^flags\b.*\bhypervisor\b", _read("/proc/cpuinfo")):
        return None
    return _read("/sys/class/dmi/id/product_name").strip() or "hypervisor"


def _container_limit_mb() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdigit():
            return int(text) >> 20
    return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _first(text: str, *keys: str) -> str | None:
    for key in keys:
        match = re.search(rf"(?m)^{re.escape(key)}\s*:\s*(.+)$", text)
        if match:
            return match[1].strip()
    return None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _khz(path: Path) -> float | None:
    value = _number(_read(path).strip() or None)
    return None if value is None else value / 1000
