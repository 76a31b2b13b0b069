"""
Whether the server of this process is stopping.

A server that gets SIGTERM waits until every response has ended, uvicorn without a
limit, and tells no response. Signals belong to the host process, so no handler is set
here: uvicorn's handler is a method of its server, and that knows.
"""

from __future__ import annotations

import signal


def server_is_stopping() -> bool:
    """Whether uvicorn runs in this process and was told to stop."""
    handler = signal.getsignal(signal.SIGTERM)
    return getattr(getattr(handler, "__self__", None), "should_exit", False) is True
