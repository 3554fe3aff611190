"""A board behind a real sshd, and a phone that is a real adbd; see ``fetch_tools.py`` for where they come from."""

from __future__ import annotations

import getpass
import os
import platform
import shlex
import signal
import socket
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


_AS_ROOT = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
for name in passwd shadow; do mount --bind "$0/$name" /etc/$name; done
echo "$1" > /proc/sys/kernel/hostname
shift
exec "$@"
"""
_ACCOUNTS = "root::0:0:root:/tmp:/bin/sh\nsshd:x:65533:65533:sshd:/run/sshd:/bin/false\n"


class Board:
    """A real sshd on the loopback, with keys and settings of its own, and this machine behind it.

    Attributes:
        ssh: the words of a command that logs in; what follows is run there.
        host: the name that it goes by.
    """

    def __init__(self, tools: Path, folder: Path) -> None:
        self._folder = folder
        self._tools = tools
        self._sshd: subprocess.Popen[bytes] | None = None
        self.host = "board-7" if os.geteuid() == 0 else platform.node()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        for name in ("host", "key"):
            subprocess.run([tools / "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        known = f"[127.0.0.1]:{self._port} {(folder / 'host.pub').read_text()}"
        for name, text in (
            ("sshd_config", self._settings()),
            ("known", known),
            ("passwd", _ACCOUNTS),
            ("shadow", "root:*:::::::\n"),
        ):
            (folder / name).write_text(text)
        options = f"-F none -oBatchMode=yes -oUserKnownHostsFile={folder}/known"
        options += " -oServerAliveInterval=1 -oServerAliveCountMax=2"
        self.ssh = f"{tools}/ssh {options} -i {folder}/key -p {self._port} {getpass.getuser()}@127.0.0.1"

    def _settings(self) -> str:
        return f"""
            Port {self._port}
            ListenAddress 127.0.0.1
            HostKey {self._folder}/host
            AuthorizedKeysFile {self._folder}/key.pub
            SshdSessionPath {self._tools}/sshd-session
            SshdAuthPath {self._tools}/sshd-auth
            PidFile none
            UsePAM no
            StrictModes no
            SetEnv HWNAS_BOARD={self._folder}
            PasswordAuthentication no
            KbdInteractiveAuthentication no
        """

    def start(self) -> None:
        """Let it answer. Root needs an account and a folder for sshd, which it gets in a mount namespace."""
        log = self._folder / "log"
        root = os.geteuid() == 0
        start = ["unshare", "--mount", "--uts", "sh", "-ec", _AS_ROOT, str(self._folder), self.host] if root else []
        with log.open("wb") as file:
            command = [*start, str(self._tools / "sshd"), "-D", "-e", "-f", str(self._folder / "sshd_config")]
            self._sshd = sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        wait_for(lambda: b"listening" in log.read_bytes() or sshd.poll() is not None, "sshd")
        if sshd.poll() is not None:
            pytest.skip(f"sshd cannot be run here: {log.read_text().strip()}")

    def stop(self) -> None:
        """Let it answer no more; connections stay as they are."""
        if self._sshd is not None:
            self._sshd.kill()
            self._sshd.wait(5)
            self._sshd = None

    def connections(self) -> list[int]:
        """Process ids of the daemon's ends of the connections."""
        marks = ("sshd-session", f"{self._folder}/sshd_config")
        commands = ((path.parent.name, _text(path)) for path in Path("/proc").glob("[0-9]*/cmdline"))
        return [int(pid) for pid, command in commands if all(mark in command for mark in marks)]

    def signal(self, number: int) -> int:
        """Send a signal to the daemon's ends of the connections: SIGKILL cuts, SIGSTOP stalls them; how many."""
        pids = self.connections()
        for pid in pids:
            os.kill(pid, number)
        return len(pids)

    def logins(self) -> int:
        """How often somebody was let in since the start."""
        return (self._folder / "log").read_text().count("Accepted publickey")

    def running(self) -> list[int]:
        """Process ids of what runs over there."""
        commands = ((path.parent.name, _text(path)) for path in Path("/proc").glob("[0-9]*/environ"))
        return [int(pid) for pid, environment in commands if f"HWNAS_BOARD={self._folder}" in environment]

    def close(self) -> None:
        """End all that is still there."""
        self.stop()
        self.signal(signal.SIGKILL)


def _text(path: Path) -> str:
    """What is in a file of /proc; nothing where its process has gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that answers."""
    board = Board(_tool("ssh"), tmp_path_factory.mktemp("board"))
    try:
        board.start()
        yield board
    finally:
        board.close()
