"""Ctrl-C, SIGTERM and a terminal that is closed (SIGHUP) as a request that the loop honours between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from ferbench.errors import Interrupted as Interrupted


class StopRequest:
    """While active, the first of these signals only sets `requested`; a second one acts at once.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal != 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            asked = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
            for number in (number for number in asked if signal.getsignal(number) != signal.SIG_IGN):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._previous[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
