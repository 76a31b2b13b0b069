"""
The errors, except those of single topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Any

from django.core.exceptions import ObjectDoesNotExist


class EventStoreError(Exception):
    """The base of the tree; never raised itself."""


class AggregateNotFound(EventStoreError, ObjectDoesNotExist):
    """The stream ``aggregate_id`` does not exist."""

    def __init__(self, aggregate_type: str, aggregate_id: str) -> None:
        super().__init__(aggregate_type, aggregate_id)
        self.aggregate_type = aggregate_type
        self.aggregate_id = aggregate_id

    def __str__(self) -> str:
        return f"{self.aggregate_type} {self.aggregate_id!r} does not exist."


class AggregateTypeMismatch(EventStoreError):
    """Stream ``aggregate_id`` is of type ``actual``, not ``expected``."""

    def __init__(self, aggregate_id: str, expected: str, actual: str) -> None:
        super().__init__(aggregate_id, expected, actual)
        self.aggregate_id = aggregate_id
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"Stream {self.aggregate_id!r} is of aggregate type {self.actual!r}, not "
            f"{self.expected!r}."
        )


class BuiltMeanwhile(EventStoreError):
    """Another process has rebuilt the projection ``name`` at the same time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"Another process has rebuilt projection {self.name} at the same time; "
            "this build was not used."
        )


class EventNotFound(EventStoreError, ObjectDoesNotExist):
    """No event matches ``query``."""

    def __init__(self, query: object) -> None:
        super().__init__(query)
        self.query = query

    def __str__(self) -> str:
        return f"No event matches the query {self.query!r}."


class ForeignCollection(EventStoreError):
    """``collection`` has a document that the store did not write, ``document_id``."""

    def __init__(self, collection: str, document_id: object) -> None:
        super().__init__(collection, document_id)
        self.collection = collection
        self.document_id = document_id

    def __str__(self) -> str:
        return (
            f"The collection {self.collection} belongs to another program: the event "
            f"store did not write its document {self.document_id!r}. Rename that "
            "collection, or give the event store its own database."
        )


class IdempotencyConflict(EventStoreError):
    """Event ``event_id`` is stored with other content in the fields ``differences``."""

    def __init__(self, event_id: object, differences: Sequence[str]) -> None:
        super().__init__(event_id, differences)
        self.event_id = event_id
        self.differences = tuple(differences)

    def __str__(self) -> str:
        return (
            f"Event {self.event_id!r} is already stored with another "
            f"{', '.join(self.differences)}. Nothing was written. "
            "Use a new id for each event."
        )


class IndexConflict(EventStoreError):
    """
    Index ``name`` on ``collection`` cannot be created, for ``reason``.

    ``streams`` has the ids of streams whose events prevent it, ten at most.
    """

    def __init__(
        self, collection: str, name: str, reason: str, streams: Sequence[Any] = ()
    ) -> None:
        super().__init__(collection, name, reason, streams)
        self.collection = collection
        self.name = name
        self.reason = reason
        self.streams = tuple(streams)

    def __str__(self) -> str:
        return f"Cannot create index {self.name} on {self.collection}: {self.reason}"


class IndexMissing(EventStoreError):
    """
    ``collection`` of ``database`` has no index ``name``; nothing was written.

    ``is_installed``: whether ``INSTALLED_APPS`` has the app, and so its commands.
    """

    def __init__(
        self, collection: str, name: str, database: str, is_installed: bool = True
    ) -> None:
        super().__init__(collection, name, database, is_installed)
        self.collection = collection
        self.name = name
        self.database = database
        self.is_installed = is_installed

    def __str__(self) -> str:
        first = "Add 'ossy_event_store' to INSTALLED_APPS. "
        if not self.name.startswith(("places.", "aggregateId_1_aggregateVersion_1")):
            return (
                f"The collection {self.collection} of the database {self.database!r} "
                f"has no index {self.name}, without which this would read every "
                "event. Run manage.py ensure_event_store, without "
                "OSSY_EVENT_STORE['ADMIN_INDEXES'] = False."
            )
        what = "number in a tag" if self.name.startswith("places.") else "version"
        return (
            f"The collection {self.collection} of the database {self.database!r} has "
            f"no unique index {self.name}, without which two writers could store the "
            f"same {what}. Nothing was written. {'' if self.is_installed else first}"
            "Run manage.py migrate or manage.py ensure_event_store."
        )


def _text(message: str) -> str:
    """Return a message that can be printed anywhere, whatever a key contains."""
    return message.encode("utf-8", "backslashreplace").decode()


