"""
What upcasters cost a rebuild.

100,000 events of one type: a third at version 1, a third at version 2, a third at the
current version 3. Beside them the same events, all of them stored at version 3: both
rebuilds have to give the same states. Then all events at version 1, without a target.

And what a catalogue costs events that it leaves as they are: a rebuild beside one that
reads no catalogue.
"""

import datetime as dt
import gc
import time
from collections import defaultdict

import bench

EVENTS_PER_STREAM = 10
processor = defaultdict(list)  # seconds of this process, without those of the server
BRANCHES = {"N": "North", "S": "South", "E": "East"}


def lent(number):
    """Return the payloads of one event at versions 1, 2 and 3."""
    branch = "NSE"[number % 3]
    common = {
        "book": f"book-{number % 977}",
        "title": "The Mystery of the Blue Train",
        "note": "renewed at the desk" if number % 4 == 0 else "",
        "copies": [number % 7, number % 5],
    }
    first = {**common, "who": f"reader-{number % 313}", "branch": branch}
    second = {**common, "reader": first["who"], "branch": branch}
    third = {**common, "reader": first["who"], "branch": BRANCHES[branch], "weeks": 3}
    return first, second, third


def second_from_first(payload):
    """who is called reader."""
    reader = payload["who"]
    return {k: v for k, v in payload.items() if k != "who"} | {"reader": reader}


def third_from_second(payload):
    """Branches have names, and the weeks are in the event."""
    return {**payload, "branch": BRANCHES[payload["branch"]], "weeks": 3}


def declare():
    """Declare the event type, its upcasters, and an aggregate class for each set."""
    from ossy_event_store import register_aggregate, upcaster

    upcaster("Lent", 1)(second_from_first)
    upcaster("Lent", 2)(third_from_second)
    for name in ("Mixed", "First", "Last", "Plain"):
        register_aggregate(type(name, (Shelf,), {"aggregate_type": name}))


class Shelf:
    """Counts what was lent, by branch and by reader."""

    @staticmethod
    def view(events, saved_state):
        """Fold events at version 3."""
        state = {"weeks": 0, "branch": {}, "reader": {}, **saved_state}
        for event in events:
            payload = event["payload"]
            state["weeks"] += payload["weeks"]
            for field in ("branch", "reader"):
                counts = state[field]
                counts[payload[field]] = counts.get(payload[field], 0) + 1
        return state


def fill(many):
    """Store the same events four times: in three versions, all first, last, plain."""
    from ossy_event_store import EventStore

    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for kind in ("Mixed", "First", "Last", "Plain"):
        documents = []
        for number in range(many):
            version = {"Mixed": number % 3 + 1, "First": 1}.get(kind, 3)
            stream, place = divmod(number, EVENTS_PER_STREAM)
            document = {
                "_id": f"{kind}-{number}",
                "aggregateType": kind,
                "aggregateId": f"{kind}-{stream}",
                "aggregateVersion": place + 1,
                "type": "Plain" if kind == "Plain" else "Lent",
                "payload": lent(number)[version - 1],
                "metadata": {},
                "created": now,
                "createdBy": None,
            }
            if version > 1 and kind != "Plain":
                document["typeVersion"] = version
            documents.append(document)
        for at in range(0, many, 10_000):
            EventStore.collection.insert_many(documents[at : at + 10_000])


def rebuild(kind, side=None):
    """Rebuild all snapshots of one set, and return how long it takes."""
    from ossy_event_store import AggregateRebuild

    gc.collect()
    began = time.process_time()
    report = AggregateRebuild.build_and_save_all(types=[kind])
    assert report.ok, report
    processor[side or kind].append(time.process_time() - began)
    return report.seconds


def states(kind):
    from ossy_event_store import Aggregate

    found = Aggregate.collection.find({"aggregateType": kind})
    return {one["_id"].removeprefix(kind): one["state"] for one in found}


def without_catalogue():
    """Rebuild events that no upcaster concerns, with readers that know of none."""
    from ossy_event_store.streams import reducers

    known = reducers.current_events, reducers.current
    reducers.current_events, reducers.current = lambda reader, events: events, dict
    try:
        return rebuild("Plain", "without")
    finally:
        reducers.current_events, reducers.current = known


def rows(options):
    """Return the rows of the table."""
    many = 100_000
    fill(many)
    for kind in ("Mixed", "First", "Last", "Plain"):
        rebuild(kind)
    assert states("Mixed") == states("First") == states("Last") == states("Plain")
    processor.clear()
    seconds = bench.turns(
        options.rounds,
        mixed=lambda: rebuild("Mixed"),
        last=lambda: rebuild("Last"),
        first=lambda: rebuild("First"),
    )
    found = [
        bench.row("rebuild, three versions", many, seconds, "mixed", "last", most=1.25),
        bench.row(
            "the same, processor time", many, processor, "Mixed", "Last", most=1.25
        ),
        bench.row(
            "rebuild, all at version 1", many, seconds, "first", "last", most=1.5
        ),
        bench.row(
            "the same, processor time", many, processor, "First", "Last", most=1.5
        ),
    ]
    processor.clear()
    seconds = bench.turns(
        options.rounds, store=lambda: rebuild("Plain"), bare=without_catalogue
    )
    what = "rebuild, current version, beside one without a catalogue"
    found.append(bench.row(what, many, seconds, most=1.02))
    what = "the same, processor time"
    found.append(bench.row(what, many, processor, "Plain", "without", most=1.02))
    return found


def main():
    options = bench.arguments(__doc__)
    database = bench.set_up()
    declare()
    try:
        bench.print_rows(rows(options), [], options.json)
    finally:
        database.client.drop_database(database.name)


if __name__ == "__main__":
    main()
