"""
``events tail --follow``: print new events, whatever happens to the server meanwhile.
"""

from __future__ import annotations

import time

from pymongo.errors import PyMongoError

from ...event_store import EventStore
from ...event_store.query.following import Following
from ...exceptions import EventStoreError
from ...mongodb.write_errors import short_reason
from ...subscriptions.transactions import is_away
from .filters import query_of
from .output import EventWriter
from .request import Request, checked, closed, wrong

WAIT_SECONDS = 5.0  # after which it looks for itself
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0  # while the server is away
_OF_POSITIONS = ("after", "until_position")
MARGIN = 100  # events whose time and position may be in another order


def follow(request: Request, writer: EventWriter, limit: int | None) -> None:
    """
    Print the last events, and then those to come, until Ctrl-C.

    Args:
        request: what to print.
        writer: prints it.
        limit: how many of the last events; None for all from the start that is given.
    """
    for name in ("until", "until_position", "order"):
        if request[name] is not None:
            option = name.replace("_", "-")
            raise wrong(f"--{option} cannot be combined with --follow.")
    rest = {n: v for n, v in request.options.items() if n not in _OF_POSITIONS}
    with checked():
        query = query_of(rest, request.output.times)
    seen: set[object] = set()
    if limit is None:
        position = _start(request)
    else:
        position = EventStore.head_position()
        with request.in_time():
            found = list(request.query().reverse()[:limit]) if limit else []
        for event in reversed(found):
            writer.write(event)
        # They may be in another order, and then some have later positions.
        seen = {event["_id"] for event in found}
    _print_new(request, Following(query, position), writer, seen)


def _start(request: Request) -> int:
    """Return the position after which the events to print begin."""
    after: int = request["after"] or 0
    if request["since"] is None:
        return after
    first = EventStore.query().since(request.time("since")).order("created")[:MARGIN]
    positions = [EventStore.position_of(event) for event in first]
    known = [one for one in positions if one is not None]
    return max(after, min(known) - 1 if known else EventStore.head_position())


def _print_new(
    request: Request, following: Following, writer: EventWriter, seen: set[object]
) -> None:
    pause, is_lost, is_woken = FIRST_PAUSE_SECONDS, False, False
    while True:
        before = following.position
        try:
            for event in closed(following.new()):
                if event["_id"] not in seen:
                    writer.write(event)
            if is_lost:
                request.note("Connected again.")
            is_lost = False
        except (EventStoreError, PyMongoError) as error:
            _tell_of(request, error, is_told=is_lost)
            is_lost = True
        # A member that lags behind the one that woke us has nothing new yet.
        if is_lost or (is_woken and before == following.position):
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            pause = FIRST_PAUSE_SECONDS
        is_woken = not is_lost and following.wait(WAIT_SECONDS)


def _tell_of(request: Request, error: Exception, *, is_told: bool) -> None:
    """Say that the server is away, once; raise what is no reason to try again."""
    if not is_away(error):
        raise error
    if not is_told:
        request.note(f"MongoDB is away, retrying: {short_reason(error)}")
