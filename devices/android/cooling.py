"""Pauses where a phone says that it slows down for heat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .facts import State

CHECK_S = 5.0
"""Between two looks at the thermal status, which cost a visit's tenth each."""
STEP_S = 5.0
PAUSE_S = 60.0
"""All pauses of one round together."""
RETRY_S = 300.0
"""After a pause that did not help the phone is measured as it is, so long."""


class Cooling:
    """Looks at the phone's thermal status now and then, and waits while it throttles, but not for ever.

    Args:
        look: reads the phone's state. ended: set when the session is over.

    Attributes:
        paused_s: in this round so far.
        gave_up: the phone still throttled after the pauses of this round, or no pause was tried.
    """

    def __init__(self, look: Callable[[], State], ended: threading.Event) -> None:
        self._look = look
        self._ended = ended
        self._next_look = 0.0
        self._next_pause = 0.0
        self.paused_s = 0.0
        self.gave_up = False

    def wait(self) -> None:
        """Return at once while the phone is cool, else when it is again or the round's pauses are used up."""
        if time.monotonic() < self._next_look:
            return
        while self._look().throttles:
            if self.paused_s >= PAUSE_S or time.monotonic() < self._next_pause:
                self.gave_up = True
                self._next_pause = max(self._next_pause, time.monotonic() + RETRY_S)
                break
            self.paused_s += STEP_S
            if self._ended.wait(STEP_S):
                return
        self._next_look = time.monotonic() + CHECK_S

    def new_round(self) -> None:
        """Count from the beginning."""
        self.paused_s, self.gave_up = 0.0, False
