"""Ctrl-C and SIGTERM as a request that the loop honours between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from ferbench.errors import Interrupted as Interrupted


class StopRequest:
    """While active, the first SIGINT or SIGTERM only sets `requested`; a second one acts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal != 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._previous[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
