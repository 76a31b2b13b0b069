"""Subscriptions and projections get events as the code knows them."""

import pytest

from ossy_event_store import subscription
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.status import status
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.verify import verify_event_store
from tests.support.old_loans import KINDS, LOANS, NEW, Broken, store_events
from tests.support.relational import effects, take_effect
from tests.support.servers import until
from tests.support.subscriptions import parked, reached, running, stopped

pytestmark = pytest.mark.usefixtures("library", "quick")


@pytest.mark.parametrize("is_async", [False, True], ids=["function", "coroutine"])
def test_a_handler_gets_the_events_of_its_types_as_they_are_today(store, is_async):
    got = []

    def function(event):
        got.append(event)

    async def coroutine(event):
        got.append(event)

    handler = coroutine if is_async else function
    subscription("loans", types=["lent"], concurrency=2)(handler)
    stored = store_events(*KINDS, "Noise", "Noise")
    with running():
        reached(store, "loans", 9)
    assert [one["payload"] for one in got] == [NEW] * LOANS
    assert {one["type"] for one in got} == {"Lent"}
    scanned = next(one for one in got if one["_id"] == stored[4]["_id"])
    assert (scanned["position"], scanned["aggregateVersion"]) == (5, 5)


def test_a_handler_of_all_types_gets_all_results_and_no_dropped_events(store):
    got = []
    subscription("all")(lambda event: got.append((event["position"], event["type"])))
    store_events("Noise", "Scanned", "Other", "Noise")
    with running():
        reached(store, "all", 4)
    assert got == [(2, "Lent"), (2, "Visited"), (2, "Scanned"), (3, "Other")]


def test_a_failing_result_parks_the_stored_event_as_a_whole(store, notes):
    failing = {"Visited"}

    def note(event, session):
        notes.insert_one({"n": event["position"], "t": event["type"]}, session=session)
        if event["type"] in failing:
            raise ValueError("a visit")

    subscription("notes", session=True, retries=0)(note)
    store_events("Lent", "Scanned", "Lent")
    store_events("Lent", stream="b")
    with running():
        reached(store, "notes", 4)
        found = [(one["n"], one["t"]) for one in notes.find().sort("n")]
        assert found == [(1, "Lent"), (4, "Lent")]
        (one,) = parked(store)
        assert (one["aggregateId"], one["position"]) == ("a", 2)
        failing.clear()
        operator_actions.retry("notes", "a")
        until(lambda: not parked(store))
    found = sorted((one["n"], one["t"]) for one in notes.find())
    assert found == [
        (1, "Lent"),
        (2, "Lent"),
        (2, "Scanned"),
        (2, "Visited"),
        (3, "Lent"),
        (4, "Lent"),
    ]


def test_a_failing_result_rolls_the_others_back_in_sql(store, sql):
    failing = {"Visited"}

    def write(event):
        if event["type"] == "Lent":
            take_effect(event["position"])
        elif event["type"] in failing:
            raise ValueError("a visit")

    subscription("effects", using="sql", retries=0)(write)
    store_events("Lent", "Scanned", "Lent")
    with running():
        reached(store, "effects", 3)
        assert effects() == [1]
        failing.clear()
        operator_actions.retry("effects", "a")
        until(lambda: not parked(store))
    assert effects() == [1, 2, 3]


@pytest.mark.parametrize("kind", [("Lent", 9), "Lent"], ids=["version", "upcaster"])
@pytest.mark.parametrize("options", [{}, {"session": True}], ids=["plain", "session"])
def test_an_event_that_cannot_be_read_is_parked(store, kind, options):
    got = []

    def handler(event, session=None):
        got.append(event["position"])

    subscription("loans", types=["Lent"], retries=0, **options)(handler)
    Broken.books.add("Persuasion")
    store_events("Lent")
    store_events(kind, stream="b", book="Persuasion")
    store_events("Lent", stream="c")
    with running():
        reached(store, "loans", 3)
    assert set(got) == {1, 3}  # a batch is tried again, event by event
    (one,) = parked(store)
    name = "UpcasterError" if kind == "Lent" else "UnknownEventVersion"
    assert (one["aggregateId"], name in one["error"]) == ("b", True)


def test_a_subscription_that_is_to_stop_stops_at_an_unknown_version(store):
    subscription("loans", retries=0, on_error="stop")(lambda event: None)
    store_events("Lent", ("Lent", 4))
    with running():
        assert stopped(store, "loans")["position"] == 2


@pytest.mark.parametrize("kind", ["lent", "Scanned", "Noise"])
def test_the_lag_knows_the_stored_types_of_which_events_are_made(store, kind):
    subscription("loans", types=["Lent"])(lambda event: None)
    subscription("ticks")(lambda event: None)
    store_events(kind)
    with running("ticks"):
        reached(store, "ticks", 1)
    waits = drive(status(store, "loans")).lag_seconds > 0
    assert waits == (kind != "Noise")


# --- projections ------------------------------------------------------------


def test_a_projection_applies_all_results_of_an_event_in_one_step(store, weeks):
    store_events(*KINDS, "Noise")
    with running():
        reached(store, "weeks", 8)
    assert weeks.get("ann") == {"weeks": 15, "visits": 1}
    assert weeks.get("Emma") == {"weeks": 15, "visits": 0}
    report = verify_event_store(projections=True, sample=None)
    assert (report.documents_compared, report.findings) == (2, [])


def test_an_event_of_which_one_result_fails_changes_no_document(store, weeks):
    weeks.broken.add("Visited")
    store_events("Lent", "Scanned", "Lent")
    store_events("Lent", stream="b", book="Persuasion")
    with running():
        reached(store, "weeks", 4)
        assert weeks.get("ann") == {"weeks": 6, "visits": 0}
        assert weeks.get("Emma") == {"weeks": 3, "visits": 0}
        (one,) = parked(store)
        assert (one["aggregateId"], one["position"]) == ("a", 2)
        weeks.broken.clear()
        operator_actions.retry("weeks", "a")
        until(lambda: not parked(store))
    assert weeks.get("ann") == {"weeks": 12, "visits": 1}
    assert weeks.collection.find_one("ann")["late"] == 2


def test_a_projection_parks_a_stream_that_cannot_be_read(store, weeks):
    store_events(("Lent", 9))
    store_events("Lent", stream="b")
    with running():
        reached(store, "weeks", 2)
    assert weeks.get("ann") == {"weeks": 3, "visits": 0}
    assert [one["aggregateId"] for one in parked(store)] == ["a"]
