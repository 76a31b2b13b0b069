"""Objects are appended wherever dicts of events are, and dicts are checked."""

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NotRequired, TypedDict

import pytest
from django.db import transaction

from ossy_event_store import (
    Aggregate,
    Boundary,
    EventStore,
    append_on_commit,
    document_of,
    event_from,
    item,
)
from ossy_event_store.documents.catalogue.declaration import EventType, Upcaster
from ossy_event_store.exceptions import IdempotencyConflict, InvalidEvent
from tests.support.typed_events import declared_only

DUE = dt.date(2027, 1, 31)


@dataclass(frozen=True)
class BookLent:
    book: str
    due: dt.date
    fee: Decimal = Decimal("0.50")
    notes: list[Any] = field(default_factory=list)


class BookReturned(TypedDict):
    book: str
    on: NotRequired[dt.date]


@dataclass
class Undeclared:
    book: str


class Book:
    aggregate_type = "Book"

    @staticmethod
    def view(events, state):
        return {"events": state.get("events", 0) + len(events)}


class Shelf(Boundary):
    query = item("BookLent", tags=["book:{book}"])

    @staticmethod
    def view(events, state):
        return len(events)


def tags_of(lent):
    return [f"book:{lent.book}"]


LENT = EventType("BookLent", BookLent, 2, ("book_lent",), tags_of)
TO_2 = Upcaster("BookLent", 1, lambda payload: {**payload, "due": "2027-01-31"})
RETURNED = EventType("BookReturned", BookReturned, tags=["returned"])
OBJECT = BookLent("Emma", DUE)
STORED = {"book": "Emma", "due": "2027-01-31", "fee": "0.50", "notes": []}


@pytest.fixture(autouse=True)
def _declared():
    with declared_only(LENT, TO_2, RETURNED, Upcaster("Renamed", 1, dict)):
        yield


def refused(event, **more):
    with pytest.raises(InvalidEvent) as caught:
        EventStore.append_event(
            event if more == {} else event | more,
        )
    return caught.value.path, caught.value.reason


def raw(payload, **more):
    stream = {"aggregateId": "b", "aggregateType": "Book"}
    return {**stream, "type": "BookLent", "payload": payload, **more}


# --- objects ------------------------------------------------------------------


WAYS = {
    "of": lambda face: face(Aggregate.of, Book, OBJECT),
    "of a dict": lambda face: face(
        Aggregate.of, Book, {"aggregateId": "b", "payload": OBJECT}
    ),
    "add": lambda face: face(face(Aggregate.of, Book, {"type": "A"}).add, OBJECT),
    "execute": lambda face: face(Aggregate.execute, Book, "b", lambda book: OBJECT),
    "execute several": lambda face: face(
        Aggregate.execute, Book, "b", lambda book: [OBJECT]
    ),
    "append_event": lambda face: face(EventStore.append_event, OBJECT),
    "append_events": lambda face: face(EventStore.append_events, [raw(OBJECT)]),
    "append_streams": lambda face: face(
        EventStore.append_streams,
        {"b": [{"aggregateType": "Book", "payload": OBJECT}]},
    ),
    "boundary": lambda face: face(
        EventStore.execute, Shelf(book="Emma"), lambda shelf: OBJECT
    ),
    "continue_as": lambda face: face(
        face(Aggregate.of, Book, {"type": "A"}).continue_as, "b2", OBJECT
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_object_is_stored_as_its_type(way, face, history):
    WAYS[way](face)
    (event,) = history.find({"type": "BookLent"})
    assert list(event)[:12] == [
        "_id",
        "aggregateId",
        "aggregateType",
        "aggregateVersion",
        "type",
        "payload",
        "created",
        "createdBy",
        "metadata",
        "tags",
        "typeVersion",
        "places",
    ]
    assert event["payload"] | {"fee": str(event["payload"]["fee"])} == STORED
    assert (event["typeVersion"], event["tags"]) == (2, ["book:Emma"])
    assert event_from(event) == OBJECT


def test_an_object_without_a_stream_is_stored_in_that_of_its_first_tag(store):
    event = EventStore.append_event(OBJECT)
    assert (event["aggregateId"], event["aggregateType"]) == ("book:Emma", "book")


@pytest.mark.parametrize(
    ("given", "stored"), [(["a", "b"], ["a", "b"]), ([], None), (None, ["book:Emma"])]
)
def test_the_tags_of_an_event_win_over_those_of_the_declaration(store, given, stored):
    event = EventStore.append_event(raw(OBJECT, tags=given))
    assert event.get("tags") == stored


def test_a_fields_of_an_event_beside_its_object_are_stored(store):
    event = EventStore.append_event(
        raw(OBJECT, id="e", createdBy="ann", metadata={"a": 1})
    )
    assert (event["_id"], event["createdBy"], event["metadata"]) == (
        "e",
        "ann",
        {"a": 1},
    )


@pytest.mark.parametrize(
    ("event", "path", "reason"),
    [
        (BookLent("Emma", "soon"), "payload.due", "must be a date, not str"),
        (BookLent(b"Emma", DUE), "payload.book", "must be a string, not bytes"),
        (
            BookLent("Emma", DUE, fee=0.5),
            "payload.fee",
            "must be a Decimal, not float",
        ),
        (BookLent("Emma", DUE, Decimal("NaN")), "payload.fee", "NaN is not allowed"),
        (
            BookLent("Emma", DUE, Decimal("1" * 35)),
            "payload.fee",
            "MongoDB stores decimals of up to 34 digits",
        ),
        (
            BookLent("Emma", DUE, notes=[(1, 2)]),
            "payload.notes",
            "would not come back equal",
        ),
        (BookLent("Emma", DUE, notes=[{1}]), "payload.notes[0]", "MongoDB has no type"),
        (Undeclared("Emma"), "", "declare Undeclared with @event"),
        (BookLent, "", "not the class BookLent"),
        (
            raw(Undeclared("Emma"), type="Other"),
            "payload",
            "declare Undeclared with @event",
        ),
        (raw(OBJECT, type="Lost"), "type", "an object of BookLent, of type 'BookLent'"),
        (raw(STORED, type="book_lent"), "type", "an earlier name of 'BookLent'"),
        (raw(OBJECT, typeVersion=2), "typeVersion", "the store sets it"),
        (raw({"due": DUE}, type="Other"), "payload.due", "a class with @event whose"),
        (raw({}, type="Other", data={}), "data", "did you mean 'payload'?"),
    ],
)
def test_an_event_that_would_not_come_back_is_refused(store, event, path, reason):
    found = refused(event)
    assert found[0] == path
    assert reason in found[1]
    assert not EventStore.get_event_stream("b")


def test_an_object_that_contains_itself_is_refused(store):
    notes = []
    notes.append(notes)
    assert refused(BookLent("Emma", DUE, notes=notes))[0].startswith("payload")


def test_tags_that_fail_are_refused(store):
    def broken(lent):
        return lent.shelf

    with declared_only(EventType("BookLent", BookLent, tags=broken)):
        path, reason = refused(OBJECT)
    assert path == "tags"
    assert "@event('BookLent') raised AttributeError" in reason


# --- dicts --------------------------------------------------------------------


def test_a_dict_is_stored_as_it_is_at_the_current_version(store):
    event = EventStore.append_event(raw(STORED | {"more": 1}))
    assert event["payload"] == STORED | {"more": 1}
    assert (event["typeVersion"], event["tags"]) == (2, ["book:Emma"])


@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        ({"book": "Emma"}, "payload.due", "missing, and the class has no default"),
        (STORED | {"due": DUE}, "payload.due", "use an ISO 8601 string"),
        (STORED | {"due": "soon"}, "payload.due", "is no ISO 8601 text of a date"),
        (STORED | {"book": 7}, "payload.book", "must be a string, not int"),
        (None, "payload.book", "missing"),
        (["Emma"], "payload", "an object of BookLent, or a dict as it is stored"),
    ],
)
def test_a_dict_that_the_class_would_not_understand_is_refused(
    store, payload, path, reason
):
    found = refused(raw(payload))
    assert found[0] == path
    assert reason in found[1]


