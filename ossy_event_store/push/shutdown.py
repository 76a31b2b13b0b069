"""
Ends open streams when the server is told to stop.

A server that gets SIGTERM waits until every response has ended, uvicorn without a
limit, and tells no response. So this process listens for the signal too, first.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ShutdownSignals:
    """
    Calls an action on SIGTERM and SIGINT, and then the handler that was set before.

    Args:
        action: called in the main thread, between two of its instructions.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._handlers: dict[int, Any] = {}

    def watch(self) -> None:
        """Call the action from now on; again, if another handler was set since."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can set signal handlers
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and handler != self._on_signal:
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """Set the handlers that were set before, where they were not replaced."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, self._handlers[number])

    def _on_signal(self, number: int, frame: Any) -> None:
        self._action()
        self._handlers[number](number, frame)
