"""The events of a scenario, as the store would have stored them. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...documents.boundaries.places import Heads, assign
from ...documents.bson_types import Document
from ...documents.catalogue.appending import as_event
from ...documents.catalogue.catalogue import current
from ...documents.catalogue.objects import objects
from ...documents.event_document import (
    STREAM_CLOSED,
    STREAM_CONTINUED,
    TYPE_VERSION,
    check_event,
)
from ...exceptions import AggregateTypeMismatch, InvalidEvent, StreamClosed
from ...streams.append import check_ids, same_events
from ...streams.closing.checks import is_closing, successor_of
from ...streams.new_events import NewEvents, raw_events
from ..factories import event_factory

# When the first event happened that does not say so. Each next one is a second later.
_BEGINNING = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_SECOND = dt.timedelta(seconds=1)
# Of an event as it is stored: the scenario gives it these again.
_OF_THE_STORE = ("position", "places", "tick")
_OF_A_STREAM = ("aggregateId", "aggregateType", "aggregateVersion", "created")


def given_events(
    events: Iterable[Any], stream: Mapping[str, str], *, of_one_stream: bool = False
) -> list[Document]:
    """
    Return given events as the store would have stored them, one after the other.

    Args:
        events: see ``given()``.
        stream: ``aggregateId`` and ``aggregateType`` of those that name none.
        of_one_stream: whether all are in the stream of the first.

    Raises:
        EventStoreError: the store would refuse an event, or cannot read it; a note says
            which one.
    """
    documents: list[Document] = []
    for number, event in enumerate(events, 1):
        try:
            documents += _stored({**stream, **_as_dict(event)}, documents)
        except Exception as error:
            error.add_note(f"It is given event {number}.")
            raise
        if of_one_stream:
            stream = {**stream, "aggregateId": documents[0]["aggregateId"]}
    return documents


def _as_dict(event: Any) -> dict[str, Any]:
    """Return a given event as a dict that can be appended."""
    types = current().of_class
    if isinstance(event, str):
        event = {"type": event}
    elif isinstance(event, type) and event in types:
        made: Any = event_factory(event)()
        event = {"type": types[event].name, "payload": made}
    found = as_event(event)
    if not isinstance(found, Mapping):
        check_event(found, ())  # refuses it
    given = {key: one for key, one in found.items() if key not in _OF_THE_STORE}
    if "_id" in given:
        given["id"] = given.pop("_id")
    return given


def _stored(event: Mapping[str, Any], before: Sequence[Document]) -> list[Document]:
    """Return the document of a given event, unless it has been stored before."""
    if event.get("created") is None:
        after = before[-1]["created"] + _SECOND if before else _BEGINNING
        event = {**event, "created": after}
    documents, expected = _built(event)
    (document,) = documents
    end = last_of(before, document["aggregateId"])
    version = end["aggregateVersion"] if end else 0
    if expected not in (None, version):
        reason = f"is {expected + 1 if expected else 1}, but the stream's last is"
        raise InvalidEvent("aggregateVersion", f"{reason} {version}; leave it out")
    objects(current().upcasted([document]))  # what no reader could read is refused
    return appended(before, documents)


def _built(event: Mapping[str, Any]) -> tuple[NewEvents, int | None]:
    """Return the document of an event, and the version that it says it follows."""
    if event.get("type") in (STREAM_CLOSED, STREAM_CONTINUED):
        # What close() and continue_as() have stored, which append nothing else.
        documents = NewEvents()
        documents.build(
            {key: one for key, one in event.items() if key not in _OF_A_STREAM},
            aggregate_id=event["aggregateId"],
            aggregate_type=event["aggregateType"],
            version=1,
            created=event["created"],
        )
        return documents, None
    # An event of an earlier version says that it is, and is what was stored then.
    return raw_events([event], None, is_encoded=TYPE_VERSION in event)


def last_of(events: Sequence[Document], aggregate_id: str) -> Document | None:
    """Return the last event of a stream, or None."""
    found = (one for one in reversed(events) if one["aggregateId"] == aggregate_id)
    return next(found, None)


def appended(before: Sequence[Document], documents: NewEvents) -> list[Document]:
    """
    Return the events that an append adds, with their versions and places.

    Args:
        before: all events that are stored.
        documents: of one append.

    Raises:
        AggregateTypeMismatch, IdempotencyConflict, InvalidEvent, StreamClosed: as an
            append does.
    """
    check_ids(documents)
    sent = {document["_id"] for document in documents}
    if known := [event for event in before if event["_id"] in sent]:
        same_events(known, documents)
        return []
    added: list[Document] = []
    for document in documents:
        _follow(last_of([*before, *added], document["aggregateId"]), document)
        added.append(document)
    if documents.take_places:
        assign(documents, documents.names, _heads(before))
    return added


def _follow(end: Document | None, document: Document) -> None:
    """Let a document follow the last event of its stream."""
    if end is not None:
        stream, kind = end["aggregateId"], document["aggregateType"]
        if end["aggregateType"] != kind:
            raise AggregateTypeMismatch(stream, kind, end["aggregateType"])
        if is_closing(end):
            raise StreamClosed(stream, end["aggregateVersion"], successor_of(end))
        if "tick" in end:
            document["tick"] = end["tick"] + 1
    document["aggregateVersion"] = end["aggregateVersion"] + 1 if end else 1


def _heads(before: Sequence[Document]) -> Heads:
    numbers: dict[str, int] = {}
    tick = 0
    for event in before:
        for place in event.get("places", ()):
            numbers[place["t"]] = max(numbers.get(place["t"], 0), place["n"])
        tick = max(tick, event.get("tick") or 0)
    return Heads(numbers=numbers, tick=tick)
