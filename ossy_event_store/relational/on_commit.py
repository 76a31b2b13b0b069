"""
Append an event if, and only if, an SQL transaction commits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from bson import ObjectId
from django.db import DEFAULT_DB_ALIAS, Error, connections, transaction

from ..documents.bson_types import Document
from ..documents.catalogue.appending import as_event, as_known_now
from ..documents.context.carrying import packed
from ..documents.context.current import active, current
from ..documents.event_document import FIXED_AT_APPEND, TYPE_VERSION, is_same_value
from ..exceptions import IdempotencyConflict, InvalidEvent
from ..mongodb.location import engine_of
from ..mongodb.write_errors import short_reason
from ..streams.new_events import raw_events
from . import outbox
from .append_waiting import Outcome, try_to_append

logger = logging.getLogger("ossy_event_store")

# How long the caller of a commit waits for MongoDB, and for how long no other caller
# of this process does so after that was in vain.
TRY_SECONDS = 2.0
PAUSE_SECONDS = 5.0

_TOO_LATE = (
    "cannot be expected of an event that is appended after the commit, when nobody can "
    "be told of a conflict. Check the version before, or append the event with "
    "EventStore.append_event()"
)
_VERSIONS = ("aggregateVersion", "expected_version")

_paused_until = -math.inf


def append_on_commit(event: Any, using: str = DEFAULT_DB_ALIAS) -> ObjectId | str:
    """
    Append an event to its stream once the open SQL transaction has committed.

    Inside ``transaction.atomic(using)`` the event is written to that database, as a row
    of the outbox, so it is committed or rolled back with everything else there. After
    the commit it is appended at once, exactly once; if that fails or the process dies,
    ``manage.py run_subscriptions`` appends it. Events of one stream are appended in the
    order of the calls, and those of a transaction after all those that had committed
    before it called this. Outside of a transaction, the row is committed at once, and
    the event appended before this returns, if MongoDB answers.

    What the context adds, such as ``createdBy``, is that of this call.

    There is no awaitable twin, as Django has no asynchronous transactions: call it in
    the function with the ``atomic()`` block, which ``sync_to_async`` runs.

    Args:
        event: as for ``EventStore.append_event()``, without ``aggregateVersion``: it
            gets the next version of its stream, whatever that is by then.
        using: the alias of the SQL database with the transaction.

    Returns:
        The id of the event, which is the one in ``event`` or a new ``ObjectId``.

    Raises:
        InvalidEvent: before anything is written, with path and reason.
        IdempotencyConflict: another event with this id waits in the outbox.
        ImproperlyConfigured: the app ``ossy_event_store.relational`` is not installed,
            or its table is missing.
        ValueError: ``using`` is not an alias of an SQL database.

    Django's ``TransactionManagementError`` says that the connection is in manual
    transaction management.
    """
    event = as_event(event)
    new = _checked(event)
    _check_using(using)
    row = outbox.add(using, new, _context_of(event), is_new=event.get("id") is None)
    kept, _ = outbox.kept_event(row)
    if differing := _differences(kept, new):
        raise IdempotencyConflict(new["id"], differing)
    transaction.on_commit(partial(_append_now, using, row.pk), using=using, robust=True)
    event_id: ObjectId | str = new["id"]
    return event_id


def _checked(event: Any) -> Document:
    """Return an event as it is kept: the caller's fields as MongoDB returns them."""
    for name in _VERSIONS:
        if isinstance(event, Mapping) and name in event:
            raise InvalidEvent(name, _TOO_LATE)
    with active(None):  # what its context adds is kept beside it, not as given
        (document,), _ = raw_events([event], None)
    given = {name for name in event if event[name] is not None}
    # The first tag may have named the stream; an empty list of tags is not stored. The
    # class of the event may have given it tags, and its version.
    kept = given | {"aggregateId", "aggregateType", "created", "tags", TYPE_VERSION}
    fields = {name: value for name, value in document.items() if name in kept}
    return {"id": document["_id"], **fields}


def _context_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the context adds to an event, and who unless the event says it."""
    context = current()
    asked = None if context is None or "createdBy" in event else context.asked
    return packed(context, None if asked is None else asked.who())


def _check_using(using: str) -> None:
    if not isinstance(using, str):
        raise TypeError(f"using must be a string, not {type(using).__name__}.")
    if using not in connections.settings:
        known = ", ".join(connections.settings)
        raise ValueError(f"using={using!r} is not an alias in DATABASES: {known}.")
    if engine_of(using) is not None:
        raise ValueError(
            f"using={using!r} is no SQL database. Append the event directly; with "
            "django-mongodb-backend it joins the open transaction."
        )
    connection = connections[using]
    if not connection.in_atomic_block and not connection.get_autocommit():
        # on_commit() would say so as well, but after the row was written.
        raise transaction.TransactionManagementError(
            "append_on_commit() cannot be used in manual transaction management: it "
            "does not see the commit. Use transaction.atomic()."
        )


def _differences(kept: Document, new: Document) -> list[str]:
    if kept.get(TYPE_VERSION) != new.get(TYPE_VERSION):  # a deployment lies between
        kept = as_known_now({**kept, "_id": kept["id"]})
    ignored = {*FIXED_AT_APPEND, TYPE_VERSION, "_id"}
    names = sorted((kept.keys() | new.keys()) - ignored)
    missing = object()
    return [
        name
        for name in names
        if not is_same_value(kept.get(name, missing), new.get(name, missing))
    ]


def _append_now(using: str, number: int) -> None:
    """Try to append the event of a row; what fails is left to the relay."""
    global _paused_until
    if time.monotonic() < _paused_until:
        return
    try:
        outcome = try_to_append(using, number, TRY_SECONDS)
    except Error as error:
        logger.warning(
            "Could not finish appending an event of the outbox of %s: %s. "
            "run_subscriptions does.",
            using,
            short_reason(error),
        )
        return
    if outcome is Outcome.AWAY:
        _paused_until = time.monotonic() + PAUSE_SECONDS
        logger.warning(
            "MongoDB does not answer. Events wait in the outbox of %s until "
            "run_subscriptions appends them.",
            using,
        )
