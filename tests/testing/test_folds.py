"""Folds in parts find the reducers that break at snapshots."""

import datetime as dt
import random
import sys
import time

import pytest
from django.utils import timezone

from ossy_event_store import ReducerError
from ossy_event_store.streams import reducers
from ossy_event_store.testing import given
from tests.library.aggregate import Book, Reader

EVENTS = [{"type": "Added", "payload": {"n": n, "at": {"shelf": n}}} for n in (3, 1, 2)]


def reducer(view, **attributes):
    """Return an aggregate class with this reducer."""
    return type(
        "Broken",
        (),
        {
            "aggregate_type": "Broken",
            "revision": "1",
            "view": staticmethod(view),
            **attributes,
        },
    )


def numbers(events):
    return [one["payload"]["n"] for one in events]


def test_a_sound_reducer_passes():
    given(Book, "BookBought", {"type": "BookLent", "payload": {"to": "a"}}).when(
        lambda book: {"type": "BookReturned"}
    ).then("BookReturned").fold_in_parts()
    given(Reader).fold_in_parts()
    given(Reader, "A", "B", "C").fold_in_parts()


def ignores_saved_state(events, state):
    return {"sum": sum(numbers(events))}


STATE = {"seen": 0}


def keeps_a_mutable_default(events, state):
    STATE["seen"] += len(events)
    return STATE


def keeps_a_mutable_argument(events, state, seen=[]):  # noqa: B006
    seen += numbers(events)
    return {"seen": list(seen)}


def keeps_nested_parts(events, state, empty={"all": []}):  # noqa: B006
    new = {**empty, **state}
    new["all"] += numbers(events)
    return new


def counts_within_the_batch(events, state):
    last = {f"event{at}": one["payload"]["n"] for at, one in enumerate(events)}
    return {**state, **last}


def sorts_the_batch(events, state):
    return {"order": [*state.get("order", []), *sorted(numbers(events))]}


def takes_the_first_of_the_batch(events, state):
    return {"first": numbers(events)[0]} if events else state


def forgets_what_is_no_change(events, state):
    return {"last": numbers(events)[-1]} if events else {}


def asks_for_today(events, state):
    return {"on": dt.date.today().isoformat(), "n": state.get("n", 0) + len(events)}


def asks_django_for_now(events, state):
    return {**state, "late": timezone.now().year > 2030}


def asks_for_the_time(events, state):
    return {**state, "at": int(time.time() / 1e9)}


def takes_chances(events, state):
    return {**state, "of": random.random()}


def loses_what_json_lacks(events, state):
    before = state.get("all", ())
    if isinstance(before, tuple):
        return {"all": (*before, *numbers(events))}
    return {"all": [*before]}


def keeps_a_set(events, state):
    return {"all": set(numbers(events))}


def has_numbers_as_keys(events, state):
    return {1: len(events)}


def adds_a_float(events, state):
    return {"n": state.get("n", 0) + len(events) * (1.0 if state else 1)}


def looks_at_saved_keys(events, state):
    if state:
        return {"n": state["count"] + len(events)}
    return {"n": len(events)}


BROKEN = {
    ignores_saved_state: r"from a snapshot after event 1 \(Added\)\n  sum\n    want 6",
    keeps_a_mutable_default: "folded the same events again\n  seen",
    keeps_a_mutable_argument: "folded the same events again\n  seen",
    keeps_nested_parts: "folded the same events again\n  all",
    counts_within_the_batch: "from a snapshot after event 1",
    sorts_the_batch: "from a snapshot after event 1",
    takes_the_first_of_the_batch: "from a snapshot after event 1",
    forgets_what_is_no_change: "from a snapshot after event 3",
    asks_for_today: r"asked for the time: date\.today\(\)",
    asks_django_for_now: r"asked for the time: datetime\.now\(\)",
    asks_for_the_time: r"asked for the time: time\.time\(\)",
    takes_chances: "folded the same events again\n  of",
    loses_what_json_lacks: "from a snapshot after event 1",
    keeps_a_set: "no snapshot can hold\n  .*state.all",
    has_numbers_as_keys: "no snapshot can hold\n  .*state.1",
    adds_a_float: "from a snapshot after event 1",
    looks_at_saved_keys: "cannot fold from a snapshot after event 1.*\n  .*KeyError",
}


@pytest.mark.parametrize("view", BROKEN, ids=lambda view: view.__name__)
def test_a_reducer_that_breaks_at_snapshots_is_found(view):
    with pytest.raises(AssertionError, match=BROKEN[view]):
        given(reducer(view), *EVENTS).fold_in_parts()


def changes_events(events, state):
    for one in events:
        one["payload"]["n"] = 0
    return {}


def test_a_reducer_that_changes_events_is_found_also_outside_of_tests(monkeypatch):
    changing = given(reducer(changes_events), *EVENTS)
    with pytest.raises(ReducerError, match="changed the events"):
        changing.fold_in_parts()
    monkeypatch.setattr(reducers, "is_test_run", lambda: False)
    with pytest.raises(AssertionError, match="changed the events"):
        changing.fold_in_parts()


def test_a_profiler_is_left_alone():
    def profiler(frame, event, argument):
        pass

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        given(reducer(asks_for_today), *EVENTS).fold_in_parts()
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)
