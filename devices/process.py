"""The agent process as the host sees it: started, spoken to with a timeout, killed; and why it died."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from .base import Device, DeviceError, DeviceLost
from .protocol import PROTOCOL_VERSION, Channel, ProtocolError, StreamClosed, StreamTimeout

STARTUP_S = 30.0
LAST_LINES = 20
CONNECTION_FAILED = 255  # ssh's exit code where it is not the command's


class AgentLost(Exception):
    """The agent died, hung or spoke gibberish, and has been killed.

    Attributes:
        unclear: it may as well have been the connection to it, if the agent is elsewhere.
    """

    def __init__(self, reason: str, *, unclear: bool = False) -> None:
        super().__init__(reason)
        self.unclear = unclear


class AgentAway(DeviceError):
    """What was started ended, or kept silent, before an agent said a word; ``why`` in short."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class AgentRefused(Exception):
    """The agent lives and says why it could not do what it was asked; ``output`` as in `OutputUnreadable`."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


def agent_command(device: str, agent: str | None, agent_python: str | None, memory_mb: int | None) -> list[str]:
    """The command line that starts the agent.

    Every argument is plain to any shell in between (ssh joins and splits them again), so settings go over the pipe.
    """
    if agent is not None and agent_python is not None:
        raise DeviceError("give either an agent command or an agent Python, not both")
    try:
        prefix = shlex.split(agent) if agent is not None else [agent_python or sys.executable]
    except ValueError as error:
        raise DeviceError(f"agent command {agent!r}: {error}") from None
    if not prefix:
        raise DeviceError("the agent command is empty")
    # -P: modules in the current folder must not shadow those that the agent imports
    command = [*prefix, "-P", "-m", "hwnas.devices.agent", "--device", device]
    return command if memory_mb is None else [*command, "--memory-mb", str(memory_mb)]


class AgentProcess:
    """One running agent.

    Raises:
        DeviceError: it cannot be started, is of another version, or has no such device.
    """

    def __init__(self, command: Sequence[str], device: Device, timeout_s: float) -> None:
        self._command = shlex.join(command)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is the host's to handle
            )
        except OSError as error:
            raise DeviceError(f"cannot start the agent {self._command}: {error.strerror or error}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._finalizer = weakref.finalize(self, _end, self._process, device.closing_s)
        self._closing_s = device.closing_s
        self._stderr: deque[str] = deque(maxlen=LAST_LINES)
        self._drain = threading.Thread(target=_drain, args=(self._process.stderr, self._stderr), daemon=True)
        self._drain.start()
        os.set_blocking(self._process.stdin.fileno(), False)
        self._channel = Channel(self._process.stdout.fileno(), self._process.stdin.fileno())
        try:
            self._greet(device, max(timeout_s, STARTUP_S))
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Process id of what was started here (of ssh, where the agent is elsewhere)."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def request(
        self, header: dict[str, Any], blobs: Sequence[bytes] = (), *, timeout_s: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a message and wait for the answer.

        Raises:
            AgentRefused: with the agent's reason; it can be asked again.
            AgentLost: it died or did not answer in time; it has been killed.
            DeviceLost: it lives, but what it measures on has gone.
        """
        try:
            self._channel.send(header, blobs, timeout_s)
            answer, data = self._channel.receive(timeout_s)
        except StreamTimeout:
            self.kill()
            reason = f"no answer within {timeout_s:.3g} s, so it was killed{self._quote()}"
            raise AgentLost(reason, unclear=True) from None
        except StreamClosed:
            reason = self._cause_of_death()
            raise AgentLost(reason, unclear=not 0 <= self._process.wait() < CONNECTION_FAILED) from None
        except ProtocolError as error:
            self.kill()
            raise AgentLost(f"{error}{self._quote()}") from None
        except BaseException:  # Ctrl-C: an unread answer would be taken for the next request's
            self.kill()
            raise
        if not answer.get("ok"):
            reason = str(answer.get("error", "no reason given"))
            raise DeviceLost(reason) if answer.get("lost") else AgentRefused(reason, str(answer.get("output", "")))
        return answer, data

    def close(self) -> None:
        """Ask it to go, and see to it that it does; nothing where it was killed before."""
        if not self._finalizer.alive:  # its pipes are closed, and their numbers may be another file's by now
            return
        with contextlib.suppress(ProtocolError):
            self._channel.send({"op": "quit"}, timeout_s=0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5 + self._closing_s)
        self.kill()

    def kill(self) -> None:
        """End it and all that it started, as soon as it has cleaned up."""
        self._finalizer()
        self._drain.join(1.0)

    def _greet(self, device: Device, timeout_s: float) -> None:
        try:
            hello, _ = self._channel.receive(timeout_s)
            if hello.get("hello") != "hwnas" or hello.get("hwnas") != __version__:
                self._refuse(f"it is hwnas {hello.get('hwnas')}, this is hwnas {__version__}", _SAME_VERSION)
            start = {"settings": device.settings.as_dict(), "connection": device.connection}
            self._channel.send(start, timeout_s=timeout_s)
            answer, _ = self._channel.receive(timeout_s)
        except StreamTimeout:
            self._refuse(f"no greeting within {timeout_s:.3g} s{self._quote()}", _GREETING, away=True)
        except StreamClosed as error:
            said = f" ({error})" if " after " in str(error) else ""
            self._refuse(f"{self._cause_of_death()}{said}", _GREETING, away=True)
        except ProtocolError as error:
            mend = _SAME_VERSION if "speaks protocol" in str(error) else "the command must print nothing itself"
            self._refuse(str(error), mend)
        if not answer.get("ok"):
            raise DeviceError(str(answer.get("error", "the agent gave no reason")))

    def _refuse(self, found: str, mend: str, *, away: bool = False) -> NoReturn:
        self.kill()
        message = f"the agent ({self._command}) cannot be used: {found}; {mend}"
        raise AgentAway(message, found) if away else DeviceError(message)

    def _cause_of_death(self) -> str:
        try:
            code = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"the agent closed its output{self._quote()}"
        self.kill()
        if code >= 0:
            return f"the agent exited with code {code}{self._quote()}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", by hand or for lack of memory" if name == "SIGKILL" else ""
        return f"the agent was ended by {name}{hint}{self._quote()}"

    def _quote(self) -> str:
        lines = [line for line in self._stderr if line]
        return f"; its last words: {' | '.join(lines[-3:])[-400:]}" if lines else ""


_GREETING = "the command must start, without asking anything, a Python that has hwnas installed"
_SAME_VERSION = f"install the same version of hwnas on both sides (protocol {PROTOCOL_VERSION})"


def _drain(stream: Any, lines: deque[str]) -> None:
    with contextlib.suppress(OSError, ValueError), stream:
        for line in iter(lambda: stream.readline(4096), b""):
            lines.append(line.decode(errors="replace").rstrip())


def _end(process: subprocess.Popen[bytes], closing_s: float) -> None:
    """Kill the process with its group; also called when the owner is forgotten, and at exit.

    The end of its input tells it to clean up, for which it has ``closing_s``, whatever it is busy with.
    """
    if process.stdin is not None and closing_s:
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(closing_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
