"""Append, load, and load-add-save against hand-written PyMongo."""

import datetime as dt
from itertools import count

import bench
from bson import ObjectId

MANY = 20  # operations a turn
TURNS = 12  # turns a round: many short ones, so that noise affects both alike
LONG = 10_000  # events of the long stream
EVENT = {
    "type": "A_SUBMITTED",
    "payload": {"amountRequested": 9000, "note": "x" * 99},
}
names = count()


def new_id():
    return f"a-{next(names)}"


def document(aggregate_id, version):
    """Return an event document that equals the store's."""
    return {
        "_id": ObjectId(),
        "aggregateId": aggregate_id,
        "aggregateType": "LoanApplication",
        "aggregateVersion": version,
        "type": EVENT["type"],
        "payload": EVENT["payload"],
        "created": dt.datetime.now(dt.UTC),
        "createdBy": None,
        "metadata": {},
    }


def collections():
    from ossy_event_store import Aggregate, EventStore

    return EventStore.collection, Aggregate.collection


def shape(aggregate_id):
    """Return the events of a stream, without the fields that differ each time."""
    events, _ = collections()
    found = events.find({"aggregateId": aggregate_id}).sort("aggregateVersion", 1)
    own = ("_id", "aggregateId", "created")
    return [{k: v for k, v in event.items() if k not in own} for event in found]


def one(options):
    """Append to a stream whose version is known."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate

    events, _ = collections()

    def append(name=None):
        aggregate = Aggregate(Root, name or new_id(), [])
        for _ in range(MANY):
            aggregate.add(EVENT)

    def insert(name=None):
        aggregate_id = name or new_id()
        for version in range(1, MANY + 1):
            events.insert_one(document(aggregate_id, version))

    append("by store"), insert("by hand")
    assert shape("by store") == shape("by hand") != []
    seconds = bench.turns(options.rounds * TURNS, store=append, bare=insert)
    return [bench.row("append one event, version known", MANY, seconds, least=0.9)]


def ten(options):
    """Append ten events in one transaction."""
    from loans.aggregate import LoanApplication as Root
    from pymongo.read_concern import ReadConcern
    from pymongo.write_concern import WriteConcern

    from ossy_event_store import Aggregate

    events, _ = collections()
    client = events.database.client
    concerns = {
        "read_concern": ReadConcern("snapshot"),
        "write_concern": WriteConcern("majority"),
    }
    many = MANY // 4

    def append(name=None):
        for _ in range(many):
            Aggregate(Root, name or new_id(), []).add(*[EVENT] * 10)

    def insert(name=None):
        for _ in range(many):
            aggregate_id = name or new_id()
            some = [document(aggregate_id, version) for version in range(1, 11)]
            with client.start_session() as own, own.start_transaction(**concerns):
                events.insert_many(some, session=own)

    many = 1
    append("ten by store"), insert("ten by hand")
    assert shape("ten by store") == shape("ten by hand") != []
    many = MANY // 4
    seconds = bench.turns(options.rounds * TURNS, store=append, bare=insert)
    return [bench.row("append 10 events at once", many, seconds, least=0.9)]


def load(options):
    """Load and fold a stream of ten events, with and without looking for a snapshot."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate

    events, snapshots = collections()
    name = new_id()
    Aggregate(Root, name, []).add(*[EVENT] * 10)

    def fold():
        found = events.find({"aggregateId": name}).sort("aggregateVersion", 1)
        return Root.view(found.to_list(), {})

    def find():
        for _ in range(MANY):
            snapshots.find_one({"_id": name})
            fold()

    def find_events():
        for _ in range(MANY):
            fold()

    def by_store():
        for _ in range(MANY):
            Aggregate.of(Root, name).view()

    def by_store_alone():
        for _ in range(MANY):
            Aggregate.of(Root, name, snapshot=False).view()

    assert Aggregate.of(Root, name).view() == fold()
    rounds = options.rounds * TURNS
    looked = bench.turns(rounds, store=by_store, bare=find)
    alone = bench.turns(rounds, store=by_store_alone, bare=find_events)
    what = "load and fold a stream of 10 events"
    return [
        bench.row(what, MANY, looked, least=0.85),
        bench.row(f"{what}, snapshot=False", MANY, alone, least=0.85),
    ]


def all_four(options):
    """Load, add and save, against the four operations of hand-written PyMongo."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate
    from ossy_event_store.streams.reducers import revision_of

    events, snapshots = collections()
    many = MANY // 2

    def by_store(name=None):
        aggregate = Aggregate(Root, name or new_id(), []).add(EVENT)
        for _ in range(many):
            Aggregate.of(Root, aggregate.id).add(EVENT).save()

    def by_hand(name=None):
        name = name or new_id()
        events.insert_one(document(name, 1))
        for _ in range(many):
            four(name)

    def four(name):
        saved = snapshots.find_one({"_id": name}) or {"aggregateVersion": 0}
        since = saved["aggregateVersion"]
        found = (
            events.find({"aggregateId": name, "aggregateVersion": {"$gte": since}})
            .sort("aggregateVersion", 1)
            .to_list()
        )
        new = document(name, found[-1]["aggregateVersion"] + 1)
        events.insert_one(new)
        rest = [event for event in found if event["aggregateVersion"] > since]
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

    by_store("four by store"), by_hand("four by hand")
    kept = [snapshots.find_one({"_id": f"four by {who}"}) for who in ("store", "hand")]
    for snapshot in kept:
        del snapshot["_id"], snapshot["saved"], snapshot["state"]["id"]
        del snapshot["state"]["submitted"]
    assert kept[0] == kept[1]
    seconds = bench.turns(options.rounds * TURNS, store=by_store, bare=by_hand)
    return [bench.row("load, add, save", many, seconds, least=0.85)]


def long(options):
    """Load a stream of 10,000 events, with a snapshot at its head and without."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate

    events, snapshots = collections()
    name = new_id()
    events.insert_many([document(name, version) for version in range(1, LONG + 1)])

    def fold():
        found = events.find({"aggregateId": name}, batch_size=LONG)
        return Root.view(found.sort("aggregateVersion", 1).to_list(), {})

    def by_store():
        return Aggregate.of(Root, name, snapshot=False).view()

    assert by_store() == fold()
    whole = bench.turns(options.rounds * 2, store=by_store, bare=fold)
    Aggregate.of(Root, name).save()
    assert snapshots.find_one({"_id": name})["aggregateVersion"] == LONG

    def from_snapshot():
        for _ in range(MANY):
            Aggregate.of(Root, name).view()

    def find_one():
        for _ in range(MANY):
            snapshots.find_one({"_id": name})

    assert Aggregate.of(Root, name).view() == fold()
    rounds = options.rounds * TURNS
    short = bench.turns(rounds, store=from_snapshot, bare=find_one)
    what = f"load a stream of {LONG:,} events"
    return [
        bench.row(f"{what}, snapshot at its head", MANY, short, most=2),
        bench.row(f"{what}, no snapshot: events", LONG, whole, least=0.85),
    ]
