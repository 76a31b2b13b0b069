"""Rebuilding a projection: in place, or beside the one in use."""

import threading

import pytest
from django.core.management import CommandError

from ossy_event_store import Aggregate
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.status import status
from ossy_event_store.projections.rebuild import Rebuild, drop_old
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.runner import Runner
from tests.library.aggregate import Book
from tests.support.projections import ANN, Loans, collections
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running, said

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("beside", [False, True], ids=["in place", "beside"])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "while it runs"])
def test_it_is_rebuilt_from_the_first_event(lent, store, lend, beside, others):
    words = ["rebuild_projections", "loans", *(["--blue-green"] if beside else [])]
    if others:
        with running():
            shown = said(*words)
            lend("c", "BookLent")
            reached(store, "loans", 4)
        assert Loans.get("ann") == {"lent": 4, "books": ["a", "b", "a", "c"]}
    else:
        shown = said(*words)
        assert Loans.get("ann") == ANN
    assert "Built loans up to position 3, in collection projection_loans_2." in shown
    kept = ["projection_loans"] if beside else []
    assert collections(store) == [*kept, "projection_loans_2"]
    assert checkpoint(store, "loans@2") is None


def test_the_one_in_use_stays_until_the_new_one_has_caught_up(lent, store):
    seen = []
    Rebuild(
        Loans, beside=True, progress=lambda *_: seen.append(Loans.get("ann")["lent"])
    ).run()
    assert seen
    assert set(seen) == {99}
    assert Loans.get("ann") == ANN
    # The old documents are kept as they were, until they are dropped.
    old = connection.raw(store.events).database.projection_loans
    assert old.find_one("ann")["state"]["lent"] == 99
    assert said("rebuild_projections", "--drop-old") == "Dropped projection_loans.\n"
    assert collections(store) == ["projection_loans_2"]
    assert drop_old(Loans) == []
    assert Loans.get("ann") == ANN


def test_events_are_appended_while_it_is_built_beside(lent, store, monkeypatch):
    enough = threading.Event()

    def append():
        for _ in range(30):
            event = {"type": "BookLent", "payload": {"to": "ann"}}
            Aggregate.execute(Book, "a", lambda book: event)  # noqa: B023
        enough.set()

    appending = threading.Thread(target=append)
    with running():
        appending.start()
        said("rebuild_projections", "loans", "--blue-green")
        appending.join()
        reached(store, "loans", 33)
    assert enough.is_set()
    assert Loans.get("ann")["lent"] == 33
    assert len(Loans.get("ann")["books"]) == 33


def test_a_build_that_was_interrupted_resumes(lent, store, lend):
    rebuild = Rebuild(Loans, beside=True)
    rebuild.stop()
    assert rebuild.run() is None
    # As if it had been killed after the first event.
    documents = connection.raw(store.subscriptions)
    documents.update_one({"_id": "loans@2"}, {"$set": {"position": 1}})
    first = {"_id": "ann", "state": {"lent": 1, "books": ["kept"]}, "position": 1}
    connection.raw(store.events).database.projection_loans_2.insert_one(first)
    assert Loans.get("ann")["lent"] == 99
    build = drive(status(store, "loans@2"))
    assert (build.kind, build.position, build.declared) == ("projection build", 1, True)
    said("rebuild_projections", "--blue-green")
    assert Loans.get("ann") == {"lent": 3, "books": ["kept", "b", "a"]}


def test_only_changed_projections_are_rebuilt(lent, store, changed):
    assert "Nothing to rebuild." in said("rebuild_projections", "--changed")
    assert Loans.get("ann")["lent"] == 99
    changed("2")
    assert drive(status(store, "loans")).changed
    assert "rebuild_projections loans" in said("subscriptions")
    said("rebuild_projections", "--changed")
    assert Loans.get("ann") == ANN
    assert not drive(status(store, "loans")).changed


@pytest.mark.parametrize("beside", [False, True], ids=["in place", "beside"])
def test_streams_that_fail_are_parked_and_can_be_retried(lent, store, beside):
    Loans.broken.add("b")
    words = ["rebuild_projections", *(["--blue-green"] if beside else [])]
    with pytest.raises(CommandError, match="Parked 1 stream of which"):
        said(*words)
    (waits,) = parked(store)
    assert waits["subscription"] == "loans"
    assert Loans.get("ann") == {"lent": 2, "books": ["a", "a"]}
    Loans.broken.clear()
    operator_actions.retry("loans")
    with running():
        until(lambda: not parked(store))
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "a", "b"]}


def test_a_projection_cannot_be_reset(lent):
    with pytest.raises(CommandError, match="rebuild_projections loans"):
        said("subscriptions", "reset", "loans", "--to", "0")


def test_an_unknown_name_is_an_error(lent):
    with pytest.raises(CommandError, match="Subscription 'lonas' does not exist"):
        said("rebuild_projections", "lonas")


def test_subscriptions_run_until_they_have_caught_up(loans, store, lend):
    lend("a", "BookLent", "BookReturned")
    shown = said("run_subscriptions", "--until-caught-up")
    assert shown == "Running loans.\nStopped.\n"
    assert Loans.get("ann")["lent"] == 1
    assert checkpoint(store, "loans")["position"] == 2
    Loans.broken.add("b")
    lend("b", "BookLent")
    with pytest.raises(CommandError, match="loans: a handler failed"):
        said("run_subscriptions", "loans", "--until-caught-up")
    assert Runner().consumers[0].name == "loans"