def test_a_type_that_only_an_upcaster_knows_gets_its_current_version(store):
    event = EventStore.append_event(raw({"any": 1}, type="Renamed"))
    assert event["typeVersion"] == 2


@pytest.mark.parametrize("on", [DUE, "2027-01-31"])
def test_a_typed_dict_is_taken_as_declared_or_as_stored(store, on):
    event = EventStore.append_event(
        raw({"book": "Emma", "on": on}, type="BookReturned")
    )
    assert event["payload"] == {"book": "Emma", "on": "2027-01-31"}
    assert event["tags"] == ["returned"]
    assert event_from(event) == {"book": "Emma", "on": DUE}


@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        ({"on": DUE}, "payload.book", "missing, but BookReturned requires it"),
        ({"book": "Emma", "by": DUE}, "payload.by", "not a key of BookReturned"),
        ({"book": "Emma", "on": 7}, "payload.on", "must be a date, not int"),
    ],
)
def test_a_typed_dict_that_does_not_fit_is_refused(store, payload, path, reason):
    assert refused(raw(payload, type="BookReturned")) == (path, reason)


def test_the_document_of_an_object_is_what_would_be_stored(store):
    document = document_of(OBJECT)
    stored = EventStore.append_event(OBJECT)
    assert document == {name: stored[name] for name in document}
    assert list(document) == ["type", "payload", "tags", "typeVersion"]
    assert event_from(document) == OBJECT


# --- the same event again -----------------------------------------------------


@dataclass
class Earlier:
    book: str


@pytest.mark.parametrize("name", ["BookLent", "book_lent"])
def test_a_repeated_append_after_a_deployment_is_the_same_event(face, store, name):
    with declared_only(EventType(name, Earlier)):
        first = face(EventStore.append_event, raw(Earlier("Emma"), id="e", type=name))
    to_2 = Upcaster("BookLent", 1, lambda payload: document_of(OBJECT)["payload"])
    with declared_only(LENT, to_2):
        assert face(EventStore.append_event, raw(OBJECT, id="e")) == first
        with pytest.raises(IdempotencyConflict) as caught:
            face(EventStore.append_event, raw(BookLent("Ulysses", DUE), id="e"))
    assert caught.value.differences == ("payload",)


@pytest.mark.usefixtures("transactional_db", "quick")
def test_an_object_waits_in_the_outbox_at_its_version(store, history):
    with transaction.atomic():
        with declared_only(EventType("BookLent", Earlier)):
            append_on_commit(raw(Earlier("Emma"), id="e"))
        # After a deployment, the same call and the relay see the earlier version.
        to_2 = Upcaster("BookLent", 1, lambda payload: document_of(OBJECT)["payload"])
    (event,) = history.find()
    assert event["payload"] == {"book": "Emma"}
    assert "typeVersion" not in event
    with declared_only(LENT, to_2):
        append_on_commit(raw(OBJECT, id="e2"))
        assert event_from(event) == OBJECT
    assert history.find_one({"_id": "e2"})["typeVersion"] == 2
