"""Append with tags, under conditions, and decide over tags, against plain PyMongo."""

import threading
import time
from collections import Counter
from itertools import count

import bench
from append import EVENT, MANY, TURNS, collections, document

WRITERS = 20
SECONDS = 10.0  # of the parallel writers, in turns of a quarter of a second
KIND = {"type": EVENT["type"], "payload": EVENT["payload"]}
names = count()


def new_tag(kind="course"):
    return f"{kind}:{next(names)}"


# --- by hand: the least that gives each number in a tag to one event ---------------


def head_of(*streams, tags):
    """Read where streams and tags end, in one round trip."""
    events, _ = collections()
    newest = {"aggregateVersion": 1, "tick": 1}
    sources = [
        [
            {"$match": {"aggregateId": name}},
            {"$sort": {"aggregateVersion": -1}},
            {"$limit": 1},
            {"$project": {"_id": {"$literal": None}, **newest}},
        ]
        for name in streams
    ]
    for tag in tags:
        place = {"$elemMatch": {"t": tag, "n": {"$gt": 0}}}
        sources.append(
            [
                {"$match": {"places": place}},
                {"$limit": 1},
                {"$project": {"_id": {"$literal": tag}, "places": 1, "tick": 1}},
            ]
        )
    first, *others = sources
    unions = [{"$unionWith": {"coll": events.name, "pipeline": p}} for p in others]
    version, tick, numbers = 0, 0, dict.fromkeys(tags, 0)
    for head in events.aggregate([*first, *unions]).to_list():
        tick = max(tick, head.get("tick", 0))
        version = head.get("aggregateVersion", version)
        for place in head.get("places", ()):
            if place["t"] == head["_id"]:
                numbers[place["t"]] = place["n"]
    return version, tick, numbers


def insert(tags, known=None):
    """Insert an event behind the end of its tags; fail if one has grown."""
    version, tick, numbers = head_of(tags[0], tags=tags)
    if known is not None and any(numbers[tag] > n for tag, n in known.items()):
        raise AssertionError("somebody else has appended")
    events, _ = collections()
    made = document(tags[0], version + 1)
    made["aggregateType"] = tags[0].partition(":")[0]
    made |= {
        "tags": tags,
        "places": [{"t": tag, "n": numbers[tag] + 1} for tag in tags],
        "tick": tick + 1,
    }
    events.insert_one(made)
    return made


def shape(tag):
    """Return the events of a tag, without the fields that differ each time."""
    events, _ = collections()
    found = events.find({"tags": tag}).sort("tick", 1).to_list()
    own = ("_id", "aggregateId", "tags", "created")
    shaped = [{k: v for k, v in one.items() if k not in own} for one in found]
    return [{**one, "places": [p["n"] for p in one["places"]]} for one in shaped]


def tagged(options):
    """Append an event with two tags at the end of its stream, whatever that is."""
    from ossy_event_store import EventStore

    def append(tag=None):
        tag = tag or new_tag()
        for _ in range(MANY):
            EventStore.append_event({**KIND, "tags": [tag, new_tag("student")]})

    def by_hand(tag=None):
        tag = tag or new_tag()
        for _ in range(MANY):
            insert([tag, new_tag("student")])

    append("course:store"), by_hand("course:hand")
    assert shape("course:store") == shape("course:hand") != []
    seconds = bench.turns(options.rounds * TURNS, store=append, bare=by_hand)
    return [bench.row("append an event with 2 tags", MANY, seconds, least=0.85)]


def conditional(options):
    """Append an event unless the tag has events that were not known."""
    from ossy_event_store import Condition, EventStore, item

    def append(tag=None):
        tag = tag or new_tag()
        query = item(KIND["type"], tags=[tag])
        token = EventStore.read_boundary(query).token
        EventStore.append_events(
            [{**KIND, "tags": [tag]}], unless=Condition(query, token)
        )

    def by_hand(tag=None):
        tag = tag or new_tag()
        *_, known = head_of(tags=[tag])
        insert([tag], known)

    def repeated(function):
        def again():
            for _ in range(MANY):
                function()

        return again

    append("course:c-store"), by_hand("course:c-hand")
    assert shape("course:c-store") == shape("course:c-hand") != []
    rounds = options.rounds * TURNS
    both = {"store": repeated(append), "bare": repeated(by_hand)}
    seconds = bench.turns(rounds, **both)
    what = "take a token, append an event unless there is more"
    return [bench.row(what, MANY, seconds, least=0.85)]


def execute(options):
    """Read the events of two tags, fold them, decide, and append."""
    from ossy_event_store import Boundary, EventStore, any_of, item

    class Seats(Boundary):
        query = any_of(item(tags=["course:{course}"]), item(tags=["student:{student}"]))
        view = staticmethod(lambda events, saved_state: len(events))

    def append(course=None):
        course = course or f"c{next(names)}"
        for student in range(MANY):
            tags = [f"course:{course}", f"student:{course}-{student}"]

            def decide(loaded, tags=tags):
                return {**KIND, "tags": tags} if loaded.view() < 30 else None

            EventStore.execute(
                Seats(course=course, student=f"{course}-{student}"), decide
            )

    def by_hand(course=None):
        events, _ = collections()
        course = course or f"c{next(names)}"
        for student in range(MANY):
            tags = [f"course:{course}", f"student:{course}-{student}"]
            *_, known = head_of(tags=tags)
            either = [
                {
                    "places": {"$elemMatch": {"t": tag, "n": {"$gt": 0, "$lte": n}}},
                    "tags": tag,
                }
                for tag, n in known.items()
            ]
            found = events.find({"$or": either}).to_list()
            if len(sorted(found, key=lambda one: one["tick"])) < 30:
                insert(tags, known)

    append("store"), by_hand("hand")
    assert shape("course:store") == shape("course:hand") != []
    seconds = bench.turns(options.rounds * TURNS, store=append, bare=by_hand)
    return [bench.row("execute over a boundary of 2 tags", MANY, seconds, least=0.85)]


def parallel(options):
    """Let writers append events of one type, each to tags of its own."""
    from ossy_event_store import EventStore
    from ossy_event_store.streams.boundaries.placing import Placing

    assigned = Counter()
    assign = Placing.assign

    async def counted(self, store):
        assigned["attempts"] += 1
        await assign(self, store)

    def append(number):
        EventStore.append_event({**KIND, "tags": [new_tag()]})

    def append_plain(number):
        stream = {"aggregateId": new_tag(), "aggregateType": "course"}
        EventStore.append_event({**KIND, **stream})

    def rate(function):
        def measured():
            done, end = Counter(), time.monotonic() + 0.25

            def write(number):
                while time.monotonic() < end:
                    function(number)
                    done[number] += 1

            threads = [
                threading.Thread(target=write, args=[number])
                for number in range(WRITERS)
            ]
            began = time.perf_counter()
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            total = sum(done.values())
            assigned["events"] += total if function is append else 0
            return (time.perf_counter() - began) / total

        return measured

    append(0), append_plain(0)
    Placing.assign = counted
    try:
        rounds = round(SECONDS / 0.25)
        seconds = bench.turns(rounds, store=rate(append), bare=rate(append_plain))
    finally:
        Placing.assign = assign
    what = f"{WRITERS} writers, an event with a tag of its own, against no tag"
    retries = assigned["attempts"] - assigned["events"]
    return [
        bench.row(what, 1, seconds, least=0.75),
        bench.figure("retries of these writers", retries, "", most=0),
    ]
