"""The ``benchmark_model`` that the user brings: what it is, seen from outside, before it is copied to a phone."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import DeviceError

GET_IT = (
    "it is built with `bazel build -c opt --config=android_arm64 tensorflow/lite/tools/benchmark:benchmark_model`, "
    "or taken from TensorFlow's nightly benchmark binaries"
)
_ABIS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86", 243: "riscv64"}
"""ELF machine -> Android's name for it."""
_MACHINES = {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a", "armv8l": "armeabi-v7a", "i686": "x86"}


@dataclass(frozen=True)
class Binary:
    """A program file: where it is, the ABI it was built for ("" for a script), and a digest of its content."""

    path: Path
    abi: str
    digest: str

    @classmethod
    def read(cls, path: str | None) -> Binary:
        """Look at the file; raises DeviceError where it is none that a phone could run."""
        if not path:
            raise DeviceError(f"device 'android' needs --benchmark-binary PATH, TFLite's benchmark_model; {GET_IT}")
        file = Path(path).expanduser()
        if not file.exists():
            raise DeviceError(f"--benchmark-binary {path}: there is no such file; {GET_IT}")
        if not file.is_file():
            raise DeviceError(f"--benchmark-binary {path} is not a file; {GET_IT}")
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DeviceError(f"--benchmark-binary {path} cannot be read: {error.strerror}") from None
        return cls(file, _abi(path, data), hashlib.sha256(data).hexdigest())

    def check(self, abis: Sequence[str]) -> None:
        """Refuse a program that was built for other phones; ``abis`` is what the phone runs, best first."""
        if self.abi and abis and self.abi not in abis:
            raise DeviceError(
                f"--benchmark-binary {self.path} is built for {self.abi}, the phone runs {', '.join(abis)}; "
                f"take a benchmark_model for {abis[0]}"
            )


def abi_of(machine: str) -> str:
    """Android's name for what ``uname -m`` says."""
    return _MACHINES.get(machine, machine)


def _abi(path: str, data: bytes) -> str:
    if data[:2] == b"#!":  # for instance a wrapper that pins the program to some cores
        return ""
    if data[:4] != b"\x7fELF" or len(data) < 20 or data[5] not in (1, 2):
        kind = "an app or archive" if data[:2] == b"PK" else "neither a program for phones (ELF) nor a script"
        raise DeviceError(f"--benchmark-binary {path} is {kind}; needed is the command-line benchmark_model: {GET_IT}")
    kind_of_file, machine = struct.unpack("<HH" if data[5] == 1 else ">HH", data[16:20])
    if kind_of_file not in (2, 3):
        raise DeviceError(f"--benchmark-binary {path} is an ELF file, but no program (type {kind_of_file}); {GET_IT}")
    return _ABIS.get(machine, f"ELF machine {machine}")
