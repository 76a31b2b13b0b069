"""A full rebuild against the same work by hand."""

import gzip
import os
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import bench


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main():
    options = bench.arguments(__doc__, ("file", "events, one JSON object a line"))
    database = bench.set_up()
    from loans.aggregate import LoanApplication as Root
    from pymongo import InsertOne

    from ossy_event_store import AggregateRebuild, mongo
    from ossy_event_store.faces import drive
    from ossy_event_store.transfer import import_events

    opener = gzip.open if options.file.endswith(".gz") else open
    with opener(options.file, "rt") as file:
        loaded = drive(import_events(mongo.blocking(), enumerate(file, 1)))
    print(f"imported {loaded.events:,} events, {loaded.rate:,.0f} events/s")

    store = mongo.blocking()
    events, snapshots = mongo.raw(store.events), mongo.raw(store.snapshots)
    memory, kept = [], {}

    def by_store():
        snapshots.delete_many({})
        report = AggregateRebuild.build_and_save_all(
            progress=lambda report: memory.append((report.events, resident()))
        )
        assert report.ok
        assert report.events == loaded.events

    def by_hand():
        snapshots.delete_many({})
        writes = []
        in_order = [("aggregateId", 1), ("aggregateVersion", 1)]
        with events.find({"aggregateType": Root.aggregate_type}, batch_size=1000).sort(
            in_order
        ) as cursor:
            for aggregate_id, group in groupby(cursor, itemgetter("aggregateId")):
                stream = list(group)
                document = {
                    "_id": aggregate_id,
                    "aggregateType": Root.aggregate_type,
                    "aggregateVersion": stream[-1]["aggregateVersion"],
                    "revision": "by hand",
                    "state": Root.view(stream, {}),
                    "saved": stream[-1]["created"],
                }
                writes.append(InsertOne(document))
                if len(writes) == 500:
                    snapshots.bulk_write(writes, ordered=False)
                    writes = []
        if writes:
            snapshots.bulk_write(writes, ordered=False)

    def states(function):
        function()
        found = snapshots.find({}, {"state": 1, "aggregateVersion": 1})
        return {doc["_id"]: doc for doc in found}

    def check_stale():
        assert AggregateRebuild.build_and_save_all(stale=True).streams == 0

    def scan_indexes():
        kind = {"aggregateType": Root.aggregate_type}
        sort = {"aggregateType": -1, "aggregateId": -1, "aggregateVersion": -1}
        group = {"_id": "$aggregateId", "v": {"$first": "$aggregateVersion"}}
        list(events.aggregate([{"$match": kind}, {"$sort": sort}, {"$group": group}]))
        fields = ["aggregateVersion", "revision"]
        list(snapshots.find(kind, fields).sort("_id", -1))

    kept = states(by_hand)
    assert kept == states(by_store), "the two do not give the same snapshots"
    memory.clear()
    full = bench.turns(options.rounds, store=by_store, bare=by_hand)
    by_store()
    stale = bench.turns(options.rounds, store=check_stale, bare=scan_indexes)
    early = next(size for done, size in memory if done >= loaded.events / 10)
    growth = max(size for _, size in memory) - early
    bench.tell(
        [
            bench.row("full rebuild, events", loaded.events, full),
            bench.row("stale check with nothing stale, streams", len(kept), stale),
        ],
        [
            f"resident memory grew by {growth / 1e6:.1f} MB from "
            f"{loaded.events // 10:,} events to the end of the last rebuild"
        ],
        options.json,
    )
    database.client.drop_database(database.name)


if __name__ == "__main__":
    main()
