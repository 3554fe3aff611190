"""The way from a session to its agent: begun, and for an agent elsewhere found again when it breaks."""

from __future__ import annotations

import logging
import re
import time

from .base import Device, DeviceLost
from .process import AgentAway, AgentLost, AgentProcess, agent_command

PATIENCE_S = 120.0
"""How long an agent elsewhere may stay away before the session gives up."""
PAUSES_S = (0.5, 10.0)
"""First and longest wait between two tries to reach it; each is twice the one before."""
DROPS = 5
"""How often the connection may break without anything done in between."""
_TOLD = re.compile(
    r"connection\b.*\b(closed|reset|refused|timed out|lost)|broken pipe|not responding|lost connection|unreachable",
    re.IGNORECASE,
)
_logger = logging.getLogger(__name__)


class Link:
    """Starts a device's agent, and tells a broken connection from an agent that died.

    ssh ends with exit code 255 both when the connection breaks and when a signal ended the command over there, and a
    connection that stands still looks like a workload that hangs. So where ssh does not say what happened, what was
    asked for is asked for once more; only a second loss is the agent's.

    Args:
        agent, agent_python, memory_mb, timeout_s: as in :meth:`Device.open`; only an ``agent`` is elsewhere.
    """

    def __init__(
        self, device: Device, agent: str | None, agent_python: str | None, memory_mb: int | None, timeout_s: float
    ) -> None:
        self.where = agent or agent_python or "local"
        self._elsewhere = agent is not None
        self._device = device
        self._command = agent_command(device.name, agent, agent_python, memory_mb)
        self._timeout_s = timeout_s
        self._drops = 0
        self._doubts = 0

    def start(self) -> AgentProcess:
        """Start an agent.

        Raises:
            DeviceError: it cannot be started, is of another version, or has no such device.
        """
        return AgentProcess(self._command, self._device, self._timeout_s)

    def restart(self) -> AgentProcess:
        """Start an agent in place of one that has gone, and wait for one elsewhere until it can be reached.

        Raises:
            DeviceLost: it stays away.
            DeviceError: as in `start`.
        """
        if not self._elsewhere:
            return self.start()
        end = time.monotonic() + PATIENCE_S
        pause, longest = PAUSES_S
        while True:
            try:
                return self.start()
            except AgentAway as error:
                left = end - time.monotonic()
                if left <= 0:
                    raise DeviceLost(f"the agent has been out of reach for {PATIENCE_S:.3g} s: {error}") from None
                if pause == PAUSES_S[0]:
                    _logger.warning("hwnas: the agent is out of reach (%s); trying for %.3g s", error.why, PATIENCE_S)
            self._doubts = 0  # so the connection it was
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)

    def broke(self, error: AgentLost) -> bool:
        """Whether the connection is to blame for a loss, so that what was asked for is to be asked for again.

        Raises:
            DeviceLost: it breaks again and again.
        """
        if not self._elsewhere or not error.unclear:
            return False
        told = bool(_TOLD.search(str(error)))
        self._doubts += not told
        if self._doubts > 1:
            self.held()
            return False
        self._drops += 1
        if self._drops > DROPS:
            raise DeviceLost(f"the connection to the agent broke {self._drops} times in a row; the last time: {error}")
        _logger.warning("hwnas: the connection to the agent broke (%s); connecting again", error)
        return True

    def held(self) -> None:
        """Something was done, or the agent was to blame: the next loss is another matter."""
        self._drops = self._doubts = 0
