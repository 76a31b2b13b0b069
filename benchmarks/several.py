"""Several streams at once against hand-written PyMongo."""

import bench
from append import EVENT, MANY, TURNS, collections, document, new_id, shape
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

CONCERNS = {
    "read_concern": ReadConcern("snapshot"),
    "write_concern": WriteConcern("majority"),
}


def block(options):
    """Load two streams and append to both, in one transaction."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate, EventStore

    events, snapshots = collections()
    client = events.database.client

    def pair(name):
        names = [f"{name or new_id()}-{side}" for side in "ab"]
        events.insert_many([document(one, 1) for one in names])
        return names

    def by_store(name=None):
        names = pair(name)
        for _ in range(many):
            with EventStore.transaction() as t:
                for one in names:
                    Aggregate.of(Root, one, session=t.session).add(EVENT)

    def by_hand(name=None):
        names = pair(name)
        for _ in range(many):
            with client.start_session() as own, own.start_transaction(**CONCERNS):
                new = [document(one, load(one, own) + 1) for one in names]
                events.insert_many(new, session=own)

    def load(name, own):
        snapshots.find_one({"_id": name}, session=own)
        found = events.find({"aggregateId": name}, session=own)
        return found.sort("aggregateVersion", 1).to_list()[-1]["aggregateVersion"]

    many = 2
    by_store("two by store"), by_hand("two by hand")
    for side in "ab":
        assert shape(f"two by store-{side}") == shape(f"two by hand-{side}") != []
    many = MANY // 4
    seconds = bench.turns(options.rounds * TURNS, store=by_store, bare=by_hand)
    what = "transaction: load two streams, append to both"
    return [bench.row(what, many, seconds, least=0.85)]


def call(options):
    """Append to two streams, if they and a third one are where they were."""
    from ossy_event_store import EventStore

    events, _ = collections()
    client = events.database.client
    event = {**EVENT, "aggregateType": "LoanApplication"}

    def trio(name):
        names = [f"{name or new_id()}-{side}" for side in "abc"]
        events.insert_many([document(one, 1) for one in names])
        return names

    def by_store(name=None):
        a, b, c = trio(name)
        for version in range(1, many + 1):
            EventStore.append_streams(
                {a: [event], b: [event]},
                expected={a: version, b: version},
                unchanged={c: 1},
            )

    def by_hand(name=None):
        names = trio(name)
        for version in range(1, many + 1):
            with client.start_session() as own, own.start_transaction(**CONCERNS):
                append(names, version, own)

    def append(names, version, own):
        (found,) = events.aggregate(heads(names), session=own)
        ends = [found[f"e{n}"][0]["aggregateVersion"] for n in range(3)]
        assert ends == [version, version, 1]
        new = [document(one, version + 1) for one in names[:2]]
        new[-1]["places"] = [
            {"t": f"stream:{one}", "n": number(found[f"g{n}"], f"stream:{one}") + 1}
            for n, one in enumerate(names)
        ]
        events.insert_many(new, session=own)

    def number(guards, name):
        places = guards[0]["places"] if guards else []
        return next((place["n"] for place in places if place["t"] == name), 0)

    def heads(names):
        stages = [{"$limit": 1}, {"$project": {"_id": 1}}]
        for n, name in enumerate(names):
            end = [{"$match": {"aggregateId": name}}]
            end += [{"$sort": {"aggregateVersion": -1}}, {"$limit": 1}]
            end += [{"$project": {"aggregateVersion": 1}}]
            place = {"$elemMatch": {"t": f"stream:{name}", "n": {"$gt": 0}}}
            guard = [{"$match": {"places": place}}, {"$limit": 1}]
            guard += [{"$project": {"places": 1}}]
            for field, pipeline in ((f"e{n}", end), (f"g{n}", guard)):
                lookup = {"from": events.name, "pipeline": pipeline, "as": field}
                stages.append({"$lookup": lookup})
        return stages

    def versions(name):
        return [
            (event["aggregateVersion"], len(event.get("places", ())))
            for side in "abc"
            for event in shape(f"{name}-{side}")
        ]

    many = 2
    by_store("call by store"), by_hand("call by hand")
    assert versions("call by store") == versions("call by hand") != []
    many = MANY // 4
    seconds = bench.turns(options.rounds * TURNS, store=by_store, bare=by_hand)
    what = "append to two streams, a third one unchanged"
    return [bench.row(what, many, seconds, least=0.85)]
