"""Traces, causes and effects as they are read: the same from every end, bounded."""

import pytest
from bson import ObjectId

from ossy_event_store import EventNotFound, EventStore, IndexMissing, event_context
from ossy_event_store.mongodb.indexes import CAUSATION, CORRELATION
from ossy_event_store.streams.context import traces


def caused(cause=None, **fields):
    """Append an event as a handler of its cause does, or without a context."""
    event = {"aggregateId": "s", "aggregateType": "Reader", "type": "T", **fields}
    if cause is None:
        return EventStore.append_event(event)
    with event_context.of(cause):
        return EventStore.append_event(event)


def ids(trace):
    return [(depth, node.event["_id"]) for depth, node in trace.walk()]


@pytest.fixture
def family(store):
    """A first event without a correlation, and those that followed from it."""
    first = caused()
    child, other = caused(first), caused(first)
    grandchild = caused(child)
    return first, child, other, grandchild


def test_a_tree_is_the_same_from_every_end(family, face):
    first, child, other, grandchild = family
    expected = [(1, first["_id"]), (2, child["_id"]), (3, grandchild["_id"])]
    expected.append((2, other["_id"]))
    whole = face(EventStore.trace, grandchild["metadata"]["correlationId"])
    assert ids(whole) == ids(face(EventStore.effects, first["_id"])) == expected
    assert ids(face(EventStore.effects, str(child["_id"]))) == [
        *((1, child["_id"]), (2, grandchild["_id"])),
    ]
    chain = face(EventStore.causes, grandchild["_id"])
    assert [event["_id"] for event in chain.events] == [child["_id"], first["_id"]]
    assert (chain.is_cut, chain.missing, chain.is_circular) == (False, None, False)
    assert all("payload" not in node.event for _, node in whole.walk())


def test_effects_of_another_correlation_are_found(family):
    first, *_ = family
    with event_context.of(first), event_context(correlationId="other"):
        apart = caused()
    after = caused(apart)
    found = ids(EventStore.effects(first["_id"]))
    assert len(found) == 6
    assert found[-2:] == [(2, apart["_id"]), (3, after["_id"])]
    assert ids(EventStore.trace("other")) == [(1, apart["_id"]), (2, after["_id"])]
    assert EventStore.trace("other").roots[0].lacks_cause


def test_effects_lead_through_another_correlation_and_back(family):
    first, *_ = family
    with event_context(correlationId="other", causationId=str(first["_id"])):
        apart = caused()
    with event_context(correlationId=str(first["_id"]), causationId=str(apart["_id"])):
        back = caused()
    found = ids(EventStore.effects(first["_id"]))
    assert found[-2:] == [(2, apart["_id"]), (3, back["_id"])]


def test_a_cut_is_marked(family, face):
    first, child, _, grandchild = family
    correlation = child["metadata"]["correlationId"]
    for limit in (1, 2, 3):
        for trace in (
            face(EventStore.trace, correlation, limit=limit),
            face(EventStore.effects, first["_id"], limit=limit),
        ):
            assert (trace.count, trace.is_cut) == (limit, True)
    assert not face(EventStore.trace, correlation, limit=4).is_cut
    assert not face(EventStore.effects, first["_id"], limit=4).is_cut
    chain = face(EventStore.causes, grandchild["_id"], limit=1)
    assert (len(chain.events), chain.is_cut) == (1, True)


def test_too_many_bytes_are_cut(family, monkeypatch):
    monkeypatch.setattr(traces, "MOST_BYTES", 1)
    monkeypatch.setattr(traces, "BATCH_EVENTS", 1)
    trace = EventStore.trace(family[1]["metadata"]["correlationId"])
    assert trace.is_cut
    assert trace.count == 2


def test_circles_and_missing_causes_end(store):
    for own, cause in (("a", "b"), ("b", "a"), ("self", "self"), ("late", "gone")):
        caused(id=own, metadata={"causationId": cause, "correlationId": "c"})
    assert ids(EventStore.effects("b")) == [(1, "b"), (2, "a")]
    assert ids(EventStore.effects("self")) == [(1, "self")]
    assert EventStore.causes("a").is_circular
    assert [event["_id"] for event in EventStore.causes("a").events] == ["b"]
    assert EventStore.causes("self").is_circular
    assert EventStore.causes("late").missing == "gone"
    assert EventStore.trace("c").count == 4


def test_what_does_not_exist_is_not_found(store, face):
    assert face(EventStore.trace, "unknown").count == 0
    for method in (EventStore.causes, EventStore.effects):
        with pytest.raises(EventNotFound):
            face(method, ObjectId())


@pytest.mark.parametrize("wrong", [None, 5, "", {"$ne": 1}, b"x", "x" * 1025])
def test_a_wrong_argument_is_refused(wrong):
    for method in (EventStore.trace, EventStore.causes, EventStore.effects):
        with pytest.raises((TypeError, ValueError), match="must"):
            method(wrong)
    with pytest.raises((TypeError, ValueError), match="limit"):
        EventStore.trace("c", limit=0)


def test_without_its_index_a_trace_says_what_to_run(family, history):
    for index, search in (
        (CORRELATION, lambda: EventStore.trace("c")),
        (CAUSATION, lambda: EventStore.effects(family[0]["_id"])),
    ):
        history.drop_index(index.name)
        try:
            with pytest.raises(IndexMissing, match=r"Run manage\.py ensure_event"):
                search()
        finally:
            history.create_index(list(index.keys), **index.options)


def test_many_effects_take_few_queries(store, monkeypatch):
    with event_context.of({"_id": "0", "metadata": {}}):
        first = caused()
    for _ in range(2):
        before = EventStore.trace("0")
        for _, node in before.walk():
            for _ in range(2):
                caused(node.event)
    sent, batches = [], type(store.events).batches
    monkeypatch.setattr(
        type(store.events),
        "batches",
        lambda self, *args, **options: (
            sent.append(args) or batches(self, *args, **options)
        ),
    )
    assert EventStore.effects(first["_id"]).count == 9
    assert len(sent) == 2
