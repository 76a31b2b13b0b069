"""A projection of books that are lent, which can fail, and what its tests need."""

from contextlib import ExitStack

import pytest

from ossy_event_store import EventStore, Projection, register_projection
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.projections import projection
from ossy_event_store.projections.generations import in_use
from ossy_event_store.projections.writer import Writer
from ossy_event_store.streams import reducers
from ossy_event_store.subscriptions import declaration
from ossy_event_store.subscriptions.checkpoints import claim, find_or_create
from tests.support.subscriptions import checkpoint, reached, running


class Loans(Projection):
    """Which books a reader has borrowed, and how often in all."""

    name = "loans"
    aggregate_types = ["Book"]
    initial_state = {"lent": 0, "books": []}
    #: Streams whose events cannot be applied.
    broken = set()

    @staticmethod
    def key(event):
        if event["type"] == "NoKey":
            raise KeyError("to")
        return event["payload"].get("to") if event["type"] == "BookLent" else None

    @classmethod
    def apply(cls, event, state):
        state["lent"] += 1
        if event["aggregateId"] in cls.broken:
            raise ValueError("broken")
        state["books"].append(event["aggregateId"])
        return state


@pytest.fixture
def loans(store, monkeypatch):
    """The projection ``Loans``, the only one registered, without documents."""
    monkeypatch.setattr(projection, "_registered", {})
    monkeypatch.setattr(in_use, "fresh_seconds", 0.0)
    monkeypatch.setattr(Loans, "broken", set())
    database = connection.raw(store.events).database
    for name in database.list_collection_names(filter={"name": {"$regex": "^proj"}}):
        database[name].drop()
    return register_projection(Loans)


@pytest.fixture
def events(lend):
    """Append an event to each of these books; return them with positions."""

    def events(*ids):
        return [
            {**lend(aggregate_id, "BookLent")[0], "position": position}
            for position, aggregate_id in enumerate(ids, 1)
        ]

    return events


@pytest.fixture
def writer(loans, store):
    """Return writers of the projection, all under the last claim."""
    with ExitStack() as sessions:

        def writer(claims=True):
            declared = declaration.registered_subscriptions()["loans"]
            drive(
                find_or_create(
                    store, "loans", 0, declared.kind, **declared.document_fields()
                )
            )
            if claims:
                drive(claim(store, "loans", "me", None))
            client = connection.raw(store.events).database.client
            session = sessions.enter_context(client.start_session())
            made = Writer(store, session, declared)
            drive(made.begin(checkpoint(store, "loans")))
            return made

        yield writer


#: The state of the key ``ann`` after the events of ``lent``.
ANN = {"lent": 3, "books": ["a", "b", "a"]}


@pytest.fixture
def lent(loans, store, lend):
    """The projection, built from three events, with a state that was tampered with."""
    for stream in "aba":
        lend(stream, "BookLent")
    with running():
        reached(store, "loans", 3)
    assert Loans.get("ann") == ANN
    Loans.collection.update_one({"_id": "ann"}, {"$set": {"state.lent": 99}})
    return loans


@pytest.fixture
def changed(monkeypatch):
    """Change the revision of the projection's class."""

    def changed(revision):
        monkeypatch.setattr(Loans, "revision", revision, raising=False)
        reducers.reducer_revision.cache_clear()

    yield changed
    reducers.reducer_revision.cache_clear()


def collections(store):
    """Return the names of all collections of projections."""
    names = connection.raw(store.events).database.list_collection_names()
    return sorted(name for name in names if name.startswith("projection_"))


class Nights(Projection):
    """The guests of each night: an event changes several nights, or deletes them."""

    name = "nights"
    aggregate_types = ["Stay"]
    initial_state = {"guests": []}
    #: Streams whose events cannot be applied.
    broken = set()

    @staticmethod
    def key(event):
        return event["payload"]["nights"]

    @classmethod
    def apply(cls, event, state, key):
        if event["aggregateId"] in cls.broken and key == event["payload"]["nights"][-1]:
            raise ValueError("broken")
        if event["type"] == "Cancelled":
            return None
        return {"guests": [*state["guests"], event["aggregateId"]]}


@pytest.fixture
def nights(loans, monkeypatch):
    """The projection ``Nights``, without documents."""
    monkeypatch.setattr(Nights, "broken", set())
    return register_projection(Nights)


def stay(guest, *nights, kind="Booked"):
    """Append an event that changes several nights."""
    event = {"aggregateId": guest, "aggregateType": "Stay", "type": kind}
    return EventStore.append_event({**event, "payload": {"nights": list(nights)}})


def guests():
    """Return the guests of each night, as they are stored."""
    return {one["_id"]: one["state"]["guests"] for one in Nights.collection.find()}
