"""One try to append a row of the outbox, and what its failure means."""

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from pymongo.errors import AutoReconnect, ExecutionTimeout, OperationFailure

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from ossy_event_store import (
    ConcurrencyError,
    EventStore,
    IndexMissing,
    OutcomeUnknown,
    StoreUnavailable,
)
from ossy_event_store.relational import append_waiting
from ossy_event_store.relational.append_waiting import Outcome, try_to_append
from ossy_event_store.relational.models import Outbox
from tests.support.outbox import away, commit, lent, readers, waiting
from tests.support.relational import SQL

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("store")]


def put(monkeypatch, event):
    """Let an event wait; return the number of its row."""
    with away(monkeypatch):
        commit(event)
    return waiting()[-1].pk


def test_an_event_that_an_earlier_try_stored_is_found(monkeypatch):
    number = put(monkeypatch, lent(id="e-1"))
    EventStore.append_event(lent(id="e-1"))
    EventStore.append_event(lent(to="bob"))
    assert try_to_append(SQL, number) is Outcome.APPENDED
    assert readers() == ["ann", "bob"]
    assert try_to_append(SQL, number) is Outcome.NOT_TRIED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable("away"), Outcome.AWAY),
        (OutcomeUnknown(["e"]), Outcome.AWAY),
        (AutoReconnect("gone"), Outcome.AWAY),
        (ExecutionTimeout("too slow", 50), Outcome.AWAY),
        (ConcurrencyError("b-1", 1, 2), Outcome.DELAYED),
        (IndexMissing("eventstore", "x", "store"), Outcome.DELAYED),
        (ImproperlyConfigured("no URL"), Outcome.DELAYED),
        (OperationFailure("not authorized", 13), Outcome.DELAYED),
        (MemoryError(), Outcome.DELAYED),
        (OperationFailure("failed validation", 121), Outcome.PARKED),
        (ZeroDivisionError("a fault of ours\0 \ud800"), Outcome.PARKED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_is_the_events_own_fault_parks_it(
    monkeypatch, caplog, error, outcome
):
    number = put(monkeypatch, lent())

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(append_waiting, "append_at", fail)
        assert try_to_append(SQL, number) is outcome
    row = Outbox.objects.using(SQL).get()
    is_parked = outcome is Outcome.PARKED
    assert row.state == ("parked" if is_parked else "waiting")
    assert row.error.startswith(type(error).__name__) or "not available" in row.error
    assert row.tries == 2  # with that of put()
    assert ("Parked in the outbox of sql" in caplog.text) == is_parked
    assert ("Delayed in the outbox" in caplog.text) == (outcome is Outcome.DELAYED)
    again = Outcome.NOT_TRIED if is_parked else Outcome.APPENDED
    assert try_to_append(SQL, number) is again


def test_an_event_for_a_stream_of_another_type_is_parked_with_its_reason(monkeypatch):
    number = put(monkeypatch, {**lent(), "aggregateType": "Reader"})
    EventStore.append_event(lent())
    assert try_to_append(SQL, number) is Outcome.PARKED
    (row,) = waiting()
    assert "is of aggregate type 'Book', not 'Reader'" in row.error


def test_an_id_that_another_event_has_parks_the_event(monkeypatch):
    number = put(monkeypatch, lent(id="e-1"))
    EventStore.append_event(lent("b-2", id="e-1", to="bob"))
    assert try_to_append(SQL, number) is Outcome.PARKED
    assert "IdempotencyConflict" in waiting()[0].error
    assert not EventStore.exists("b-1")


def test_a_row_that_cannot_be_read_is_parked(monkeypatch):
    number = put(monkeypatch, lent())
    Outbox.objects.using(SQL).update(event="{")
    assert try_to_append(SQL, number) is Outcome.PARKED
    assert waiting()[0].error.startswith("Malformed: not JSON")