class Refused(EventStoreError, ValueError):
    """``path`` is the place in the document, ``reason`` says what is wrong there."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return _text(f"{self.path}: {self.reason}" if self.path else self.reason)


class InvalidEvent(Refused):
    """The event was refused before anything was sent."""


class InvalidLine(EventStoreError, ValueError):
    """Line ``line`` of a file cannot be imported as an event."""

    def __init__(self, line: int, path: str, reason: str) -> None:
        super().__init__(line, path, reason)
        self.line = line
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", {self.path}" if self.path else "")
        return _text(f"{where}: {self.reason}")


class InvalidQuery(Refused):
    """The filter or pipeline was refused before anything was sent."""


class InvalidState(Refused):
    """The state that a reducer returned cannot be stored."""


class OutcomeUnknown(EventStoreError):
    """
    The time ran out before it was known whether the events were stored.

    It is safe to append again with the same ``event_ids``: events that are already
    stored are found and returned.
    """

    def __init__(self, event_ids: Sequence[Any]) -> None:
        super().__init__(event_ids)
        self.event_ids = tuple(event_ids)

    def __str__(self) -> str:
        if not self.event_ids:
            return (
                "It is not known whether the transaction was committed. Look for what "
                "it has written."
            )
        ids = ", ".join(repr(event_id) for event_id in self.event_ids)
        return (
            f"It is not known whether the events {ids} were stored. "
            "Append them again with the same ids to find out."
        )


class ReducerError(EventStoreError):
    """The reducer of ``aggregate_type`` raised ``error``, first at ``version``."""

    def __init__(
        self,
        aggregate_type: str,
        aggregate_id: str,
        version: int,
        error: str,
        event_type: str | None = None,
    ) -> None:
        super().__init__(aggregate_type, aggregate_id, version, error, event_type)
        self.aggregate_type = aggregate_type
        self.aggregate_id = aggregate_id
        self.version = version
        self.error = error
        #: The type of that event, if it is known.
        self.event_type = event_type

    def __str__(self) -> str:
        event = f" ({self.event_type})" if self.event_type else ""
        return (
            f"{self.aggregate_type} {self.aggregate_id!r}, "
            f"version {self.version}{event}: {self.error}"
        )


class PositionsBroken(EventStoreError):
    """A position refers to an event that no longer exists."""

    def __init__(
        self, position: int, aggregate_id: str, aggregate_version: int
    ) -> None:
        super().__init__(position, aggregate_id, aggregate_version)
        self.position = position
        self.aggregate_id = aggregate_id
        self.aggregate_version = aggregate_version

    def __str__(self) -> str:
        return (
            f"Position {self.position} refers to version {self.aggregate_version} of "
            f"stream {self.aggregate_id!r}, which no longer exists: it was deleted "
            "outside the event store. Restore it from a backup, or run manage.py "
            f"verify_event_store --accept-loss={quote(self.aggregate_id)} "
            "--reason=TEXT."
        )


class RebuildBroken(EventStoreError):
    """A worker process ended before it had rebuilt the streams ``part``."""

    def __init__(self, part: str, exit_code: int | None) -> None:
        super().__init__(part, exit_code)
        self.part = part
        self.exit_code = exit_code

    def __str__(self) -> str:
        how = f"ended with exit code {self.exit_code}"
        if self.exit_code is not None and self.exit_code < 0:
            how = f"was killed by signal {-self.exit_code}"
        if self.exit_code == -9:
            how += ", as the system does when memory runs out"
        return (
            f"The process that rebuilt the streams of {self.part} {how}. The other "
            "processes were stopped. No snapshot is half written. Run the command "
            "again, a full rebuild with --resume. If memory ran out, use fewer workers."
        )


class _Reasoned(EventStoreError):
    """``reason`` is a sentence that says all there is to say."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class StoreUnavailable(_Reasoned):
    """
    MongoDB did not answer in time, or the connection broke; nothing was stored.

    It is also raised if MongoDB refuses user name and password. ``__cause__`` is the
    error of the driver, if there is one.
    """

    def __str__(self) -> str:
        return f"The event store is not available: {self.reason}"


class UnexpectedState(_Reasoned):
    """The server or a thread did what it never should; ``reason`` says what."""


class UnknownAggregateType(EventStoreError, LookupError):
    """No aggregate class is registered under ``aggregate_type``."""

    def __init__(self, aggregate_type: str, registered: Sequence[str]) -> None:
        super().__init__(aggregate_type, registered)
        self.aggregate_type = aggregate_type
        self.registered = tuple(registered)

    def __str__(self) -> str:
        known = ", ".join(self.registered) or "none"
        return (
            f"No aggregate class is registered under {self.aggregate_type!r}. "
            f"Registered: {known}."
        )


class UnknownSubscription(EventStoreError, LookupError):
    """The subscription or projection ``name`` does not exist."""

    def __init__(self, name: str, registered: Sequence[str]) -> None:
        super().__init__(name, registered)
        self.name = name
        self.registered = tuple(registered)

    def __str__(self) -> str:
        if self.name in self.registered:
            return (
                f"Subscription {self.name!r} is declared but has never run; start "
                "manage.py run_subscriptions."
            )
        known = ", ".join(self.registered) or "none"
        return f"Subscription {self.name!r} does not exist. Declared: {known}."


class CheckpointMissing(EventStoreError):
    """The checkpoint of a subscription is missing in the database ``using``."""

    def __init__(self, name: str, using: str, position: int) -> None:
        super().__init__(name, using, position)
        self.name = name
        self.using = using
        #: The position of the subscription, according to MongoDB.
        self.position = position

    def __str__(self) -> str:
        return (
            f"The checkpoint of subscription {self.name!r} is missing in the database "
            f"{self.using!r}. If the data that the subscription wrote there is missing "
            f"too, run manage.py subscriptions reset {quote(self.name)} --to 0; if it "
            f"exists, --to {self.position}."
        )
