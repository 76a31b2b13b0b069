"""Rebuilds of books: what is stored before and after, and the command."""

import io

import pytest
from bson import encode
from django.core.management import call_command

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents.collections import rebuild_progress
from ossy_event_store.mongodb import connection
from ossy_event_store.rebuild import progress
from ossy_event_store.rebuild.ranges import Span
from ossy_event_store.streams import reducers
from tests.library.aggregate import Book

EACH = ("BookBought", "BookLent", "BookReturned")


@pytest.fixture
def twenty_books(lend):
    """Twenty books of one to three events, and a reader."""
    for number in range(20):
        lend(f"b-{number:02}", *EACH[: 1 + number % 3])
    EventStore.append_event(
        {"aggregateId": "r-1", "aggregateType": "Reader", "type": "Joined"}
    )


@pytest.fixture
def shout(monkeypatch):
    """Change the reducer of books: titles in capitals, and loans of another type."""

    def shout():
        whole = Book.view

        def view(events, saved_state):
            state = whole(events, saved_state)
            title = state.get("title")
            return {
                **state,
                "title": title and title.upper(),
                "loans": float(state["loans"]),
            }

        monkeypatch.setattr(Book, "view", staticmethod(view))
        monkeypatch.setattr(Book, "revision", "shouted", raising=False)
        reducers.reducer_revision.cache_clear()

    yield shout
    monkeypatch.undo()
    reducers.reducer_revision.cache_clear()


def stored():
    """Return version and state of each snapshot, by id."""
    found = Aggregate.collection.find({}, {"state": 1, "aggregateVersion": 1})
    return {doc["_id"]: (doc["aggregateVersion"], doc["state"]) for doc in found}


def states():
    """Return version, revision and state of each snapshot, by id."""
    fields = ("aggregateVersion", "revision", "state")
    return {s["_id"]: [s[f] for f in fields] for s in Aggregate.collection.find()}


def everything(events):
    """Return all of the database of the events: documents, collections, indexes."""
    database = events.database
    return {
        name: (
            sorted(encode(document) for document in database[name].find()),
            database[name].index_information(),
        )
        for name in database.list_collection_names()
    }


def run(*words, **options):
    """Run ``rebuild_aggregates``; return what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    words = ("rebuild_aggregates", "--noinput", *words)
    call_command(*words, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def recorded(store):
    """Return the recorded progress of the last full rebuild."""
    return connection.raw(store.leases).find_one({"_id": rebuild_progress()})


def in_span(span):
    """Return the stream of each event in a range."""
    fields = {"_id": 0, "aggregateId": 1}
    return [
        event["aggregateId"] for event in EventStore.collection.find(span.query, fields)
    ]


def done_ids(store):
    """Return the streams that are done according to the recorded progress."""
    found = set()
    for part in map(progress._part, recorded(store)["parts"]):
        if part.ended or part.done is not None:
            until = part.done or part.span.until
            span = Span(part.span.aggregate_type, part.span.after, until)
            found |= set(in_span(span))
    return found


def profiled(database, run, query):
    """Return what the profiler of a database saw of a query while a function ran."""
    database.command("profile", 2)
    try:
        run()
    finally:
        database.command("profile", 0)
    found = list(database["system.profile"].find(query))
    database.drop_collection("system.profile")
    return found
