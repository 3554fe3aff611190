"""A board behind a real sshd, and a phone that is a real adbd; see ``fetch_tools.py`` for where they come from."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPT = [sys.executable, "-I", str(HERE / "phone.py")]


def _tool(name: str) -> Path:
    folder = Path(os.environ.get("HWNAS_TEST_TOOLS") or ROOT / ".venv/test-tools").absolute()
    if not (folder / f"{name}.complete").is_file():
        pytest.skip(f"needs `python tests/remote/fetch_tools.py {name}`: there is no {folder / name}")
    return folder / name / "bin"


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """The folder of programs of a group of ``fetch_tools.py``; the test is skipped where it was not fetched."""
    return _tool


def wait_for(found: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Ask until it is there; fails with what was waited for."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


class Phone:
    """A real adb server and a real adbd, within namespaces of their own.

    Attributes:
        path: folder with an ``adb`` that speaks to that server.
        serial: as in ``adb -s``.
        root: the phone's root as seen from here; nothing is in /data/local/tmp, programs may be put into /system/bin.
    """

    def __init__(self, tools: Path, folder: Path) -> None:
        self.serial = ""
        self.path = folder / "path"
        self._adbd = tools / "adbd"
        self._daemons: dict[int, subprocess.Popen[bytes]] = {}
        self._log = (folder / "log").open("wb")
        for name in ("root", "home", "path"):
            (folder / name).mkdir()
        root = os.geteuid() == 0
        alone = [
            "unshare",
            *([] if root else ["--map-root-user"]),
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
        ]
        self._world = subprocess.Popen(
            [*alone, *SCRIPT, "world", folder / "root"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        assert self._world.stdout is not None
        if self._world.stdout.readline() != b"ready\n":
            self._world.wait()
            why = (folder / "log").read_text(errors="replace").strip().splitlines() or ["no reason given"]
            pytest.skip(f"needs namespaces of its own: {why[-1]}")
        self._pid = _child(self._world.pid)
        self.root = Path(f"/proc/{self._pid}/root")
        self._enter = ["nsenter", f"--target={self._pid}", *([] if root else ["--user", "--preserve-credentials"])]
        self._start_server(tools / "adb", folder / "home")

    def adb(self, *arguments: str | Path) -> str:
        """What the command prints; it must succeed."""
        done = subprocess.run([self.path / "adb", *arguments], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout

    def plug(self, port: int = 6555) -> str:
        """Start a daemon on a port and connect to it; its serial."""
        assert port not in self._daemons
        env = {"PATH": "/system/bin:/usr/bin:/bin", "HOME": "/data/local/tmp", "ADBD_PORT": str(port)}
        self._daemons[port] = self._within([*SCRIPT, "run", str(self._adbd)], env)
        wait_for(lambda: self._listens(port), "adbd")
        serial = f"127.0.0.1:{port}"
        wait_for(lambda: f"connected to {serial}" in self.adb("connect", serial), f"adb connect {serial}")
        wait_for(lambda: f"{serial}\tdevice" in self.adb("devices"), f"{serial} in adb devices")
        return serial

    def unplug(self, port: int = 6555) -> None:
        """End the daemon without a word, as a pulled cable does."""
        daemon = self._daemons.pop(port)
        os.kill(_child(daemon.pid), signal.SIGKILL)
        daemon.wait(5)

    def close(self) -> None:
        """End all that runs in there."""
        self._world.kill()
        for process in (self._world, *self._daemons.values(), self._server):
            process.wait(5)
        self._log.close()

    def _start_server(self, adb: Path, home: Path) -> None:
        start = self.path / "adb"
        start.write_text(f'#!/bin/sh\nexport HOME={home}\nexec {shlex.join(self._enter)} --net {adb} "$@"\n')
        start.chmod(0o755)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
        self._server = self._within([*SCRIPT, "run", str(adb), "nodaemon", "server"], env)
        wait_for(lambda: self._listens(5037), "the adb server")

    def _within(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        enter = [*self._enter, "--net", "--mount", "--pid", "--root"]
        return subprocess.Popen(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=env
        )

    def _listens(self, port: int) -> bool:
        tables = (Path(f"/proc/{self._pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        return any(f":{port:04X} " in line and " 0A " in line for table in tables for line in table.splitlines())


def _child(pid: int) -> int:
    """The only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.fixture
def phone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """A phone that is plugged in; `adb` on the PATH is the one that sees it."""
    phone = Phone(_tool("adb"), tmp_path_factory.mktemp("phone"))
    try:
        monkeypatch.setenv("PATH", f"{phone.path}:{os.environ['PATH']}")
        phone.serial = phone.plug()
        yield phone
    finally:
        phone.close()
