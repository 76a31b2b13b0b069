"""
The wire format of server-sent events, and what a client sends back. Pure, no I/O.

The id of a message is the position of its event. A browser sends the last one as
``Last-Event-ID`` when it reconnects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..documents.extended_json import dumps, encode

HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would wait for more
    # Django's GZipMiddleware would too, but skips responses that have an encoding.
    "Content-Encoding": "identity",
}
CONTENT_TYPE = "text/event-stream; charset=utf-8"
#: A comment, which keeps the connection open.
HEARTBEAT = b":\n\n"
_POSITION = re.compile(r"[0-9]{1,18}")  # more digits than a position can have


def retry_after(seconds: float) -> bytes:
    """Return the line that says how long a browser waits before it reconnects."""
    return f"retry: {round(seconds * 1000)}\n\n".encode()


def id_alone(position: int) -> bytes:
    """Return an id without a message: the browser only remembers the position."""
    return f"id: {position}\n\n".encode()


def message(position: int | None, data: Mapping[str, Any]) -> bytes:
    """
    Return a message, without a name so that ``onmessage`` receives it.

    Args:
        position: its id: the browser has everything up to there. None if another
            message with the same position follows.
        data: what is sent.
    """
    # JSON escapes line ends, so no value can end its line and start another field.
    line = dumps(encode(dict(data))).encode()
    if position is None:
        return b"data: %b\n\n" % line
    return b"id: %d\ndata: %b\n\n" % (position, line)


def skipped(position: int, data: Mapping[str, Any]) -> bytes:
    """Return a message that has a name: the server cannot read an event."""
    return b"event: skipped\n" + message(position, data)


def reset(position: int) -> bytes:
    """Return a message that has a name: events were lost."""
    return b"event: reset\n" + message(position, {"position": position})


def last_position(last_event_id: str | None, after: str | None) -> int | None:
    """
    Return the position up to which a client knows the events; None if it says none.

    Args:
        last_event_id: the header, which is newer than the address: an
            ``EventSource`` keeps its address.
        after: the parameter in the address.

    Raises:
        ValueError: neither is the position of an event.
    """
    text = last_event_id or after
    if not text:
        return None
    if not _POSITION.fullmatch(text):
        raise ValueError(
            "Last-Event-ID or the parameter 'after' must be the position of an event."
        )
    return int(text)
