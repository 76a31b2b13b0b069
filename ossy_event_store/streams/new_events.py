"""
Build the documents of events that are about to be appended. Pure, but for the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from nanoid import generate

from ..conf import get_settings
from ..documents.arguments import check_items, check_number
from ..documents.boundaries.tags import check_tags, names_of_places
from ..documents.bson_types import Document
from ..documents.catalogue.appending import CurrentEvent, as_event, current_form
from ..documents.context import clock
from ..documents.context.current import current
from ..documents.context.filling import filled, names_given
from ..documents.context.requests import AskedRequest
from ..documents.event_document import (
    TYPE_VERSION,
    build_event,
    check_event,
    check_version,
)
from ..exceptions import InvalidEvent

#: A dict, or an object of a class with ``@event``.
Event = Any

_SET_BY_THE_STORE = {
    "aggregateVersion": "the store sets it; load the aggregate to append at its end",
    "created": "the store sets it to now; put your own date in the payload",
}
_ALLOWED_IN_RAW_EVENTS = ("aggregateId", "aggregateType", "aggregateVersion", "created")


class NewEvents(list[Document]):
    """The documents of some events, and the names of the fields that callers gave."""

    def __init__(self) -> None:
        super().__init__()
        #: For each document, those of its event, and those of its metadata.
        self.given: list[frozenset[str]] = []
        #: For each document, the names in which it takes a place.
        self.names: list[tuple[str, ...]] = []
        #: Whether one of them takes a place.
        self.take_places = False
        #: The documents without ``createdBy`` whose request knows it; see ``sign()``.
        self.unsigned: list[tuple[Document, AskedRequest]] = []

    @property
    def have_own_ids(self) -> bool:
        """Whether callers gave ids, so that an earlier call may have stored them."""
        return any("id" in given for given in self.given)

    def include(self, other: NewEvents) -> None:
        """Append the documents of other events."""
        self += other
        self.given += other.given
        self.names += other.names
        self.take_places = self.take_places or other.take_places
        self.unsigned += other.unsigned

    def build(self, event: Mapping[str, Any], **fields: Any) -> None:
        """Append the document of a checked event; see ``build_event()``."""
        given, context = names_given(event), current()
        check = None
        if isinstance(event, CurrentEvent):
            check = event.check
            if event.has_declared_tags:
                given -= {"tags"}
        if context is not None:
            event = filled(event, context)
        document = build_event(event, **fields)
        if check is not None:
            check(document)
        asked = None if context is None else context.asked
        if asked is not None and "createdBy" not in given:
            self.unsigned.append((document, asked))
        names = names_of_places(document, get_settings().TYPE_BOUNDARIES)
        self.append(document)
        self.given.append(given)
        self.names.append(names)
        self.take_places = self.take_places or bool(names)


@dataclass(frozen=True)
class FirstEvent:
    """A stream's first event."""

    documents: NewEvents
    #: Whether the caller left the aggregate's id to the store.
    has_generated_id: bool


def _checked(
    event: Event, allowed: Sequence[str], refused: Mapping[str, str] | None = None
) -> Mapping[str, Any]:
    """Return an event as a checked dict, at the current version of its type."""
    return current_form(check_event(as_event(event), allowed, refused))


def first_event(Root: Any, event: Event) -> FirstEvent:
    """
    Return the first event of a new aggregate.

    Raises:
        InvalidEvent: with path and reason.
    """
    allowed = ("aggregateId", "aggregateType")
    event = _checked(event, allowed, _SET_BY_THE_STORE)
    if event.get("aggregateType", Root.aggregate_type) != Root.aggregate_type:
        raise InvalidEvent(
            "aggregateType",
            f"is {event['aggregateType']!r}, but {Root.__name__} creates "
            f"{Root.aggregate_type!r}",
        )
    has_generated_id = event.get("aggregateId") is None
    documents = NewEvents()
    documents.build(
        event,
        aggregate_id=generate() if has_generated_id else event["aggregateId"],
        aggregate_type=Root.aggregate_type,
        version=1,
        created=clock.now(),
    )
    return FirstEvent(documents, has_generated_id)


