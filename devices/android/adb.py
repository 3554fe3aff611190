"""adb by subprocess: which phone, shell commands with their exit codes, files; and what its complaints mean."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import DeviceError, DeviceLost

PATIENCE_S = 15.0
"""For commands that do next to nothing; the first one may have to start adb's server."""
SETTLE_S = 5.0
"""How long a phone may be connecting."""
BYTES_PER_S = 0.5e6
"""Slowest connection that a file's size is allowed for."""

_MARK = "hwnas-exit="
_SERVER = re.compile(
    r"cannot connect to daemon|failed to start daemon|server didn't ACK|cannot bind|smartsocket listener|"
    r"failed to check server version|daemon still not running|couldn't create logfile",
    re.IGNORECASE,
)
_GONE = re.compile(
    r"device '.*' not found|no devices/emulators found|device offline|device unauthorized|device still |"
    r"error: closed|protocol fault|failed to read|connection reset|device not found|no device",
    re.IGNORECASE,
)
_FULL = re.compile(r"no space left|disk quota|not enough space", re.IGNORECASE)
_STATES = {
    "unauthorized": (
        "has not allowed this computer to debug it",
        "unlock it and confirm the dialogue `Allow USB debugging?` (none there: `adb kill-server`, connect it again)",
    ),
    "authorizing": ("still decides whether to allow debugging", "unlock it, confirm the dialogue, and try again"),
    "connecting": ("is still connecting", "try again in some seconds"),
    "offline": ("is offline, it does not answer adb", "connect its cable again, or restart the phone"),
    "no permissions": (
        "may not be opened by this user",
        "apt-get install android-sdk-platform-tools-common (udev rules), be in group plugdev, connect it again",
    ),
}
_WAITING = ("authorizing", "connecting", "offline")


@dataclass(frozen=True)
class Finished:
    """A shell command on the phone that ran to its end: its exit code, and its output and errors together."""

    code: int
    output: str


