"""Append, load, and load-add-save against the same operations by hand."""

import datetime as dt
from itertools import count

import bench
from bson import ObjectId

MANY = 300


def main():
    options = bench.arguments(__doc__)
    database = bench.set_up()
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate, EventStore
    from ossy_event_store.folding import revision_of

    events, snapshots = EventStore.collection, Aggregate.collection
    event = {
        "type": "A_SUBMITTED",
        "payload": {"amountRequested": 9000, "note": "x" * 99},
    }
    names = count()

    def document(aggregate_id, version):
        return {
            "_id": ObjectId(),
            "aggregateId": aggregate_id,
            "aggregateType": Root.aggregate_type,
            "aggregateVersion": version,
            "type": event["type"],
            "payload": event["payload"],
            "created": dt.datetime.now(dt.UTC),
            "createdBy": None,
            "metadata": {},
        }

    def append():
        aggregate = Aggregate(Root, f"a-{next(names)}", [])
        for _ in range(MANY):
            aggregate.add(event)

    def insert():
        aggregate_id = f"a-{next(names)}"
        for version in range(1, MANY + 1):
            events.insert_one(document(aggregate_id, version))

    Aggregate(Root, "ten", []).add(*[event] * 10)

    def load():
        for _ in range(MANY):
            assert Aggregate.of(Root, "ten").view()["amount"] == 9000

    def find():
        for _ in range(MANY):
            snapshots.find_one({"_id": "ten"})
            found = events.find({"aggregateId": "ten"}).sort("aggregateVersion", 1)
            assert Root.view(list(found), {})["amount"] == 9000

    def load_add_save():
        aggregate = Aggregate(Root, f"s-{next(names)}", []).add(event)
        for _ in range(MANY // 3):
            Aggregate.of(Root, aggregate.id).add(event).save()

    def four_by_hand():
        name = f"s-{next(names)}"
        events.insert_one(document(name, 1))
        for _ in range(MANY // 3):
            saved = snapshots.find_one({"_id": name}) or {"aggregateVersion": 0}
            found = list(
                events.find(
                    {
                        "aggregateId": name,
                        "aggregateVersion": {"$gte": saved["aggregateVersion"]},
                    }
                ).sort("aggregateVersion", 1)
            )
            new = document(name, found[-1]["aggregateVersion"] + 1)
            events.insert_one(new)
            rest = [
                e for e in found if e["aggregateVersion"] > saved["aggregateVersion"]
            ]
            version = new["aggregateVersion"]
            snapshots.replace_one(
                {"_id": name, "aggregateVersion": {"$lt": version}},
                {
                    "_id": name,
                    "aggregateType": Root.aggregate_type,
                    "aggregateVersion": version,
                    "revision": revision_of(Root),
                    "state": Root.view([*rest, new], saved.get("state", {})),
                    "saved": new["created"],
                },
                upsert=True,
            )

    append(), insert(), load(), find()
    one = bench.turns(options.rounds, store=append, bare=insert)
    ten = bench.turns(options.rounds, store=load, bare=find)
    all_four = bench.turns(options.rounds, store=load_add_save, bare=four_by_hand)
    bench.tell(
        [
            bench.row("append one event, version known", MANY, one),
            bench.row("load and fold a stream of 10 events", MANY, ten),
            bench.row("load, add, save", MANY // 3, all_four),
        ],
        [],
        options.json,
    )
    database.client.drop_database(database.name)


if __name__ == "__main__":
    main()
