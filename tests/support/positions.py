"""Events and their positions: what is wrong with the order, and events to insert."""

from collections import defaultdict
from datetime import UTC, datetime

from bson import ObjectId


def faults(history, entries):
    """Return what is wrong with the order, as sentences; empty if nothing is."""
    found = list(entries.find(sort=[("_id", 1)]))
    wrong = []
    if [entry["_id"] for entry in found] != list(range(1, len(found) + 1)):
        wrong.append("the positions are not 1, 2, 3, …")
    heads = defaultdict(int)
    for entry in found:
        heads[entry["aggregateId"]] += 1
        if entry["aggregateVersion"] != heads[entry["aggregateId"]]:
            wrong.append(f"position {entry['_id']} is out of its stream's order")
    stored = {event["_id"] for event in history.find({}, {"_id": 1})}
    placed = [entry["eventId"] for entry in found]
    if len(placed) != len(set(placed)):
        wrong.append("an event has two positions")
    if missed := stored - set(placed):
        wrong.append(f"{len(missed)} events have no position")
    return wrong


def event(stream, version, **fields):
    """Return an event document, to be inserted past the event store."""
    return {
        "_id": ObjectId(),
        "aggregateId": stream,
        "aggregateType": "Book",
        "aggregateVersion": version,
        "type": "BookLent",
        "payload": {},
        "created": datetime.now(UTC),
        "createdBy": None,
        "metadata": {},
        **fields,
    }


def lose_history(entries):
    """Give the last entry a token from which no change stream can resume."""
    scratch = entries.database["scratch"]
    scratch.insert_one({})
    with scratch.watch() as changes:
        scratch.drop()
        token = [change["_id"] for change in changes][-1]  # of its end
    last = entries.find_one(sort=[("_id", -1)])
    entries.update_one({"_id": last["_id"]}, {"$set": {"token": token}})
