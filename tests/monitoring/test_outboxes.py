"""The outbox in the figures of the health, and among the metrics."""

import pytest
from asgiref.sync import async_to_sync

from ossy_event_store.conf import HealthLimits
from ossy_event_store.monitoring import health
from ossy_event_store.monitoring.outboxes import (
    OutboxStatus,
    line_of,
    outboxes,
    problems,
)
from ossy_event_store.relational import outbox
from tests.support.outbox import away, commit, lent, park, waiting
from tests.support.relational import SQL

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick", "sql")]
NOTHING = {"using": SQL, "waiting": 0, "parked": 0, "lag_seconds": 0.0, "error": None}


def test_an_outbox_without_rows_is_healthy():
    found = health.figures()
    assert found["ok"], found["reasons"]
    assert found["outboxes"] == [NOTHING]


def test_what_waits_and_what_is_parked_is_reported(monkeypatch, settings, client):
    with away(monkeypatch):
        commit(lent(), lent("b-2"), lent("b-2"))
    park(waiting()[0], "IdempotencyConflict: secret")
    limits = {"RUNNING": False, "LAG_SECONDS": 0.001}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "HEALTH": limits}
    found = health.figures()
    assert found["reasons"] == [
        "An event has been waiting in the outbox of sql for 0 seconds.",
        "The outbox of sql has 1 parked stream; see manage.py outbox.",
    ]
    (one,) = found["outboxes"]
    assert (one["waiting"], one["parked"]) == (2, 1)
    response = client.get("/health")
    assert response.status_code == 503
    assert b"secret" not in response.content
    lines = client.get("/metrics").content.decode().splitlines()
    assert 'ossy_event_store_outbox_waiting{using="sql"} 2.0' in lines
    assert 'ossy_event_store_outbox_parked{using="sql"} 1.0' in lines
    assert any(
        line.startswith("ossy_event_store_outbox_lag_seconds{") for line in lines
    )


def test_the_awaitable_figures_read_the_outbox_as_well(monkeypatch):
    # In the thread of the test, as its connections belong to that.
    assert async_to_sync(health.afigures)()["outboxes"] == [NOTHING]


def test_limits_can_be_switched_off():
    bad = OutboxStatus(SQL, waiting=2, parked=1, lag_seconds=1000.0)
    assert len(list(problems(bad, HealthLimits()))) == 2
    assert list(problems(bad, HealthLimits(PARKED=None, LAG_SECONDS=None))) == []
    assert list(problems(bad, HealthLimits(PARKED=1, LAG_SECONDS=2000.0))) == []


def fail(using):
    raise outbox.Error("connection refused")


def test_a_database_that_is_away_is_reported_once_it_was_known(monkeypatch, client):
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "has_table", fail)
        assert outboxes() == []  # it may have nothing to do with the store
    assert outboxes() == [OutboxStatus(SQL)]
    monkeypatch.setattr(outbox, "figures", fail)
    (found,) = outboxes()
    assert found.error == "Error: connection refused"
    assert "The outbox of sql cannot be read." in health.figures()["reasons"]
    assert line_of(found) == "Outbox of sql: cannot be read: Error: connection refused"
    assert b"refused" not in client.get("/health").content
    assert b"ossy_event_store_outbox_waiting{" not in client.get("/metrics").content


def test_a_database_without_the_table_has_no_outbox(monkeypatch):
    monkeypatch.setattr(outbox, "has_table", lambda using: False)
    assert outboxes() == []
