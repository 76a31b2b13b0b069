"""The command ``outbox``."""

import json

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store.relational import outbox
from tests.support.outbox import away, commit, lent, park, waiting
from tests.support.relational import SQL
from tests.support.subscriptions import said

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("sql")]


@pytest.fixture
def parked(monkeypatch):
    """A stream that is parked at the first of two events; return that row."""
    with away(monkeypatch):
        commit(lent(id="e-1"), lent())
    row = waiting()[0]
    park(row, "IdempotencyConflict: no")
    return row


def fails(*command):
    with pytest.raises(CommandError) as failed:
        call_command("outbox", *command)
    return str(failed.value), failed.value.returncode


def test_the_list_shows_what_waits_and_why_it_is_parked(parked):
    text = said("outbox")
    assert "Outbox of sql: 1 event waiting, 0 seconds, 1 parked stream" in text
    assert f"{parked.pk}: BookLent of 'b-1' (event e-1)" in text
    assert "parked, tries 2\n  IdempotencyConflict: no" in text
    assert said("outbox", "--using", SQL) == text


def test_the_list_as_json(parked):
    (found,) = json.loads(said("outbox", "--json"))
    assert (found["using"], found["waiting"], found["parked"]) == (SQL, 1, 1)
    (event,) = found["parked_events"]
    assert event["number"] == parked.pk
    assert event["event_id"] == "e-1"
    assert event["error"] == "IdempotencyConflict: no"


def test_no_database_has_an_outbox(monkeypatch):
    monkeypatch.setattr(outbox, "candidates", list)
    assert said("outbox") == "No database has an outbox.\n"
    text, code = fails("--using", "default")
    assert "'default' has no outbox. Those with one: none." in text
    assert code == 2


def test_parked_events_are_retried(parked):
    number = str(parked.pk)
    text = said("outbox", "retry", number, "--using", SQL)
    assert "1 event of the outbox of sql will be retried" in text
    assert waiting()[0].state == "waiting"
    assert "no parked events" in fails("retry", "--using", SQL)[0]
    assert f"no parked event {number}" in fails("retry", number, "--using", SQL)[0]
    assert "no parked event" in fails("retry", str(2**70), "--using", SQL)[0]


def test_a_parked_event_is_discarded_with_a_reason(parked):
    number = str(parked.pk)
    assert fails("discard", number, "--using", SQL) == (
        "discard needs a --reason TEXT.",
        2,
    )
    assert fails("discard", "--using", SQL, "--reason", "x")[1] == 2
    text = said("outbox", "discard", number, "--using", SQL, "--reason", "a test")
    assert f"Discarded {number}: BookLent of 'b-1' (event e-1)." in text
    assert "discarded" in said("outbox")
    assert "a test" in said("outbox")
    assert fails("discard", str(2**70), "--using", SQL, "--reason", "x")[1] == 1
    again = fails("discard", number, "--using", SQL, "--reason", "x")
    assert again == (f"The outbox of sql has no parked event {number}.", 1)


def test_another_database_is_refused(parked):
    text, code = fails("retry")
    assert text == "The database 'default' has no outbox. Those with one: sql."
    assert code == 2


def test_a_database_that_fails_is_one_line(parked, monkeypatch):
    def fail(*args):
        raise outbox.Error("disk full")

    monkeypatch.setattr(outbox, "retry", fail)
    assert fails("retry", "--using", SQL) == ("The SQL database failed: disk full", 1)


def test_a_database_that_is_away_is_listed(parked, monkeypatch):
    def fail(*args):
        raise outbox.Error("refused")

    monkeypatch.setattr(outbox, "figures", fail)
    assert "Outbox of sql: cannot be read: Error: refused" in said("outbox")
    (found,) = json.loads(said("outbox", "--json"))
    assert found["parked_events"] == []
