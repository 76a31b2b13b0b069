"""
What a query reads, through both faces: one store, and a table of questions.

The cases are those that RailsEventStore asks of every repository, as far as they apply
here, in our words. An event is called by its stream and version.
"""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from bson import ObjectId

from ossy_event_store import EventQuery, EventStore, IndexMissing, InvalidQuery
from ossy_event_store.event_store.query import rows
from ossy_event_store.exceptions import PositionsBroken

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
TOKYO = timezone(timedelta(hours=9))
# Stream and version, type, createdBy, tags; in order of position, a minute between two.
EVENTS = [
    ("a1", "Bought", "ann", ["red"]),
    ("b1", "Bought", "bob", None),
    ("a2", "Lent", "ann", ["red", "blue"]),
    ("a3", "Returned", "bob", ["blue"]),
    ("b2", "Lent", None, None),
    ("a4", "Lent", "bob", ["red"]),
    ("c1", "Joined", "ann", None),
    ("a5", "Returned", "ann", None),
    ("b3", "Returned", "bob", ["blue"]),
    ("c2", "Left", None, None),
]
ALL = [name for name, *_ in EVENTS]
IDS = {name: f"id-{name}" if n % 2 else ObjectId() for n, name in enumerate(ALL)}


def at(minute):
    return BEGIN + timedelta(minutes=minute)


@pytest.fixture
def entries(store, _unbound):
    return _unbound(store.positions)


