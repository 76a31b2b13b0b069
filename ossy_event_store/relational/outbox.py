"""
The outbox in an SQL database: events that wait there to be appended.

The rows of a stream are appended in the order of their numbers, one after the other:
a row is tried only once no row of its stream with a lower number is left. A transaction
that began after another one had committed gets higher numbers, so its events come
later. Transactions that ran at the same time could not see each other; their events may
come either way round, but those of one transaction always in the order of its calls.

A row is deleted once its event is stored. Where the database can skip locked rows, a
process locks the first row of a stream while it appends it, and others leave the stream
alone. Elsewhere, as in SQLite, which could only lock everything, two processes may try
the same row: both append the same event id, so the event is stored once, and neither
goes on to the next row before that.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from bson import ObjectId
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, IntegrityError, connections, router, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from ..documents.bson_types import Document
from ..documents.context import clock
from ..documents.extended_json import decode, dumps, encode, loads
from ..mongodb.location import engine_of

if TYPE_CHECKING:
    from .models import Outbox

APP = "ossy_event_store.relational"
LABEL = "ossy_event_store_relational"
TABLE = "ossy_event_store_relational_outbox"
# The key beside those of the event, in the JSON of a row.
CONTEXT = "context"
ROWS_PER_READ = 500
# Of a row whose id another transaction takes and gives back at the same moment.
INSERT_TRIES = 5
UNDEFINED_TABLE = "42P01"  # of PostgreSQL
BIGGEST_NUMBER = 2**63 - 1  # of a row; not every Django keeps others from SQLite


class Figures(NamedTuple):
    """What waits in the outbox of one database."""

    #: The alias of the database.
    using: str
    #: Events that are still to be appended, those behind parked ones included.
    waiting: int
    #: Parked streams: their first event failed for its own fault.
    parked: int
    #: Seconds since the oldest event was written that no parked one holds up.
    lag_seconds: float


# --- where the table is -------------------------------------------------------

_with_table: set[str] = set()  # the aliases in which this process has seen the table


def is_installed() -> bool:
    """Whether the app with the table is installed."""
    return apps.is_installed(APP)


def rows(using: str) -> QuerySet[Outbox]:
    """
    Return all rows.

    Raises:
        ImproperlyConfigured: the app is not installed.
    """
    return _model().objects.using(using)


def _model() -> type[Outbox]:
    if not is_installed():
        raise ImproperlyConfigured(
            "append_on_commit() keeps events in a table of your database until they "
            f"are appended: add {APP!r} to INSTALLED_APPS and run manage.py migrate."
        )
    from .models import Outbox

    return Outbox


def candidates() -> list[str]:
    """Return the aliases of the databases that may have the table."""
    if not is_installed():
        return []
    return [
        alias
        for alias in connections
        if engine_of(alias) is None and router.allow_migrate_model(alias, _model())
    ]


def has_table(using: str) -> bool:
    """Whether a database has the table; after it was seen once, no question asked."""
    if using not in _with_table:
        connection = connections[using]
        with connection.cursor() as cursor:
            names = connection.introspection.table_names(cursor)
        if TABLE in names:
            _with_table.add(using)
    return using in _with_table


def had_table(using: str) -> bool:
    """Whether this process has seen the table in a database, without asking it."""
    return using in _with_table


# --- writing ------------------------------------------------------------------


def add(
    using: str, event: Document, context: Mapping[str, Any], *, is_new: bool
) -> Outbox:
    """
    Write the row of an event in the open transaction.

    Args:
        using: the alias of the database.
        event: the event, with ``id`` and ``created``.
        context: what ``event_context.carry()`` returned.
        is_new: whether its id is new, so that no other row can have it.

    Returns:
        The row, or the one that has the event's id already.

    Raises:
        ImproperlyConfigured: the database has no such table.
    """
    fields = {
        "key": _key(event["id"]),
        "stream": digest(event["aggregateId"]),
        "event_id": str(event["id"]),
        "aggregate_id": event["aggregateId"],
        "type": event["type"],
        "event": dumps(encode(event) | ({CONTEXT: dict(context)} if context else {})),
        "created": _now(),
    }
    try:
        if is_new:
            return rows(using).create(**fields)
        return _add_unless_it_exists(using, fields)
    except Error as error:
        if _lacks_table(using, error):
            raise ImproperlyConfigured(
                f"The database {using!r} has no table for append_on_commit(). Run "
                f"manage.py migrate --database {using}."
            ) from error
        raise


def kept_event(row: Outbox) -> tuple[Document, Mapping[str, Any] | None]:
    """Return the event of a row as its caller gave it, and the context of the call."""
    kept = loads(row.event)
    context = kept.pop(CONTEXT, None)
    return decode(kept), context


def _add_unless_it_exists(using: str, fields: dict[str, Any]) -> Outbox:
    for attempt in range(1, INSERT_TRIES + 1):
        try:
            # The write comes first: SQLite cannot lock what the transaction has read.
            with transaction.atomic(using=using):
                return rows(using).create(**fields)
        except IntegrityError:
            found = rows(using).filter(key=fields["key"]).first()
            if found is not None:
                return found
            if attempt == INSERT_TRIES:
                raise
    raise AssertionError("unreachable")  # pragma: no cover


def _key(event_id: ObjectId | str) -> str:
    kind = "ObjectId" if isinstance(event_id, ObjectId) else "str"
    return digest(f"{kind} {event_id}")


def digest(text: str) -> str:
    """Return what finds a text, whatever the database takes for equal."""
    return sha256(text.encode()).hexdigest()


def _lacks_table(using: str, error: Error) -> bool:
    cause: Any = error.__cause__
    if state := getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None):
        return bool(state == UNDEFINED_TABLE)
    _with_table.discard(using)
    with suppress(Error):
        return not has_table(using)
    return False


# --- appending ----------------------------------------------------------------


def first_rows(using: str) -> list[tuple[int, str]]:
    """Return number and stream of the first rows of some streams that wait."""
    # The fewest tries first: rows that fail again and again hold up no others.
    found = _firsts(using).order_by("tries", "id").values_list("id", "stream")
    return list(found[:ROWS_PER_READ])


def next_row(using: str, stream: str) -> int | None:
    """Return the number of a stream's next row that waits, None without one."""
    waiting = rows(using).filter(stream=stream, state=_model().State.WAITING)
    return waiting.order_by("id").values_list("id", flat=True).first()


