"""Rebuilds of books: what is stored before and after, and the command."""

import io

import pytest
from bson import encode
from django.core.management import CommandError, call_command

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.management.commands._base import WRONG_USE
from ossy_event_store.mongodb import connection
from ossy_event_store.rebuild import progress
from ossy_event_store.rebuild.ranges import Span


def stored():
    """Return version and state of each snapshot, by id."""
    found = Aggregate.collection.find({}, {"state": 1, "aggregateVersion": 1})
    return {doc["_id"]: (doc["aggregateVersion"], doc["state"]) for doc in found}


def states():
    """Return version, revision and state of each snapshot, by id."""
    fields = ("aggregateVersion", "revision", "state")
    return {s["_id"]: [s[f] for f in fields] for s in Aggregate.collection.find()}


def everything(store):
    """Return all of a database: documents, collections and indexes."""
    database = connection.raw(store.events).database
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


def wrong(*words):
    """Run ``rebuild_aggregates``, which refuses; return its error."""
    with pytest.raises(CommandError) as caught:
        run(*words)
    assert caught.value.returncode == WRONG_USE
    return str(caught.value)


def recorded(store):
    """Return the recorded progress of the last full rebuild."""
    return connection.raw(store.leases).find_one({"_id": progress.DOCUMENT_ID})


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
