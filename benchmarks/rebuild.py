"""A full rebuild and a stale check, against hand-written PyMongo."""

import multiprocessing
import os
import subprocess
import sys
from itertools import groupby
from operator import itemgetter

import bench

PAGE = 500  # snapshots a write


def states():
    from ossy_event_store import Aggregate

    found = Aggregate.collection.find({}, {"state": 1, "aggregateVersion": 1})
    return {snapshot["_id"]: snapshot for snapshot in found}


def by_store(progress=None):
    from ossy_event_store import Aggregate, AggregateRebuild, EventStore

    Aggregate.collection.delete_many({})
    report = AggregateRebuild.build_and_save_all(progress=progress)
    assert report.ok
    assert report.events == EventStore.collection.estimated_document_count()


def by_hand():
    """Scan in order, fold, write in bulk: one process, no checks."""
    from loans.aggregate import LoanApplication as Root
    from pymongo import InsertOne

    from ossy_event_store import Aggregate, EventStore

    events, snapshots = EventStore.collection, Aggregate.collection
    snapshots.delete_many({})
    writes = []
    in_order = [("aggregateId", 1), ("aggregateVersion", 1)]
    query = {"aggregateType": Root.aggregate_type}
    with events.find(query, batch_size=1000).sort(in_order) as cursor:
        for aggregate_id, group in groupby(cursor, itemgetter("aggregateId")):
            stream = list(group)
            snapshot = {
                "_id": aggregate_id,
                "aggregateType": Root.aggregate_type,
                "aggregateVersion": stream[-1]["aggregateVersion"],
                "revision": "by hand",
                "state": Root.view(stream, {}),
                "saved": stream[-1]["created"],
            }
            writes.append(InsertOne(snapshot))
            if len(writes) == PAGE:
                snapshots.bulk_write(writes, ordered=False)
                writes = []
    if writes:
        snapshots.bulk_write(writes, ordered=False)


def full(options):
    """Rebuild every snapshot."""
    from ossy_event_store import EventStore

    by_hand()
    expected = states()
    by_store()
    assert states() == expected, "the two do not give the same snapshots"
    many = EventStore.collection.estimated_document_count()
    seconds = bench.turns(options.rounds, store=by_store, bare=by_hand)
    return [bench.row("full rebuild, events", many, seconds, least=0.85)]


# --- memory -----------------------------------------------------------------


def watch(environment, pipe):
    os.environ.update(environment)
    bench.NAME = environment["DB_NAME"]
    bench.set_up()
    sizes = []
    by_store(lambda report: sizes.append((report.events, bench.resident())))
    pipe.send(sizes)


def memory(options):
    """Measure the memory of a rebuild in a fresh process."""
    from ossy_event_store import EventStore

    many = EventStore.collection.estimated_document_count()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=watch, args=(bench.environment(), theirs))
    process.start()
    theirs.close()
    sizes = ours.recv()
    process.join()
    early = next(size for done, size in sizes if done >= many / 10)
    growth = max(size for _, size in sizes) - early
    what = f"memory a rebuild takes more at {many:,} than at {many // 10:,} events"
    return [bench.figure(what, growth / 1e6, "MB", most=20)]


# --- several processes ------------------------------------------------------


def workers(options):
    """Rebuild with the command in two processes, if it has the option."""
    from django.core.management import load_command_class

    from ossy_event_store import Aggregate, EventStore

    command = load_command_class("ossy_event_store", "rebuild_aggregates")
    parser = command.create_parser("manage.py", "rebuild_aggregates")
    if "--workers" not in parser.format_help():
        return []
    by_hand()
    expected = states()

    def by_command():
        Aggregate.collection.delete_many({})
        manage = str(bench.ROOT / "example_project" / "manage.py")
        arguments = ["rebuild_aggregates", "--workers", "2", "--noinput", "-v", "0"]
        subprocess.run(
            [sys.executable, manage, *arguments], env=bench.environment(), check=True
        )

    by_command()
    assert states() == expected, "two processes do not give the same snapshots"
    many = EventStore.collection.estimated_document_count()
    seconds = bench.turns(options.rounds, store=by_command, bare=by_hand, one=by_store)
    what = "full rebuild, --workers 2, with its start"
    return [
        bench.row(what, many, seconds),
        bench.row(f"{what}, beside one process", many, seconds, bare="one", least=1),
    ]


# --- stale ------------------------------------------------------------------


def stale(options):
    """Check for stale snapshots when none is stale."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate, AggregateRebuild, EventStore

    events, snapshots = EventStore.collection, Aggregate.collection

    def check_stale():
        assert AggregateRebuild.build_and_save_all(stale=True).streams == 0

    def scan_indexes():
        kind = {"aggregateType": Root.aggregate_type}
        sort = {"aggregateType": -1, "aggregateId": -1, "aggregateVersion": -1}
        group = {"_id": "$aggregateId", "v": {"$first": "$aggregateVersion"}}
        stages = [{"$match": kind}, {"$sort": sort}, {"$group": group}]
        heads = {head["_id"]: head["v"] for head in events.aggregate(stages)}
        fields = ["aggregateVersion", "revision"]
        for snapshot in snapshots.find(kind, fields).sort("_id", -1):
            assert heads.pop(snapshot["_id"]) == snapshot["aggregateVersion"]
        assert not heads

    by_store()
    many = snapshots.estimated_document_count()
    seconds = bench.turns(options.rounds, store=check_stale, bare=scan_indexes)
    what = "stale check with nothing stale, streams"
    return [bench.row(what, many, seconds, most=1.5)]
