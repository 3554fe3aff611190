"""Start the processes of a group on this machine, and see that they end together."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ..errors import HwnasError

PATIENCE_S = 15.0  # how long ranks may take to end after Ctrl-C, and how long one that lost the others keeps silent
_TOGETHER_S = 1.5  # what fails all ranks alike fails them within this time
_MARK = "HWNAS_LAUNCHED"
_CLI = ("-P", "-m", "hwnas.cli")  # -P: modules in the current folder must not shadow those of the package
_SHOWN = 4000  # bytes of a failed rank's standard error


def launched_here() -> bool:
    """Whether this process was started by `launch`."""
    return _MARK in os.environ


def launch(arguments: Sequence[str], nproc: int, *, program: Sequence[str] = _CLI) -> int:
    """Run ``python -m hwnas.cli ARGUMENTS`` as ranks 0 to nproc - 1 of one group on this machine.

    Only rank 0 writes to standard output and standard error; what another wrote to its standard error is shown where
    it was the one that failed. When a rank fails (neither 0 nor 1), the others are ended; Ctrl-C is passed on to all;
    if this process is killed, they are, too (on Linux).

    Args:
        arguments: of the command line, without the one that asked for several processes.
        nproc: how many.
        program: arguments of the interpreter that come before them.

    Returns:
        The exit code of the rank that failed (128 + signal where a signal ended it), 130 after Ctrl-C, else the
        largest of all.

    Raises:
        HwnasError: nproc is below 1, or a process cannot be started.
    """
    if nproc < 1:
        raise HwnasError(f"{nproc} processes were asked for; at least 1 is needed")
    with _reserved_port() as port, _Group([sys.executable, *program, *arguments], nproc, port) as group:
        try:
            failed = group.wait()
        except KeyboardInterrupt:
            group.interrupt()
            return 130
        if failed is None:
            return max(group.codes.values())
        group.kill()
        if failed != 0:
            group.show(failed)
        code = group.codes[failed]
        return 128 - code if code < 0 else code


class _Group:
    """The running ranks; all are gone when the context ends."""

    def __init__(self, command: Sequence[str], nproc: int, port: int) -> None:
        self.codes: dict[int, int] = {}  # of those that have ended
        self._ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._errors = [tempfile.TemporaryFile() for _ in range(nproc)]  # noqa: SIM115  closed on exit
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(nproc):
                self._processes.append(self._start(command, rank, nproc, port))
        except BaseException as error:
            self.kill()
            if isinstance(error, OSError):
                raise HwnasError(f"cannot start rank {rank} of {nproc}: {error.strerror or error}") from error
            raise
        for rank, process in enumerate(self._processes):
            threading.Thread(target=self._await, args=(rank, process), daemon=True).start()

    def _start(self, command: Sequence[str], rank: int, nproc: int, port: int) -> subprocess.Popen[bytes]:
        first = rank == 0
        return subprocess.Popen(
            command,
            stdin=None if first else subprocess.DEVNULL,
            stdout=None if first else subprocess.DEVNULL,
            stderr=None if first else self._errors[rank],
            env=_environment(rank, nproc, port),
            start_new_session=True,  # Ctrl-C is passed on by this process, once, to every rank
            preexec_fn=_ends_with(os.getpid()),
        )

    def _await(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        self._ended.put((rank, process.wait()))

    def __enter__(self) -> _Group:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        for file in self._errors:
            file.close()

    def wait(self) -> int | None:
        """The rank that failed, or None once all have ended well."""
        while len(self.codes) < len(self._processes):
            rank, code = self._ended.get()
            self.codes[rank] = code
            if code not in (0, 1):
                self._collect(_TOGETHER_S)
                # Rank 0 has said what is wrong; if it lost the others, it waits (see `Ranks`) and is not among these.
                return 0 if self.codes.get(0, 0) not in (0, 1) else rank
        return None

    def interrupt(self) -> None:
        """Pass Ctrl-C on and let all end; a second one does not wait for them."""
        self._signal(signal.SIGINT)
        with suppress(KeyboardInterrupt):
            self._collect(PATIENCE_S)

    def kill(self) -> None:
        """End all that run."""
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def show(self, rank: int) -> None:
        """Write the end of what a rank wrote to its standard error to that of this process."""
        code, file = self.codes[rank], self._errors[rank]
        file.seek(max(0, file.seek(0, os.SEEK_END) - _SHOWN))
        text = file.read().decode(errors="backslashreplace").rstrip()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar of rank 0 may have hidden it
        said = f":\n{text}" if text else "" if code < 0 else " and said nothing"
        sys.stderr.write(f"{cursor}hwnas: rank {rank} of {len(self._processes)} {how}{said}\n")
        sys.stderr.flush()

    def _collect(self, seconds: float) -> None:
        with suppress(queue.Empty):
            while len(self.codes) < len(self._processes):
                rank, code = self._ended.get(timeout=seconds)
                self.codes[rank] = code

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)


def _environment(rank: int, nproc: int, port: int) -> dict[str, str]:
    env = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        _MARK: "1",
    }
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    if sys.platform == "linux":
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it looks up the host's name, which containers may not know
    return env


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port; while it is bound here without listening, only rank 0, which shares addresses too, can take it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def _ends_with(parent: int):  # type: ignore[no-untyped-def]
    """What a new process does first so that it ends with its parent, however that ends; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def bind() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return bind
