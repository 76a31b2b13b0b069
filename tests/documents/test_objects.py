"""Readers with ``typed = True`` get objects, and find the events behind them."""

import asyncio
import copy
import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypedDict

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    Boundary,
    EventStore,
    Projection,
    UndecodableEvent,
    event_from,
    events_from,
    item,
    register_aggregate,
    register_projection,
    stored_event,
    subscription,
)
from ossy_event_store.aggregate import registry
from ossy_event_store.documents.catalogue.declaration import EventType, Upcaster
from ossy_event_store.exceptions import ReducerError
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.projections import projection
from ossy_event_store.projections.fold import Fold
from ossy_event_store.streams.past.state_at_version import load_state_at
from ossy_event_store.verification.verify import verify_event_store
from tests.support.subscriptions import parked, reached, running
from tests.support.typed_events import declared_only

DAY = dt.date(2027, 1, 31)


@dataclass(frozen=True, slots=True)
class Lent:
    book: str
    due: dt.date
    fee: Decimal = Decimal(1)
    readers: list[str] = field(default_factory=list)


class Returned(TypedDict):
    book: str


LENT = EventType("Lent", Lent, tags=lambda lent: [f"book:{lent.book}"])
RETURNED = EventType("Returned", Returned, tags=["book:Emma"])
EVENTS = [
    Lent("Emma", DUE := DAY),
    {"type": "Returned", "payload": {"book": "Emma"}},
    {"type": "Noted", "payload": {"text": "worn"}, "tags": ["book:Emma"]},
]


@pytest.fixture(autouse=True)
def _declared():
    with declared_only(LENT, RETURNED):
        yield


def facts(event):
    """Return what the stored event of an object says, as a reader finds it."""
    stored = stored_event(event)
    return (
        stored["type"],
        stored["aggregateId"],
        stored["aggregateVersion"],
        stored["createdBy"],
    )


class Book:
    aggregate_type = "Book"
    typed = True

    @staticmethod
    def view(events, state):
        seen = state.get("seen", [])
        return {"seen": [*seen, *([repr(one), *facts(one)] for one in events)]}


class Shelf(Boundary):
    query = item(tags=["book:{book}"])
    typed = True

    @staticmethod
    def view(events, state):
        return Book.view(events, state)


NOTED = EVENTS[2]["payload"]


def seen_by(state):
    """Return the kinds of events and their facts, without the dict of the third."""
    first, second, third = state["seen"]
    assert first[0] == repr(EVENTS[0])
    assert second[0] == repr({"book": "Emma"})
    assert repr(NOTED) in third[0]
    return [tuple(one[1:]) for one in (first, second, third)]


def expected(stream):
    return [
        ("Lent", stream, 1, None),
        ("Returned", stream, 2, None),
        ("Noted", stream, 3, None),
    ]


def test_a_typed_reducer_gets_objects(face, store):
    book = face(Aggregate.of, Book, {"aggregateId": "b", "payload": EVENTS[0]})
    book = face(book.add, *EVENTS[1:])
    assert seen_by(book.view()) == seen_by(book.view(Book.view)) == expected("b")
    face(book.save)
    again = face(Aggregate.of, Book, "b")
    assert again.events == []
    assert seen_by(again.view()) == expected("b")


def test_a_typed_boundary_gets_objects(face, store):
    loaded = face(EventStore.execute, Shelf(book="Emma"), lambda shelf: EVENTS)
    assert seen_by(loaded.view()) == expected("book:Emma")


def test_a_stored_event_is_known_only_while_its_reader_runs(store):
    book = Aggregate.of(Book, {"aggregateId": "b", "payload": EVENTS[0]})
    kept = []

    def view(events, state):
        kept.extend(events)
        stored_event(events[0])["payload"]["book"] = "changed"
        return stored_event(events[0])

    assert book.view(view)["payload"]["book"] == "Emma"
    for other in (kept[0], Lent("Emma", DAY), {"book": "Emma"}):
        with pytest.raises(LookupError, match="only while that runs"):
            stored_event(other)
    equal = copy.copy(kept[0])
    with pytest.raises(LookupError):
        book.view(lambda events, state: stored_event(equal))


def test_what_a_reader_changes_reaches_nobody_else(store):
    book = Aggregate.of(
        Book, {"aggregateId": "b", "payload": Lent("Emma", DAY, readers=["ann"])}
    )
    book.view(lambda events, state: events[0].readers.append("bob"))
    assert book.view(lambda events, state: events[0].readers) == ["ann"]


def test_a_typed_reducer_may_not_change_an_event_that_is_a_dict(store):
    noted = {"type": "Noted", "payload": {"tags": []}, "aggregateId": "b"}
    book = Aggregate.of(Book, noted)
    with pytest.raises(TypeError, match="changed the events that it got"):
        book.view(lambda events, state: events[0]["payload"]["tags"].append(1))
    assert book.events[0]["payload"] == {"tags": []}


# --- payloads that do not fit -------------------------------------------------


@dataclass
class Before:
    book: str


def test_a_stored_event_that_does_not_fit_its_class_is_named(store):
    with declared_only(EventType("Lent", Before)):
        book = Aggregate.of(Book, {"aggregateId": "b", "payload": Before("Emma")})
    (stored,) = book.events
    with pytest.raises(UndecodableEvent) as caught:
        event_from(stored)
    error = caught.value
    assert (error.event_id, error.event_type, error.version) == (
        stored["_id"],
        "Lent",
        1,
    )
    assert (error.path, error.cls) == ("due", f"{__name__}.Lent")
    with pytest.raises(ReducerError, match=r"payload\.due: missing"):
        book.view()


