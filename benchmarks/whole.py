"""Operations on the whole store: the import, and the verification."""

import datetime as dt
import json
from itertools import islice

import bench
import log

BATCH = 5000  # lines a write, as many as the store takes
PAGE = 1000  # events a round trip


def bring_in(options):
    """Import the events, against parsing and inserting them in plain Python."""
    from ossy_event_store import EventStore
    from ossy_event_store.mongodb import connection
    from ossy_event_store.mongodb.ports import drive
    from ossy_event_store.streams.import_events import import_events

    events = EventStore.collection

    def by_store():
        bench.empty()
        with log.opened(options) as file:
            return timed(
                lambda: drive(import_events(connection.blocking(), enumerate(file, 1)))
            )

    def by_hand():
        bench.empty()
        with log.opened(options) as file:
            return timed(lambda: insert(file))

    def insert(file):
        while some := [event_of(json.loads(line)) for line in islice(file, BATCH)]:
            events.insert_many(some)

    def stored():
        return list(events.find(sort=[("aggregateId", 1), ("aggregateVersion", 1)]))

    by_hand()
    many = events.estimated_document_count()
    first = stored()[:BATCH]
    by_store()
    assert events.estimated_document_count() == many
    assert stored()[:BATCH] == first, "the two do not store the same"
    seconds = bench.turns(options.rounds, store=by_store, bare=by_hand)
    return [bench.row("import, events", many, seconds, least=0.7)]


def timed(work):
    seconds = bench.turns(1, work=lambda: work() and None)
    return seconds["work"][0]


def event_of(line):
    """Return the document of a line that is known to be correct."""
    return {
        "_id": f"{line['aggregateId']}@{line['aggregateVersion']}",
        **line,
        "created": dt.datetime.fromisoformat(line["created"]),
    }


def verify(options):
    """Verify the store, against one ordered scan of its events."""
    from ossy_event_store import AggregateRebuild, EventStore
    from ossy_event_store.verification.verify import verify_event_store

    events = EventStore.collection
    many = events.estimated_document_count()
    AggregateRebuild.build_and_save_all()

    def by_store():
        report = verify_event_store()
        assert report.ok
        assert report.events == many

    def scan():
        in_order = [("aggregateId", 1), ("aggregateVersion", 1)]
        with events.find(batch_size=PAGE).sort(in_order) as cursor:
            assert sum(1 for _ in cursor) == many

    seconds = bench.turns(options.rounds, store=by_store, bare=scan)
    return [bench.row("verify_event_store, events", many, seconds, least=0.8)]
