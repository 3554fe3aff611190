"""The folder of a session on the phone, and those that dead sessions left there."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from pathlib import Path

from ..data import DeviceError
from .adb import Adb
from .binary import Binary

PLACE = "/data/local/tmp"
PROGRAM = "benchmark_model"
STALE_S = 2 * 3600
"""A folder of another computer is left behind if nothing touched it for so long."""
REMOVE_S = 4.0

_NAME = re.compile(r"hwnas-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")
_LIST = f'cd {PLACE} && for f in hwnas-*; do [ -d "$f" ] && echo "$f $(stat -c %Y "$f")"; done; echo "now $(date +%s)"'


class PhoneFolder:
    """Made with the program in it; removed by `remove`.

    Raises:
        DeviceError: it cannot be made, or the phone cannot run the program.
        DeviceLost: the phone has no room, or went away.
    """

    def __init__(self, adb: Adb, binary: Binary) -> None:
        self._adb = adb
        self.path = f"{PLACE}/hwnas-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._files = 0
        remove_stale(adb)
        try:
            made = adb.shell(f"mkdir {self.path}")
            if made.code:
                raise DeviceError(f"the phone's folder {PLACE} cannot be written: {made.output.strip()[-200:]}")
            adb.push(binary.path, self.program)
            self._try_out(binary)
        except BaseException:
            self.remove()
            raise

    @property
    def program(self) -> str:
        """Path of the benchmark program on the phone."""
        return f"{self.path}/{PROGRAM}"

    def new_file(self) -> str:
        """Path of a file that is not there yet."""
        self._files += 1
        return f"{self.path}/{self._files}.tflite"

    def remove(self) -> None:
        """Take it off the phone, at the end of the session; whatever fails is left to the next session."""
        self._adb.remove(self.path, REMOVE_S)

    def _try_out(self, binary: Binary) -> None:
        tried = self._adb.shell(f"chmod 755 {self.program}; {self.program} --help")  # which exits with 1
        said = tried.output.replace(self.path, "").strip()[-200:]
        if tried.code in (126, 127):
            raise DeviceError(
                f"the phone cannot run --benchmark-binary {binary.path}: {said}; take a benchmark_model that was built "
                "for its ABI"
            )
        if tried.code > 128:
            raise DeviceError(
                f"--benchmark-binary {binary.path} crashes on the phone (signal {tried.code - 128}): {said}; take "
                "another build"
            )


def remove_stale(adb: Adb) -> list[str]:
    """Remove folders whose sessions are dead; those of living ones stay. Returns the names."""
    found = dict(line.rpartition(" ")[::2] for line in adb.shell(_LIST).output.splitlines() if " " in line)
    now = found.pop("now", "")
    stale = [name for name, touched in found.items() if _is_stale(name, touched, now)]
    if stale:
        adb.shell(f"cd {PLACE} && rm -rf {' '.join(stale)}")  # their names are plain, see _NAME
    return stale


def _is_stale(name: str, touched: str, now: str) -> bool:
    owner = _NAME.fullmatch(name)
    if owner is None:
        return False
    if owner[1] == _host() and not _lives(owner[2]):
        return True
    return touched.isdigit() and now.isdigit() and int(now) - int(touched) > STALE_S


def _lives(pid: str) -> bool:
    """Whether a process of this computer does more than wait to be buried; in doubt it does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def _host() -> str:
    """Eight digits that stand for this computer, without naming it."""
    return hashlib.sha256(f"hwnas {platform.node()}".encode()).hexdigest()[:8]