@pytest.fixture
def ten(history, entries):
    """Ten events of three streams, each with its position."""
    events, placed = [], []
    for number, (name, kind, who, tags) in enumerate(EVENTS):
        event = {
            "_id": IDS[name],
            "aggregateId": name[0],
            "aggregateType": "Reader" if name[0] == "c" else "Book",
            "aggregateVersion": int(name[1]),
            "type": kind,
            "payload": {"n": number, "raw": bytes(range(256))},
            "created": at(number),
            "createdBy": who,
            "metadata": {"correlationId": f"c-{number // 4}"},
        }
        if number:
            event["metadata"]["causationId"] = str(IDS[ALL[number // 2]])
        if tags:
            event["tags"] = tags
        fields = ("aggregateId", "aggregateVersion", "aggregateType", "type", "tags")
        entry = {key: event[key] for key in fields if key in event}
        placed.append({"_id": number + 1, "eventId": event["_id"], **entry})
        events.append(event)
    history.insert_many(events)
    entries.insert_many(placed)
    return events


def listed(face, query):
    """Iterate over a query through a face."""
    if face.runner is None:
        return list(query)

    async def items():
        return [one async for one in query]

    return face.run(items())


def name_of(event):
    return event and f"{event['aggregateId']}{event['aggregateVersion']}"


def names(events):
    return [name_of(event) for event in events]


def q():
    return EventStore.query()


READS = {
    # what: (query, names in order)
    "all events in order of position": (q(), ALL),
    "all events backwards": (q().reverse(), ALL[::-1]),
    "backwards twice is forwards": (q().reverse().reverse(), ALL),
    "a stream in order of version": (q().stream("a"), "a1 a2 a3 a4 a5"),
    "a stream backwards": (q().stream("a").reverse(), "a5 a4 a3 a2 a1"),
    "nothing of a stream that does not exist": (q().stream("z"), ""),
    "a stream after a version": (q().stream("a").after_version(3), "a4 a5"),
    "a stream after version 0": (q().stream("b").after_version(0), "b1 b2 b3"),
    "a stream after its last version": (q().stream("a").after_version(5), ""),
    "a stream after a version, backwards": (
        q().stream("a").after_version(2).reverse(),
        "a5 a4 a3",
    ),
    "some streams in order of position": (
        q().streams("a", "c"),
        "a1 a2 a3 a4 c1 a5 c2",
    ),
    "some streams backwards": (
        q().streams("a", "c").reverse(),
        "c2 a5 c1 a4 a3 a2 a1",
    ),
    "some streams, one of which does not exist": (q().streams("b", "z"), "b1 b2 b3"),
    "one stream named twice": (q().streams("b", "b"), "b1 b2 b3"),
    "after a position": (q().after(7), "a5 b3 c2"),
    "after position 0": (q().after(0), ALL),
    "after the last position": (q().after(10), ""),
    "up to a position": (q().until_position(3), "a1 b1 a2"),
    "between two positions": (q().after(2).until_position(5), "a2 a3 b2"),
    "between two positions backwards": (
        q().after(2).until_position(5).reverse(),
        "b2 a3 a2",
    ),
    "a stream after a position": (q().stream("a").after(3), "a3 a4 a5"),
    "a stream up to a position": (q().stream("a").until_position(6), "a1 a2 a3 a4"),
    "a stream between positions, backwards": (
        q().stream("a").after(1).until_position(6).reverse(),
        "a4 a3 a2",
    ),
    "some streams after a position": (q().streams("a", "b").after(8), "b3"),
    "a stream before its first position": (q().stream("c").until_position(6), ""),
    "the first few": (q()[:3], "a1 b1 a2"),
    "the last few": (q().reverse()[:2], "c2 b3"),
    "none": (q()[:0], ""),
    "more than there are": (q()[:100], ALL),
    "some in the middle": (q()[2:5], "a2 a3 b2"),
    "a slice of a slice": (q()[2:8][1:3], "a3 b2"),
    "a slice that ends where its slice ends": (q()[2:4][1:9], "a3"),
    "all but the first": (q()[8:], "b3 c2"),
    "the first few of a stream": (q().stream("a")[:2], "a1 a2"),
    "the first few of a stream after a version": (
        q().stream("a").after_version(1)[:2],
        "a2 a3",
    ),
    "the last few of a stream": (q().stream("b").reverse()[:2], "b3 b2"),
    "events of a type": (q().types("Lent"), "a2 b2 a4"),
    "events of some types": (q().types("Joined", "Lent"), "a2 b2 a4 c1"),
    "events of a type backwards": (q().types("Returned").reverse(), "b3 a5 a3"),
    "events of a type that none has": (q().types("Lost"), ""),
    "events of a type in a stream": (q().stream("a").types("Returned"), "a3 a5"),
    "events of a type after a position": (q().types("Lent").after(3), "b2 a4"),
    "events of an aggregate type": (q().aggregate_types("Reader"), "c1 c2"),
    "events of some aggregate types": (q().aggregate_types("Reader", "Book"), ALL),
    "events of a type and an aggregate type": (
        q().types("Bought", "Left").aggregate_types("Book"),
        "a1 b1",
    ),
    "events by their ids": (q().ids(IDS["b1"], IDS["a1"]), "a1 b1"),
    "events by ids as text": (q().ids(*map(str, IDS.values())), ALL),
    "an event by an id that none has": (q().ids("nobody"), ""),
    "an event by its id in another stream": (q().stream("b").ids(IDS["a1"]), ""),
    "events by ids backwards": (q().ids(IDS["b1"], IDS["a1"]).reverse(), "b1 a1"),
    "events since a time": (q().since(at(8)), "b3 c2"),
    "events until a time": (q().until(at(2)), "a1 b1"),
    "events between two times": (q().between(at(2), at(4)), "a2 a3"),
    "events between a time and itself": (q().between(at(2), at(2)), ""),
    "events since a time backwards": (q().since(at(8)).reverse(), "c2 b3"),
    "a stream since a time": (q().stream("a").since(at(4)), "a4 a5"),
    "events of a type until a time": (q().types("Lent").until(at(5)), "a2 b2"),
    "a time in another zone": (
        q().since(at(8).astimezone(TOKYO)),
        "b3 c2",
    ),
    "events by a person": (q().by("ann"), "a1 a2 c1 a5"),
    "events by a person since a time": (q().by("ann").since(at(3)), "c1 a5"),
    "events of a correlation": (q().correlation("c-1"), "b2 a4 c1 a5"),
    "events that an event caused": (q().caused_by(IDS["b1"]), "a2 a3"),
    "events with a tag": (q().tags("red"), "a1 a2 a4"),
    "events with all of some tags": (q().tags("red", "blue"), "a2"),
    "events with any of some tags": (q().tags(any=["red", "blue"]), "a1 a2 a3 a4 b3"),
    "events with a tag, and one of others": (q().tags("blue", any=["red"]), "a2"),
    "events with a tag in order of time": (
        q().tags("blue").order("created"),
        "a2 a3 b3",
    ),
    "events that match a filter in a stream": (
        q().stream("a").match({"payload.n": {"$gte": 3}}),
        "a3 a4 a5",
    ),
    "events that match a filter, scanned": (q().match({"payload.n": 7}).scan(), "a5"),
    "streams in order of time, scanned": (
        q().streams("a", "c").order("created").scan(),
        "a1 a2 a3 a4 c1 a5 c2",
    ),
    "what no index finds by position, scanned": (
        q().by("ann").order("position").scan(),
        "a1 a2 c1 a5",
    ),
    "all events in order of time": (q().order("created"), ALL),
    "all events in order of time, backwards": (
        q().order("created").reverse(),
        ALL[::-1],
    ),
}


def expected(text):
    return text.split() if isinstance(text, str) else text


@pytest.mark.parametrize(("query", "text"), READS.values(), ids=READS)
def test_a_query_reads(face, ten, query, text):
    found = listed(face, query)
    assert names(found) == expected(text)
    first, last = face(query.first), face(query.last)
    assert [name_of(first), name_of(last)] == [
        *(expected(text)[:1] or [None]),
        *(expected(text)[-1:] or [None]),
    ]
    assert face(query.count) == len(found)
    assert face(query.exists) == bool(found)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    "query",
    [
        q(),
        q().reverse(),
        q().stream("a").reverse(),
        q().streams("a", "b"),
        q().streams("c", "a").reverse(),
        q().order("created"),
        q().by("bob").reverse(),
        q().types("Lent", "Returned").order("created"),
        q().tags("red").order("created").reverse(),
        q().ids(*IDS.values()),
        q().stream("a").types("Lent"),
    ],
    ids=lambda query: "" if isinstance(query, EventQuery) else None,
)
def test_batches_and_pages_hold_each_event_once(face, ten, query, size):
    found = listed(face, query)
    batches = face.list(query.in_batches, size)
    assert [event for batch in batches for event in batch] == found
    assert {len(batch) for batch in batches[:-1]} <= {size}
    pages, cursor = [], None
    while not pages or cursor:
        page = face(query.page, size, cursor)
        pages, cursor = [*pages, page.events], page.cursor
    assert pages == batches


def test_events_are_those_of_the_other_reads(face, ten):
    in_order = face.list(EventStore.read_all)
    assert listed(face, q()) == in_order
    stream = EventStore.get_event_stream("a")
    assert listed(face, q().stream("a")) == stream
    assert face(q().ids(IDS["a1"]).first) == stream[0]


def test_an_index_reads_one_event(ten):
    assert name_of(q()[3]) == "a3"
    assert name_of(q().stream("b").reverse()[0]) == "b3"
    with pytest.raises(IndexError, match=r"^index is 10"):
        _ = q()[10]


def test_an_empty_store_has_nothing(face, store):
    for query in (q(), q().order("created"), q().stream("a"), q().streams("a", "b")):
        assert listed(face, query) == []
        assert face(query.count) == 0
        assert face(query.page, 5).cursor is None


def test_an_event_of_the_node_package_is_in_order_of_time(face, ten, history):
    history.update_one({"_id": IDS["a3"]}, {"$set": {"created": 1767225780000}})
    query = q().order("created")
    assert names(listed(face, query)) == ALL
    assert names(listed(face, query.reverse())) == ALL[::-1]
    assert names(listed(face, q().between(at(2), at(5)))) == ["a2", "a3", "b2"]
    pages = [face(query.page, 3)]
    while pages[-1].cursor:
        pages.append(face(query.page, 3, pages[-1].cursor))
    assert names(one for page in pages for one in page.events) == ALL


def test_documents_of_another_program_are_no_events(face, ten, history):
    history.insert_one({"aggregateId": "a", "aggregateVersion": 6, "created": at(20)})
    for query in (q().stream("a"), q().order("created"), q().since(at(0))):
        found = listed(face, query)
        assert len(found) == face(query.count) == len([e for e in found if e["type"]])


def test_a_lost_event_is_reported_and_an_accepted_loss_passed_over(
    face, ten, history, entries
):
    history.delete_one({"_id": IDS["b2"]})
    for query in (q(), q().types("Lent"), q().streams("a", "b")):
        with pytest.raises(PositionsBroken):
            listed(face, query)
    entries.update_one({"_id": 5}, {"$set": {"lost": 2, "aggregateVersion": -5}})
    assert names(listed(face, q())) == [name for name in ALL if name != "b2"]
    assert face(q().count) == 9
    assert names(listed(face, q().streams("b", "c"))) == ["b1", "c1", "b3", "c2"]


def test_large_events_are_read_in_small_pages(face, history, entries):
    large = [("big", n, {"payload": {"text": "x" * 1_500_000}}) for n in range(1, 9)]
    events = [
        {
            "_id": f"{stream}-{n}",
            "aggregateId": stream,
            "aggregateVersion": n,
            "aggregateType": "Book",
            "type": "Lent",
            "created": at(n),
            **more,
        }
        for stream, n, more in large
    ]
    history.insert_many(events)
    fields = ("aggregateId", "aggregateVersion", "aggregateType", "type")
    entries.insert_many(
        {"_id": n, "eventId": one["_id"], **{key: one[key] for key in fields}}
        for n, one in enumerate(events, 1)
    )
    for query in (q(), q().stream("big"), q().order("created").reverse()):
        found = [one["_id"] for one in listed(face, query)]
        assert sorted(found) == [f"big-{n}" for n in range(1, 9)]


def test_a_missing_index_is_named(face, ten, history):
    keys = [("createdBy", 1), ("created", 1), ("_id", 1)]
    options = history.index_information()["createdBy_1_created_1__id_1"]
    history.drop_index("createdBy_1_created_1__id_1")
    try:
        with pytest.raises(IndexMissing, match=r"no index createdBy_1_created_1__id_1"):
            listed(face, q().by("ann"))
    finally:
        partial = options["partialFilterExpression"]
        history.create_index(keys, partialFilterExpression=partial)


# --- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: q().after_version(3), r"needs one stream\(\)"),
        (lambda: q().streams("a", "b").after_version(3), r"needs one stream\(\)"),
        (lambda: q().order("version"), r"needs one stream\(\)"),
        (lambda: q().order("created").after(3), r"cannot be combined with after\(\)"),
        (lambda: q().after(3).order("created"), r"cannot be combined with after\(\)"),
        (lambda: q().stream("a").order("version").until_position(3), r"combined"),
        (lambda: q().order("random"), r"must be one of 'version', 'position'"),
        (lambda: q().order("created").order("position"), r"is already 'created'"),
        (lambda: q().types("A").types("B"), r"types\(\) was given before"),
        (lambda: q().stream("a").streams("b"), r"streams\(\) was given before"),
        (lambda: q().types(), r"types: is empty"),
        (lambda: q().tags(any=[]), r"any: is empty"),
        (lambda: q().types(*map(str, range(33))), r"has 33; at most 32"),
        (lambda: q().ids(*map(str, range(51))), r"has 51; at most 50"),
        (lambda: q().between(at(2), at(1)), r"first moment is after the last"),
        (lambda: q().after(4).until_position(3), r"first position is after the last"),
        (lambda: q()[:5].types("A"), r"comes before a slice"),
        (lambda: q()[5:].reverse(), r"comes before a slice"),
        (lambda: q()[:5].page(5), r"comes before a slice"),
        (lambda: q()[::2], r"no step"),
        (lambda: q()[101:105], r"101 events would be read and left out; use page"),
        (lambda: q().page(1001), r"size: is 1001"),
        (lambda: q().match({"$where": "1"}), r"must not run code"),
        (lambda: q().match({"a": 1}).explain(), r"\{a: 1, created: 1\} would help"),
        (lambda: q().stream("a").order("created").first(), r"'version'.* has an index"),
        (lambda: q().by("a").order("position").count(), r"\{createdBy: 1, _id: 1\}"),
        (lambda: q().page(5, "x:y"), r"is not a cursor"),
    ],
)
def test_a_wrong_query_is_refused_at_once(build, text):
    with pytest.raises(InvalidQuery, match=text):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: q().types(int),
        lambda: q().types(["A"]),
        lambda: q().stream({"$ne": ""}),
        lambda: q().tags(any="red"),
        lambda: q().since("today"),
        lambda: q().page(5, b"x"),
        lambda: q()["a"],
    ],
)
def test_a_wrong_type_is_a_type_error(build):
    with pytest.raises(TypeError):
        build()