class Adb:
    """The phone of a serial number, or the only one.

    Raises:
        DeviceError: no adb, no server, no such phone, or one that cannot be used; each with what mends it.
    """

    def __init__(self, serial: str | None = None) -> None:
        found = shutil.which("adb")
        if found is None:
            raise DeviceError("adb is not installed; apt-get install adb, or put platform-tools on the PATH")
        self._adb = found
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.serial = self._choose(serial or os.environ.get("ANDROID_SERIAL") or None)

    def version(self) -> str:
        """Of adb itself."""
        found = re.search(r"(?m)^Version (\S+)", self._run(["version"], PATIENCE_S)[1])
        return found[1] if found else "unknown"

    def shell(self, command: str, timeout_s: float = PATIENCE_S) -> Finished:
        """Run a command by the phone's shell.

        Raises:
            DeviceLost: the phone went away meanwhile.
            DeviceError: it did not end in time.
        """
        # adb of some versions gives exit code 0 where the connection broke: only the mark proves the end.
        line = f"{{ {command}\n}} 2>&1; code=$?; echo; echo {_MARK}$code"
        try:
            code, output, said = self._run(["-s", self.serial, "shell", line], timeout_s)
        except subprocess.TimeoutExpired:
            self.check()
            raise DeviceError(f"it did not end within {timeout_s:.3g} s") from None
        text, mark, exit_code = output.rpartition(f"\n{_MARK}")
        if not mark or not exit_code.strip().isdigit():
            self._explain(code, said or output)
            self.check()
            raise DeviceLost(f"the phone's answer was cut off ({self._hide(_brief(said or output))}); check the cable")
        return Finished(int(exit_code), text.replace("\r\n", "\n").removesuffix("\n"))

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the phone.

        Raises:
            DeviceLost: the phone went away, or has no room: whatever would come next fails as well.
            DeviceError: it cannot be copied for another reason.
        """
        limit = PATIENCE_S + local.stat().st_size / BYTES_PER_S
        try:
            code, output, said = self._run(["-s", self.serial, "push", str(local), remote], limit)
        except subprocess.TimeoutExpired:
            self.check()
            raise DeviceLost(f"copying a file to the phone took longer than {limit:.0f} s; check the cable") from None
        complaint = f"{said} {output}"
        if code and _FULL.search(complaint):
            raise DeviceLost(
                f"the phone's storage is full, {local.stat().st_size / 1e6:.1f} MB did not fit in "
                f"{remote.rpartition('/')[0]}; make room on the phone and try again"
            )
        if code:
            self._explain(code, complaint)
            raise DeviceError(f"a file cannot be copied to the phone: {self._hide(_brief(complaint))}")

    def check(self) -> None:
        """Raise DeviceLost where the phone is not there any more."""
        try:
            state = self._devices().get(self.serial, "")
        except (DeviceError, subprocess.TimeoutExpired):
            state = ""
        if state != "device":
            raise _lost(state)

    def remove(self, remote: str, timeout_s: float) -> None:
        """Remove a folder at the end: commands and programs of it are ended, and whatever fails is passed over."""
        with self._lock:
            self._ended = True
            if self._running is not None:
                self._running.kill()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            own = f"{remote[:-1]}[{remote[-1]}]/"  # matches what runs in the folder, and not the shell that says this
            command = [self._adb, "-s", self.serial, "shell", f"pkill -9 -f '{own}'; rm -rf {remote}"]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)

    # -- which phone

    def _choose(self, wanted: str | None) -> str:
        deadline = time.monotonic() + SETTLE_S
        while True:
            devices = self._devices()
            waiting = [devices[wanted]] if wanted in devices else [] if wanted else list(devices.values())
            if not any(state in _WAITING for state in waiting) or time.monotonic() > deadline:
                break
            time.sleep(0.25)
        if wanted is not None and wanted not in devices:
            there = f"adb sees: {', '.join(devices)}" if devices else "adb sees none"
            raise DeviceError(f"there is no phone with the serial number {wanted!r}; {there}")
        if not devices:
            raise DeviceError(
                "no phone is connected; connect one by USB and switch on `USB debugging` in its developer options "
                "(or `adb connect ADDRESS`)"
            )
        usable = [serial for serial, state in devices.items() if state == "device"]
        if wanted is None and len(usable) > 1:
            raise DeviceError(f"{len(usable)} phones are connected; choose one by --serial: {', '.join(usable)}")
        chosen = wanted or (usable or list(devices))[0]
        if devices[chosen] != "device":
            found, mend = _state(devices[chosen])
            raise DeviceError(f"phone {chosen} {found}; {mend}")
        return chosen

    def _devices(self) -> dict[str, str]:
        """Serial number -> state, of all phones that adb's server sees; it is started if need be."""
        try:
            code, output, said = self._run(["devices"], PATIENCE_S)
        except subprocess.TimeoutExpired:
            code, output, said = 1, "", f"no answer within {PATIENCE_S:.0f} s: cannot connect to daemon"
        if code:
            self._explain(code, f"{said} {output}")
            raise DeviceError(f"adb devices failed: {_brief(said or output)}")
        listed = output.partition("List of devices attached")[2].splitlines()
        return {serial: state for serial, _, state in (line.partition("\t") for line in listed) if state}

    def _explain(self, code: int, complaint: str) -> None:
        """Raise what adb's own complaint means, where it is a known one."""
        if _SERVER.search(complaint):
            last = _brief(complaint)
            raise DeviceLost(
                f"adb's server cannot be started or reached ({last}); `adb kill-server` and try again; a server of "
                "another version, or another program on port 5037, may be in the way"
            )
        if code and _GONE.search(complaint):
            self.check()
            raise DeviceLost("the connection to the phone broke; check the cable and run the same command again")

    def _run(self, arguments: Sequence[str], timeout_s: float) -> tuple[int, str, str]:
        with self._lock:
            if self._ended:
                raise DeviceError("the session with the phone is over")
            try:
                process = self._running = subprocess.Popen(
                    [self._adb, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            except OSError as error:
                raise DeviceError(f"{self._adb} cannot be started: {error.strerror or error}") from None
        try:
            output, said = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        finally:
            self._running = None
        return process.returncode, output.decode(errors="replace"), said.decode(errors="replace")

    def _hide(self, text: str) -> str:
        return text.replace(self.serial, "SERIAL")  # messages end up in tables, which are passed on


def _state(state: str) -> tuple[str, str]:
    for name, (found, mend) in _STATES.items():
        if state.startswith(name):
            return found, mend
    return f"is in the state {state!r}", "start it as usual, until it shows its home screen"


def _lost(state: str) -> DeviceLost:
    found, mend = ("", "check the cable") if state in ("", "device") else _state(state)
    why = f" (it {found})" if found else ""
    again = "run the same command again, what was measured is kept"
    return DeviceLost(f"the phone went away in the middle{why}; {mend}, and {again}")


def _brief(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("* daemon")]
    return " | ".join(lines[-2:])[-300:] or "no reason given"
