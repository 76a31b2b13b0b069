"""Trees of events by cause: from any ids, without recursion."""

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from ossy_event_store.streams.context.tree import below, tree

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def event(name, cause=None, *, at=0):
    metadata = {} if cause is None else {"causationId": cause}
    created = START + dt.timedelta(seconds=at)
    return {"_id": name, "type": "T", "created": created, "metadata": metadata}


def shape(trace):
    return [(depth, node.event["_id"]) for depth, node in trace.walk()]


def test_effects_are_below_their_cause_and_in_order_of_time():
    events = [event("a1", "a", at=2), event("a2", "a", at=1), event("a", at=3)]
    trace = tree([*events, event("b", at=0), event("a21", "a2", at=9)])
    assert shape(trace) == [(1, "b"), (1, "a"), (2, "a2"), (3, "a21"), (2, "a1")]
    assert (trace.count, trace.depth, trace.is_cut) == (5, 3, False)
    assert repr(trace) == "<Trace of 5 events, 2 roots>"
    assert repr(trace.roots[1]) == "<TraceNode 'T' 'a', caused 2>"


def test_a_cause_that_is_missing_makes_a_root_that_says_so():
    (root,) = tree([event("a", "gone")]).roots
    assert root.lacks_cause
    assert not root.is_circular


def test_a_circle_is_cut_at_its_first_event_or_at_the_root_asked_for():
    events = [event("b", "c", at=2), event("c", "a", at=1), event("a", "b", at=3)]
    events += [event("x", "b", at=0), event("self", "self", at=9)]
    trace = tree(events)
    assert shape(trace) == [(1, "c"), (2, "b"), (3, "x"), (3, "a"), (1, "self")]
    assert [node.is_circular for node in trace.roots] == [True, True]
    around = below(events[2], events)
    assert shape(tree(around, root=events[2])) == [
        *((1, "a"), (2, "c"), (3, "b"), (4, "x")),
    ]


NAMES = st.sampled_from("abcdefgh")


@given(st.dictionaries(NAMES, st.one_of(st.none(), NAMES, st.just("gone"))))
def test_every_event_is_in_its_tree_once_and_below_its_cause(causes):
    trace = tree([event(name, cause) for name, cause in causes.items()])
    walked = list(trace.walk())
    assert sorted(node.event["_id"] for _, node in walked) == sorted(causes)
    for _, node in walked:
        for child in node.children:
            assert causes[child.event["_id"]] == node.event["_id"]
    for root in trace.roots:
        cause = causes[root.event["_id"]]
        assert root.lacks_cause == (cause is not None and cause not in causes)
        assert root.is_circular == (cause in causes)


def test_a_chain_may_be_longer_than_the_stack_of_python():
    chain = [event(f"{n:06}", f"{n - 1:06}", at=n) for n in range(20_000)]
    trace = tree(chain)
    assert (trace.depth, len(trace.roots)) == (20_000, 1)
    assert len(below(chain[0], chain)) == 20_000
    del trace  # as deep, and no node may need the stack to go
