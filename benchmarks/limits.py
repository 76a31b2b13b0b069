"""Measure what keeps the store from two of its targets: round trips and Python."""

import json
import random
import statistics
import time

import append as by_hand
import bench
import pymongo
from pymongo.read_concern import ReadConcern

MANY = by_hand.MANY
PAUSES = (30, 60, 100)  # microseconds
SAVES = 50


def main():
    options = bench.arguments(__doc__)
    database = bench.set_up()
    try:
        print(bench.about())
        figures = [*loads(options), *lag(), *work(options), *pauses(options)]
        for what, value, unit in figures:
            print(f"{what}: {value:.4g} {unit}")
        if options.json:
            print(json.dumps({"machine": bench.machine(), "figures": figures}))
    finally:
        database.client.drop_database(database.name)


def loads(options):
    """Read a snapshot and the events from its version on, in two round trips or one."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate

    events, snapshots = by_hand.collections()
    settled = snapshots.with_options(read_concern=ReadConcern("majority"))
    name = by_hand.new_id()
    events.insert_many([by_hand.document(name, version) for version in range(1, 1001)])
    Aggregate.of(Root, name).save()
    newer = {"$expr": {"$gte": ["$aggregateVersion", "$$version"]}}
    joined = [
        {"$match": {"_id": name}},
        {
            "$lookup": {
                "from": events.name,
                "let": {"version": "$aggregateVersion"},
                "pipeline": [
                    {"$match": {"aggregateId": name, **newer}},
                    {"$sort": {"aggregateVersion": 1}},
                ],
                "as": "events",
            }
        },
    ]

    def one():
        return snapshots.find_one({"_id": name})

    def two():
        snapshot = one()
        since = {"$gte": snapshot["aggregateVersion"]}
        found = events.find({"aggregateId": name, "aggregateVersion": since})
        return {**snapshot, "events": found.sort("aggregateVersion", 1).to_list()}

    def two_in_time():
        with pymongo.timeout(10):
            return two()

    def together():
        return settled.aggregate(joined).to_list()[0]

    wait_until(lambda: settled.find_one({"_id": name}))
    assert two() == together()
    ways = {"two": two, "two_in_time": two_in_time, "together": together}
    seconds = bench.turns(
        options.rounds * by_hand.TURNS,
        one=repeated(one),
        **{way: repeated(function) for way, function in ways.items()},
    )
    labels = {
        "two": "snapshot and events in two round trips",
        "two_in_time": "the same with a time limit",
        "together": "both in one aggregation",
    }
    return [(labels[way], times(seconds, way), "times a find_one") for way in ways]


def repeated(function):
    def again():
        for _ in range(MANY):
            function()

    return again


def times(seconds, way):
    pairs = zip(seconds[way], seconds["one"], strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def wait_until(condition):
    began = time.perf_counter()
    while not condition():
        pass
    return time.perf_counter() - began


def lag():
    """Write a snapshot like the store, and wait until a majority has it."""
    _, snapshots = by_hand.collections()
    settled = snapshots.with_options(read_concern=ReadConcern("majority"))
    delays = []
    for _ in range(SAVES):
        time.sleep(random.uniform(0, 0.2))  # out of step with the server's own timers
        name = by_hand.new_id()
        snapshots.insert_one({"_id": name})
        found = {"_id": name}
        delays.append(1000 * wait_until(lambda found=found: settled.find_one(found)))
    what = "until a majority has a snapshot"
    return [
        (what, statistics.median(delays), "ms"),
        (f"{what}, maximum", max(delays), "ms"),
    ]


def work(options):
    """Compare the CPU time of this thread for an append and for a plain insert."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate

    events, _ = by_hand.collections()

    def by_store():
        aggregate = Aggregate(Root, by_hand.new_id(), [])
        for _ in range(MANY):
            aggregate.add(by_hand.EVENT)

    def insert():
        name = by_hand.new_id()
        for version in range(1, MANY + 1):
            events.insert_one(by_hand.document(name, version))

    def insert_in_time():
        name = by_hand.new_id()
        for version in range(1, MANY + 1):
            with pymongo.timeout(10):
                events.insert_one(by_hand.document(name, version))

    def busy(function):
        def measured():
            began = time.thread_time()
            function()
            return time.thread_time() - began

        return measured

    ways = {
        "CPU time of a plain insert": insert,
        "CPU time of a plain insert with a time limit": insert_in_time,
        "CPU time of an append by the store": by_store,
    }
    seconds = bench.turns(
        options.rounds * by_hand.TURNS, **{k: busy(v) for k, v in ways.items()}
    )
    return [
        (what, 1e6 * statistics.median(seconds[what]) / MANY, "µs") for what in ways
    ]


def pauses(options):
    """Insert one event after another, with a busy pause in between."""
    events, _ = by_hand.collections()

    def paused(microseconds):
        def insert():
            name = by_hand.new_id()
            for version in range(1, MANY + 1):
                events.insert_one(by_hand.document(name, version))
                until = time.perf_counter() + microseconds / 1e6
                while time.perf_counter() < until:
                    pass

        return insert

    seconds = bench.turns(
        options.rounds * by_hand.TURNS,
        bare=paused(0),
        **{str(pause): paused(pause) for pause in PAUSES},
    )
    middle = {
        name: 1e6 * statistics.median(some) / MANY for name, some in seconds.items()
    }
    return [("an insert", middle["bare"], "µs")] + [
        (f"an insert and a pause of {pause} µs", middle[str(pause)], "µs")
        for pause in PAUSES
    ]


if __name__ == "__main__":
    main()
