"""SIGTERM as Ctrl-C: a climb, and each worker of one, stops alike by both."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

AGAIN = 0.05  # seconds until a signal that came within a finalizer is sent once more


@contextlib.contextmanager
def stopped_by_terminate() -> Iterator[None]:
    """Let SIGTERM act as Ctrl-C does. Outside the main thread signals are not ours to take."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        kinds.append(signal.SIGINT)
    before = {kind: signal.signal(kind, _stop) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _stop(kind: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or have the signal sent again where that would be printed and lost."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            again = threading.Timer(AGAIN, os.kill, (os.getpid(), kind))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