def next_events(
    Root: Any,
    aggregate_id: str,
    version: int,
    events: Sequence[Event],
    tick: int | None = None,
) -> NewEvents:
    """
    Return the documents of events that follow a version of a loaded aggregate.

    Args:
        Root: the aggregate class.
        aggregate_id: the stream.
        version: that of the last event.
        events: as callers give them.
        tick: that of the last event, if it has one.

    Raises:
        InvalidEvent: with path and reason.
    """
    now = clock.now()
    documents = NewEvents()
    for number, event in enumerate(events, version + 1):
        documents.build(
            _checked(event, (), _SET_BY_THE_STORE),
            aggregate_id=aggregate_id,
            aggregate_type=Root.aggregate_type,
            version=number,
            created=now,
        )
        if tick is not None:
            documents[-1]["tick"] = tick + number - version
    return documents


def raw_events(
    events: Sequence[Event],
    expected_version: int | None,
    *,
    is_encoded: bool = False,
) -> tuple[NewEvents, int | None]:
    """
    Return the documents of raw events of one stream, and the expected version.

    Args:
        events: each with ``aggregateId`` and ``aggregateType``; their versions say
            what is expected too.
        expected_version: the last version of the stream; None for any.
        is_encoded: whether the events have their stored form already, from an earlier
            call: the code may know other versions of their types by now.

    Raises:
        InvalidEvent: with path and reason.
    """
    events = check_items(events, "events", "events")
    if not events:
        raise InvalidEvent("", "expected at least one event")
    now = clock.now()
    checked = [
        check_event(event, (*_ALLOWED_IN_RAW_EVENTS, TYPE_VERSION))
        if is_encoded
        else _checked(event, _ALLOWED_IN_RAW_EVENTS)
        for event in events
    ]
    first = checked[0]
    if first.get("aggregateId") is None and first.get("tags"):
        checked = [_in_stream_of_tag(event, first) for event in checked]
        first = checked[0]
    expected = _expected_version(checked, expected_version)
    documents = NewEvents()
    for index, event in enumerate(checked):
        for name in ("aggregateId", "aggregateType"):
            if event.get(name) != first.get(name):
                raise InvalidEvent(name, "the events are of more than one stream")
        documents.build(
            event,
            aggregate_id=cast(str, event.get("aggregateId")),
            aggregate_type=cast(str, event.get("aggregateType")),
            version=(expected or 0) + index + 1,
            created=now if event.get("created") is None else event["created"],
        )
    return documents, expected


def _in_stream_of_tag(
    event: Mapping[str, Any], first: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return an event; without a stream, in that of the first event's first tag."""
    (tag, *_) = check_tags(first["tags"], "tags", InvalidEvent)
    kind = first.get("aggregateType") or tag.partition(":")[0] or tag
    stream = {"aggregateId": tag, "aggregateType": kind}
    missing = {key: stream[key] for key in stream if event.get(key) is None}
    if isinstance(event, CurrentEvent):
        return event.with_stream(missing)
    return {**event, **missing}


def _expected_version(
    events: Sequence[Mapping[str, Any]], expected_version: int | None
) -> int | None:
    if expected_version is not None:
        check_number(expected_version, "expected_version")
    for index, event in enumerate(events):
        if event.get("aggregateVersion") is None:
            continue
        expected = check_version(event["aggregateVersion"]) - index - 1
        if expected_version not in (None, expected):
            raise InvalidEvent(
                "aggregateVersion",
                f"is {event['aggregateVersion']}, but must be "
                f"{expected_version + index + 1} to follow the expected version",
            )
        expected_version = expected
    if expected_version is not None and expected_version < 0:
        what = "the events are not in order of version; sort them in ascending order"
        raise InvalidEvent("aggregateVersion", what)
    return expected_version