def test_a_cursor_of_another_order_or_a_changed_one_is_refused(ten):
    cursor = q().page(3).cursor
    assert names(q().types("Lent").page(3, cursor).events) == ["b2", "a4"]
    for query in (q().reverse(), q().order("created"), q().streams("a", "b")):
        with pytest.raises(InvalidQuery, match=r"^cursor: "):
            query.page(3, cursor)
    with pytest.raises(InvalidQuery, match=r"^cursor: "):
        q().page(3, "A" + cursor)


def test_without_the_admins_indexes_a_query_names_the_one_it_needs(settings):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "ADMIN_INDEXES": False}
    with pytest.raises(InvalidQuery, match=r"createdBy_1_created_1__id_1 would, and"):
        q().by("ann").explain()
    assert q().types("Lent").explain()["index"] == "type_1__id_1"


def test_a_filter_that_finds_too_little_is_refused_unless_it_may_scan(
    face, store, history
):
    history.insert_many(
        {
            "_id": f"e-{n}",
            "aggregateId": "a",
            "aggregateVersion": n,
            "aggregateType": "Book",
            "type": "Rare" if n == 390 else "Usual",
            "created": at(n),
        }
        for n in range(1, 401)
    )
    query = q().stream("a").types("Rare")
    with pytest.raises(InvalidQuery, match=r"no index finds types as well.*scan\(\)"):
        listed(face, query)
    assert names(listed(face, query.reverse()[:1])) == ["a390"]
    assert names(listed(face, query.scan())) == ["a390"]


def test_a_query_is_built_without_a_connection_and_never_changes(monkeypatch):
    monkeypatch.setattr(rows.Part, "fill", None)
    query = q()
    query.stream("a").reverse()
    assert query == q()
    assert isinstance(query, EventQuery)
    with pytest.raises(AttributeError):
        query.order = "created"
    assert query.stream("a").types("Lent").explain() == {
        "order": "version",
        "reverse": False,
        "collection": "eventstore",
        "index": "aggregateId_1_aggregateVersion_1",
        "searches": 1,
        "filters": ["types"],
        "scan": False,
    }
