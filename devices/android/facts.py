"""What a phone says about itself: hardware, system, heat, battery. Any of it may be absent, and nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .binary import abi_of

_SECTION = "#hwnas "
_PROPERTIES = {
    "manufacturer": "ro.product.manufacturer",
    "model": "ro.product.model",
    "abi": "ro.product.cpu.abi",
    "abis": "ro.product.cpu.abilist",
    "soc": "ro.soc.model",
    "board": "ro.board.platform",
    "release": "ro.build.version.release",
    "sdk": "ro.build.version.sdk",
    "build": "ro.build.fingerprint",
}
_CPUFREQ = "/sys/devices/system/cpu/cpu*/cpufreq"
_FACTS = {
    **{name: f"getprop {key}" for name, key in _PROPERTIES.items()},
    "kernel": "uname -r",
    "machine": "uname -m",
    "cpus": "cat /sys/devices/system/cpu/possible",
    "cpuinfo": "grep -E '^(processor|Hardware|model name)' /proc/cpuinfo",
    "memory": "grep -E '^(MemTotal|MemAvailable):' /proc/meminfo",
    "governors": f"cat {_CPUFREQ}/scaling_governor",
    "khz": f"cat {_CPUFREQ}/cpuinfo_max_freq",
    "low_power": "settings get global low_power",
}
_STATE = {
    "thermal": "dumpsys thermalservice",
    "battery": "dumpsys battery",
    "power": "dumpsys power | grep mWakefulness=",
    "governors": f"cat {_CPUFREQ}/scaling_governor",
    "limits": f"cat {_CPUFREQ}/scaling_max_freq",
}
_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_TYPES = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 4: "usb", 5: "power amplifier", 9: "npu"}


def _command(parts: Mapping[str, str]) -> str:
    """One shell command for all of them, since each call costs the way to the phone and back."""
    return "; ".join(f"echo; echo '{_SECTION}{name}'; {command} 2>/dev/null" for name, command in parts.items())


FACTS = _command(_FACTS)
"""Shell command whose output `Facts.parse` reads."""
STATE = _command(_STATE)
"""Shell command whose output `State.parse` reads."""
HEAT = _command({"thermal": _STATE["thermal"]})
"""Shell command for the thermal status alone, which `State.parse` reads as well."""


@dataclass(frozen=True)
class Facts:
    """What does not change during a session.

    Attributes:
        told: JSON data by name, as found.
        abis: what programs the phone runs, best first.
        cpus: how many there are; None where unknown.
    """

    told: Mapping[str, Any]
    abis: tuple[str, ...]
    cpus: int | None

    @classmethod
    def parse(cls, output: str) -> Facts:
        """Read what the shell command `FACTS` printed."""
        found = _sections(output)
        plain = (*_PROPERTIES, "kernel", "machine")
        told: dict[str, Any] = {name: found[name] for name in plain if found.get(name)}
        told |= {"governors": _distinct(found, "governors"), "low_power": found.get("low_power") == "1"}
        told["mhz"] = sorted({int(khz) // 1000 for khz in found.get("khz", "").split() if khz.isdigit()})
        told["memory_mb"] = {
            name.removeprefix("Mem").lower(): int(kb) >> 10
            for name, kb in re.findall(r"(\w+):\s+(\d+) kB", found.get("memory", ""))
        }
        listed = found.get("abis") or found.get("abi") or abi_of(found.get("machine", ""))
        cpus = _cpus(found.get("cpus", "")) or len(re.findall(r"(?m)^processor", found.get("cpuinfo", ""))) or None
        hardware = re.search(r"(?m)^(?:Hardware|model name)\s*:\s*(.+)$", found.get("cpuinfo", ""))
        if "soc" not in told and hardware:
            told["soc"] = hardware[1].strip()
        return cls(told, tuple(abi for abi in listed.split(",") if abi), cpus)

    def environment(self) -> dict[str, Any]:
        """The part of a table's environment that is about the phone, with `provenance.environment`'s keys."""
        told = self.told
        hardware = " ".join(str(told[key]) for key in ("manufacturer", "model") if key in told)
        return {
            "hardware": hardware or None,
            "system": " ".join(["Android", str(told.get("release", ""))]).strip(),
            "kernel": told.get("kernel"),
            "architecture": self.abis[0] if self.abis else None,
            "cpu": {
                "model": told.get("soc") or told.get("board") or "unknown",
                "logical": self.cpus,
                "governor": ", ".join(told["governors"]) or None,
                "max_mhz": max(told["mhz"], default=None),
            },
            "memory_mb": {"total": told["memory_mb"].get("total"), "available": told["memory_mb"].get("available")},
            "load": None,
            "virtualisation": None,
        }


@dataclass(frozen=True)
class State:
    """How the phone is now.

    Attributes:
        status: Android's thermal status from 0 (none) to 6 (shutdown); None where it is not told.
        celsius: temperature by sensor.
        awake: whether the screen is on; None where it is not told.
        battery: level in percent, and whether it is charged meanwhile.
        governors, limits_mhz: of the CPUs' clocks, where they can be read.
    """

    status: int | None = None
    celsius: Mapping[str, float] = field(default_factory=dict)
    awake: bool | None = None
    battery: Mapping[str, Any] = field(default_factory=dict)
    governors: Sequence[str] = ()
    limits_mhz: Sequence[int] = ()

    @classmethod
    def parse(cls, output: str) -> State:
        """Read what the shell commands `STATE` or `HEAT` printed."""
        found = _sections(output)
        thermal, power = found.get("thermal", ""), found.get("power", "")
        status = re.search(r"Thermal Status: (\d+)", thermal)
        awake = re.search(r"mWakefulness=(\w+)", power)
        battery = _battery(found.get("battery", ""))
        celsius = _temperatures(thermal)
        if "celsius" in battery:
            celsius = {"battery": battery.pop("celsius"), **celsius}
        limits = sorted({int(khz) // 1000 for khz in found.get("limits", "").split() if khz.isdigit()})
        return cls(
            status=int(status[1]) if status else None,
            celsius=celsius,
            awake=awake[1] == "Awake" if awake else None,
            battery=battery,
            governors=_distinct(found, "governors"),
            limits_mhz=limits,
        )

    @property
    def throttles(self) -> bool:
        """Whether Android says that the phone slows down for heat."""
        return bool(self.status)

    def as_dict(self) -> dict[str, Any]:
        """What is known, as JSON data."""
        status = None if self.status is None else _STATUS[min(self.status, len(_STATUS) - 1)]
        told = {**vars(self), "status": status}
        return {name: value for name, value in told.items() if value not in (None, {}, [], ())}


def _sections(output: str) -> dict[str, str]:
    parts = re.split(rf"(?m)^{_SECTION}(\w+)$", output)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _distinct(found: Mapping[str, str], name: str) -> list[str]:
    return list(dict.fromkeys(found.get(name, "").split()))


def _cpus(ranges: str) -> int:
    """How many are in ``0-3,5``."""
    bounds = re.findall(r"(\d+)(?:-(\d+))?", ranges)
    return sum(int(last or first) - int(first) + 1 for first, last in bounds)


def _temperatures(thermal: str) -> dict[str, float]:
    """Warmest sensor of each type; those read from the hardware now count, else the remembered ones."""
    now = thermal.partition("Current temperatures from HAL:")[2] or thermal
    now = now.partition("cooling devices")[0]
    celsius: dict[str, float] = {}
    for value, kind in re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+)", now):
        name, degrees = _TYPES.get(int(kind)), float(value)
        if name is not None and 0 < degrees < 150:  # 0: a sensor that is not there
            celsius[name] = max(degrees, celsius.get(name, degrees))
    return celsius


def _battery(text: str) -> dict[str, Any]:
    found = dict(re.findall(r"(?m)^\s*([\w ]+): (\S+)\s*$", text))
    told: dict[str, Any] = {}
    if found.get("level", "").isdigit():
        told["percent"] = int(found["level"])
    if found.get("temperature", "").isdigit():
        told["celsius"] = int(found["temperature"]) / 10
    powered = [value == "true" for name, value in found.items() if name.endswith("powered")]
    return told | ({"charging": any(powered)} if powered else {})
