"""SIGTERM and a closed terminal (SIGHUP) end a command as Ctrl-C does: what it is at is unwound, and one line is said.

The loop that trains asks for more while it runs (`training/interrupt.py`): it saves its state first.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_by = int(signal.SIGINT)


def end_as_on_ctrl_c() -> None:
    """From now on. A signal that is ignored, as SIGHUP is under nohup, or that somebody else handles stays so."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        return
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), _interrupt)


def exit_code() -> int:
    """Of a command that was stopped: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _by


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _by
    _by = number
    raise KeyboardInterrupt