@contextmanager
def claimed(using: str, number: int) -> Iterator[Outbox | None]:
    """
    Yield a row to append it, and commit what is done to it.

    Yields:
        None if another row of its stream comes first, if another process is at work on
        it, or if it no longer waits.
    """
    row = _firsts(using).filter(pk=number)
    if not connections[using].features.has_select_for_update_skip_locked:
        yield row.first()
        return
    with transaction.atomic(using=using):
        yield row.select_for_update(skip_locked=True).first()


def _now() -> dt.datetime:
    """Return the current time as the columns of this site have it."""
    if settings.USE_TZ:
        return clock.now()
    return timezone.make_naive(clock.now(), timezone.get_default_timezone())


def _firsts(using: str) -> QuerySet[Outbox]:
    """Return the rows that wait and are the first of their stream."""
    state = _model().State
    before = rows(using).exclude(state=state.DISCARDED)
    before = before.filter(stream=OuterRef("stream"), id__lt=OuterRef("id"))
    return rows(using).filter(~Exists(before), state=state.WAITING)


def remove(using: str, row: Outbox) -> None:
    """Delete a row whose event is stored."""
    rows(using).filter(pk=row.pk).delete()


def record_failure(using: str, row: Outbox, error: str, *, park: bool) -> None:
    """Record that a try has failed; ``park`` the row if that is its own fault."""
    state = _model().State
    rows(using).filter(pk=row.pk, state=state.WAITING).update(
        tries=row.tries + 1,
        failed=timezone.now(),
        error=error,
        state=state.PARKED if park else state.WAITING,
    )


# --- operating ----------------------------------------------------------------


def figures(using: str) -> Figures:
    """Return what waits in the outbox of a database."""
    state = _model().State
    parked = rows(using).filter(state=state.PARKED)
    waiting = rows(using).filter(state=state.WAITING)
    moving = waiting.exclude(stream__in=parked.values("stream"))
    oldest = moving.order_by("id").values_list("created", flat=True).first()
    lag = _now() - oldest if oldest else dt.timedelta()
    return Figures(
        using, waiting.count(), parked.count(), max(0.0, lag.total_seconds())
    )


def parked_rows(using: str, limit: int) -> list[Outbox]:
    """Return parked rows, those with the lowest numbers first."""
    found = rows(using).filter(state=_model().State.PARKED).order_by("id")
    return list(found[:limit])


def discarded_rows(using: str, limit: int) -> list[Outbox]:
    """Return the records of discarded events, the latest numbers first."""
    found = rows(using).filter(state=_model().State.DISCARDED).order_by("-id")
    return list(found[:limit])


def retry(using: str, number: int | None = None) -> int:
    """Let a parked row wait again, or all of them; return how many there were."""
    state = _model().State
    if number is not None and number > BIGGEST_NUMBER:
        return 0
    found = rows(using).filter(state=state.PARKED)
    if number is not None:
        found = found.filter(pk=number)
    return found.update(state=state.WAITING)


def discard(
    using: str, number: int, reason: str, who: str | None = None
) -> Outbox | None:
    """
    Never append the event of a parked row; the later events of its stream follow.

    The row stays, as the record of who discarded which event, when and why.

    Args:
        using: the alias of the database.
        number: the row.
        reason: why.
        who: who discards it.

    Returns:
        The row; None if no row of this number is parked.

    Raises:
        ValueError: there is no reason.
    """
    if not reason.strip():
        raise ValueError("Discarding an event needs a reason.")
    if number > BIGGEST_NUMBER:
        return None
    state = _model().State
    changed = (
        rows(using)
        .filter(pk=number, state=state.PARKED)
        .update(
            key=digest(f"discarded {number}"),  # its id may be used again
            state=state.DISCARDED,
            discarded=timezone.now(),
            discarded_by=who or "",
            reason=reason.strip().replace("\0", ""),  # some databases refuse it
        )
    )
    return rows(using).get(pk=number) if changed else None
