"""Catch up with all events from the first on, against a plain scan of them."""

import gzip
import threading
import time
from contextlib import contextmanager
from itertools import islice

import bench

POLL_SECONDS = 0.005  # between two checks whether it has caught up


def batched(items, size):
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def main():
    options = bench.arguments(__doc__, ("file", "events, one JSON object a line"))
    database = bench.set_up()
    from pymongo import InsertOne, ReplaceOne

    from ossy_event_store import EventStore
    from ossy_event_store.mongodb import connection
    from ossy_event_store.mongodb.indexes import TIME
    from ossy_event_store.mongodb.ports import drive
    from ossy_event_store.positions.sequencer import Sequencer
    from ossy_event_store.projections.projection import Projection, register_projection
    from ossy_event_store.streams.import_events import import_events
    from ossy_event_store.subscriptions.consumer import PAGE_EVENTS
    from ossy_event_store.subscriptions.declaration import subscription
    from ossy_event_store.subscriptions.runner import Runner

    opener = gzip.open if options.file.endswith(".gz") else open
    with opener(options.file, "rt") as file:
        loaded = drive(import_events(connection.blocking(), enumerate(file, 1)))
    print(f"imported {loaded.events:,} events, {loaded.rate:,.0f} events/s")

    store = connection.blocking()
    events = connection.raw(store.events)
    checkpoints = connection.raw(store.subscriptions)
    positions = connection.raw(store.positions)

    # --- assigning positions

    def assign():
        positions.delete_many({})
        connection.raw(store.leases).delete_many({})
        sequencer, began = Sequencer(store), time.perf_counter()
        while not sequencer.is_caught_up:
            sequencer.advance(0)
        spent = time.perf_counter() - began
        sequencer.close()
        assert positions.count_documents({}) == loaded.events
        return spent

    def insert():
        """Write the same entries with plain PyMongo: what any sequencer has to do."""
        positions.delete_many({})
        began = time.perf_counter()
        fields = ("aggregateId", "aggregateVersion", "aggregateType", "type")
        with events.find(
            {}, ["_id", *fields], sort=TIME.keys, batch_size=PAGE_EVENTS
        ) as cursor:
            for batch in batched(enumerate(cursor, 1), PAGE_EVENTS):
                positions.insert_many(
                    [
                        {
                            "_id": position,
                            "eventId": event["_id"],
                            **{name: event[name] for name in fields},
                        }
                        for position, event in batch
                    ]
                )
        return time.perf_counter() - began

    # --- the subscriptions

    @register_projection
    class Days(Projection):
        """Few documents: how often each type of event occurred on a day."""

        name = "per_day"

        @staticmethod
        def key(event):
            return event["created"].strftime("%Y-%m-%d")

        @staticmethod
        def apply(event, state):
            kind = event["type"]
            state[kind] = state.get(kind, 0) + 1
            amount = event["payload"].get("amountRequested", 0)
            state["amount"] = state.get("amount", 0) + amount
            return state

    @register_projection
    class Applications(Projection):
        """Many documents: one for each application."""

        name = "per_application"

        @staticmethod
        def key(event):
            return event["aggregateId"]

        @staticmethod
        def apply(event, state):
            # Independent of the order of two events in one millisecond: the plain
            # scan orders by time alone, so it may order them unlike their stream.
            when = event["created"]
            state["events"] = state.get("events", 0) + 1
            state["last"] = max(state.get("last", when), when)
            lifecycle = event["payload"]["lifecycle"]
            state[lifecycle] = state.get(lifecycle, 0) + 1
            return state

    counted = {}

    def count(event):
        kind = event["type"]
        counted[kind] = counted.get(kind, 0) + 1

    subscription("count")(count)

    @contextmanager
    def running(name):
        checkpoints.delete_one({"_id": name})
        runner = Runner([name])
        thread = threading.Thread(target=runner.run)
        thread.start()
        try:
            yield
        finally:
            runner.stop.set()
            thread.join()

    def catch_up(name):
        began = time.perf_counter()
        with running(name):
            reached = {"_id": name, "position": loaded.events}
            while checkpoints.find_one(reached) is None:
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - began

    # --- the same with plain PyMongo

    def scan():
        return events.find({}, sort=TIME.keys, batch_size=PAGE_EVENTS)

    def project(cls):
        documents = cls.collection
        with scan() as cursor:
            for batch in batched(enumerate(cursor, 1), PAGE_EVENTS):
                keyed = {}
                for position, event in batch:
                    keyed.setdefault(cls.key(event), []).append((position, event))
                found = documents.find({"_id": {"$in": list(keyed)}})
                old = {document["_id"]: document for document in found}
                writes = []
                for key, some in keyed.items():
                    state = old[key]["state"] if key in old else {}
                    for _, event in some:
                        state = cls.apply(event, state)
                    new = {"_id": key, "state": state, "position": some[-1][0]}
                    if key in old:
                        writes.append(ReplaceOne({"_id": key}, new))
                    else:
                        writes.append(InsertOne(new))
                documents.bulk_write(writes, ordered=False)

    def call():
        counted.clear()
        with scan() as cursor:
            for event in cursor:
                count(event)

    def by_store(cls):
        cls.collection.delete_many({})
        return catch_up(cls.name)

    def by_hand(cls):
        cls.collection.delete_many({})
        began = time.perf_counter()
        project(cls)
        return time.perf_counter() - began

    def counted_by_store():
        counted.clear()
        return catch_up("count")

    # --- the results first, then the times

    def states(cls):
        return {one["_id"]: one["state"] for one in cls.collection.find()}

    assign()
    assert [e["position"] for e in EventStore.read_all(limit=3)] == [1, 2, 3]
    for cls in (Days, Applications):
        by_hand(cls)
        expected = states(cls)
        by_store(cls)
        assert states(cls) == expected, f"{cls.name} by hand differs"
    call()
    expected = dict(counted)
    counted_by_store()
    assert counted == expected, "not every event was delivered once"

    seconds = bench.turns(options.rounds, bare=insert, store=assign)
    rows = [bench.row("positions assigned to all events", loaded.events, seconds)]
    for cls in (Days, Applications):
        seconds = bench.turns(
            options.rounds,
            store=lambda c=cls: by_store(c),
            bare=lambda c=cls: by_hand(c),
        )
        many = cls.collection.count_documents({})
        what = f"projection of {many:,} documents, events"
        rows.append(bench.row(what, loaded.events, seconds))
    seconds = bench.turns(options.rounds, store=counted_by_store, bare=call)
    rows.append(bench.row("function at least once, events", loaded.events, seconds))
    bench.print_rows(rows, [], options.json)
    database.client.drop_database(database.name)


if __name__ == "__main__":
    main()