def test_a_split_event_is_several_objects(store):
    def split(payload):
        return [{**payload, "book": name} for name in payload["book"].split("+")]

    stored = EventStore.append_event(
        {"type": "Lent", "payload": Lent("a+b", DAY), "aggregateId": "b"}
        | {"aggregateType": "Book"}
    )
    with declared_only(EventType("Lent", Lent, 2), Upcaster("Lent", 1, split)):
        assert events_from(stored) == [Lent("a", DAY), Lent("b", DAY)]
        with pytest.raises(ValueError, match="means 2 events today"):
            event_from(stored)
    assert event_from(EventStore.append_event(EVENTS[2] | {"payload": NOTED}))[
        "payload"
    ] == (NOTED)
    with pytest.raises(TypeError, match="must be an event as it is stored"):
        event_from(Lent("a", DAY))


# --- projections and subscriptions --------------------------------------------


class PerBook(Projection):
    name = "per_book"
    types = ("Lent", "Returned")
    typed = True

    @staticmethod
    def key(one):
        stored_event(one)
        return [one.book, "all"] if isinstance(one, Lent) else one["book"]

    @staticmethod
    def apply(one, state, key):
        if isinstance(one, Lent) and one.fee == 13:
            raise ValueError("unlucky")
        state.setdefault("seen", []).append([repr(one), key, stored_event(one)["_id"]])
        return state


def test_a_typed_projection_gets_objects(store, quick, monkeypatch):
    monkeypatch.setattr(projection, "_registered", {})
    register_projection(PerBook)
    EventStore.append_event({"payload": Lent("Ulysses", DAY, Decimal(13)), "id": "u"})
    lent = EventStore.append_event(EVENTS[0])
    back = EventStore.append_event(EVENTS[1] | {"id": "r"})
    with running("per_book"):
        assert PerBook.wait_for(lent)
        assert PerBook.wait_for(back)
    first = [repr(EVENTS[0]), "Emma", lent["_id"]]
    assert PerBook.get("Emma") == {
        "seen": [first, [repr({"book": "Emma"}), "Emma", "r"]]
    }
    assert PerBook.get("all") == {"seen": [[repr(EVENTS[0]), "all", lent["_id"]]]}
    assert [one["_id"]["aggregateId"] for one in parked(store)] == ["book:Ulysses"]
    report = verify_event_store(projections=True)
    # That of the parked event may not be.
    assert (report.findings, report.projections_compared) == ([], 1)


def test_a_rebuild_and_its_checks_get_objects(store, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_aggregate(Book)
    for name in "ab":
        book = Aggregate.of(Book, {"aggregateId": name, "payload": EVENTS[0]})
        book.add(*EVENTS[1:])
    assert AggregateRebuild.build_and_save_all().ok
    assert seen_by(Aggregate.find("b")["state"]) == expected("b")
    # A dry run compares snapshots of another revision.
    Aggregate.collection.update_many({}, {"$set": {"revision": "earlier"}})
    tried = AggregateRebuild.dry_run().dry_run["Book"]
    assert (tried.compared, tried.altered, tried.failed) == (2, 0, 0)
    then = drive(load_state_at(store, Book, "b", 2, ignore_snapshot=True, most=9))
    assert (len(then.before["seen"]), len(then.state["seen"])) == (1, 2)
    assert verify_event_store().findings == []


def test_a_fold_that_is_repeated_finds_the_stored_events():
    def stored(n, fee):
        payload = {"book": "Emma", "due": "2027-01-31", "fee": fee}
        return {
            "_id": n,
            "type": "Lent",
            "payload": payload,
            "aggregateId": f"b{n}",
            "aggregateVersion": 1,
            "position": n,
        }

    fold = Fold(PerBook, [stored(1, 1), stored(2, 13), stored(3, 3)])
    while spoiled := fold.advance():
        for key in spoiled:
            fold.restore(key, None)
    assert list(fold.failed) == ["b2"]
    seen = [one[2] for one in fold._states["Emma"]["seen"]]
    assert seen == [1, 3]


@pytest.mark.parametrize("kind", ["plain", "async", "session", "class"])
def test_a_typed_subscription_gets_objects(store, quick, kind):
    seen = []

    if kind == "async":

        @subscription("lent", types=["Lent"], typed=True)
        async def handle(one):
            await asyncio.sleep(0)
            seen.append((one, stored_event(one)["position"]))

    elif kind == "session":

        @subscription("lent", types=["Lent"], session=True, typed=True)
        def handle(one, session):
            seen.append((one, stored_event(one)["position"]))

    elif kind == "class":

        @subscription("lent", types=["Lent"], typed=True)
        class Handler:
            def handle(self, one):
                seen.append((one, stored_event(one)["position"]))

    else:

        @subscription("lent", types=["Lent"], typed=True)
        def handle(one):
            seen.append((one, stored_event(one)["position"]))

    EventStore.append_event(EVENTS[0])
    with running("lent"):
        reached(store, "lent", 1)
    assert seen == [(EVENTS[0], 1)]


@pytest.mark.parametrize(
    "declare",
    [
        lambda: subscription("lent", typed="yes")(lambda one: None),
        lambda: register_projection(type("P", (PerBook,), {"typed": 1})),
        lambda: Aggregate.of(type("B", (Book,), {"typed": "yes"}), "b"),
    ],
)
def test_typed_is_true_or_false(declare):
    with pytest.raises(Exception, match="typed must be"):
        declare()
