"""The commands ``subscriptions`` and ``run_subscriptions``."""

import json
import os
import re

import pytest
from django.core.management import CommandError

from ossy_event_store import EventStore, Mongo
from ossy_event_store.management.commands import run_subscriptions
from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.declaration import subscription
from tests.support import servers
from tests.support.commands import failure
from tests.support.processes import ON_URL
from tests.support.servers import free_port, until
from tests.support.subscriptions import (
    checkpoint,
    parked,
    reached,
    running,
    said,
    stopped,
)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def poisoned(store, lend):
    """A subscription with a parked stream; one of two events has passed."""
    bad = {"BookLent"}

    @subscription("mail", retries=0)
    def mail(event):
        if event["type"] in bad:
            raise KeyError("address")

    lend("b", "BookBought")
    lend("a", "BookLent", "BookReturned")
    with running():
        reached(store, "mail", 3)
    return bad


def test_list_shows_the_state_of_all_subscriptions(poisoned, lend):
    subscription("never", types=["X"])(print)
    lend("b", "BookReturned")
    shown = said("subscriptions")
    head, mail, never, *rest = shown.splitlines()
    assert head.split() == [
        *("name", "state", "position", "lag", "seconds"),
        *("events/s", "parked", "by"),
    ]
    assert mail.split()[:4] == ["mail", "not", "running", "3"]
    assert never.split()[:2] == ["never", "new"]
    (remark,) = rest
    assert re.fullmatch(r"mail, last error at .* UTC: KeyError: 'address'", remark)


def test_show_prints_one_subscription_as_json(poisoned, store, lend):
    found = json.loads(said("subscriptions", "show", "mail", "--json"))
    assert found["position"] == 3
    assert found["lag"] == 0
    assert found["parked"] == 1
    assert found["state"] == "not running"
    assert found["parked_streams"][0]["aggregateId"] == "a"
    (listed,) = json.loads(said("subscriptions", "--json"))
    assert listed == {k: v for k, v in found.items() if k != "parked_streams"}
    with running():
        until(lambda: json.loads(said("subscriptions", "--json"))[0]["owner"])
        found = json.loads(said("subscriptions", "--json"))
        assert found[0]["state"] == "running"
        assert found[0]["owner"].split(":")[1] == str(os.getpid())


def test_show_prints_parked_streams(poisoned):
    shown = said("subscriptions", "show", "mail")
    assert "a, version 1: BookLent (event " in shown
    assert "KeyError: 'address'" in shown
    assert "tries 1" in shown


def test_retry_marks_parked_streams(poisoned, store):
    with pytest.raises(CommandError, match="mail has not parked stream 'b'"):
        said("subscriptions", "retry", "mail", "--stream", "b")
    poisoned.clear()
    shown = said("subscriptions", "retry", "mail", "--stream", "a")
    assert shown == "Marked 1 stream for retry.\n"
    assert said("subscriptions", "retry", "mail") == "Marked 1 stream for retry.\n"
    assert "marked for retry" in said("subscriptions", "show", "mail")
    with running():
        until(lambda: not parked(store))
    with pytest.raises(CommandError, match="mail has no parked streams and"):
        said("subscriptions", "retry", "mail")


def test_skip_needs_a_reason(poisoned, store):
    with pytest.raises(CommandError, match="--reason") as refused:
        said("subscriptions", "skip", "mail", "--stream", "a")
    assert refused.value.returncode == 2
    shown = said("subscriptions", "skip", "mail", "--stream", "a", "--reason", "typo")
    assert "Skipped BookLent, version 1 of 'a'." in shown
    with pytest.raises(CommandError, match="has not parked stream 'a' at an event"):
        said("subscriptions", "skip", "mail", "--stream", "a", "--reason", "typo")
    with pytest.raises(CommandError, match="has not stopped"):
        said("subscriptions", "skip", "mail", "--reason", "typo")
    with running():
        until(lambda: not parked(store))
    (kept,) = connection.raw(store.skipped).find()
    assert kept["reason"] == "typo"
    assert kept["skippedBy"]


def test_reset_moves_the_checkpoint_and_releases_streams(poisoned, store):
    with pytest.raises(CommandError, match="--to 0 or more"):
        said("subscriptions", "reset", "mail")
    shown = said("subscriptions", "reset", "mail", "--to", "1")
    assert shown == "mail continues after position 1.\n"
    assert checkpoint(store, "mail")["position"] == 1
    assert not parked(store)


def test_an_unknown_name_is_refused(poisoned):
    for command in ("show", "retry", "skip", "reset"):
        with pytest.raises(CommandError, match="Subscription 'male' does not exist"):
            said("subscriptions", command, "male", "--reason", "r", "--to", "0")
    with pytest.raises(CommandError, match="Subscription 'male' does not exist"):
        said("run_subscriptions", "male")
    with pytest.raises(CommandError, match="needs the NAME"):
        said("subscriptions", "retry")


def test_a_project_may_have_no_subscriptions(store):
    assert said("subscriptions") == "There are no subscriptions.\n"
    assert json.loads(said("subscriptions", "--json")) == []


@ON_URL
@pytest.mark.faults
def test_a_standalone_server_is_refused_with_what_it_lacks(tmp_path, settings, quick):
    given = settings.OSSY_EVENT_STORE
    with servers.running(tmp_path / "alone", name=None) as alone:
        settings.OSSY_EVENT_STORE = {**given, "URL": alone.url()}
        try:
            for command in ("run_subscriptions", "rebuild_projections"):
                with pytest.raises(CommandError, match="need a replica set"):
                    said(command)
            # All else works: events, and how the subscriptions stand.
            said("ensure_event_store")
            EventStore.append_event(
                {"aggregateId": "a", "aggregateType": "Book", "type": "BookBought"}
            )
            assert list(EventStore.read_all()) == []
            assert said("subscriptions") == "There are no subscriptions.\n"
        finally:
            Mongo.close()


@ON_URL
def test_a_process_started_while_the_server_is_away_waits_for_it(settings, caplog):
    url = f"mongodb://127.0.0.1:{free_port()}/?replicaSet=away"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.2}
    try:
        run_subscriptions.check_replica_set()
    finally:
        Mongo.close()
    assert "Waiting for MongoDB before the subscriptions start: " in caplog.text


def test_retry_lets_a_subscription_that_stopped_continue(store, lend):
    bad = {1}

    @subscription("mail", retries=0, on_error="stop")
    def mail(event):
        if event["position"] in bad:
            raise KeyError("address")

    lend("a", "BookLent")
    with running():
        stopped(store, "mail")
    bad.clear()
    shown = said("subscriptions", "retry", "mail")
    assert shown == "mail retries the event at which it stopped.\n"
    with running():
        reached(store, "mail", 1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["reset", "mail", "--to", str(2**70)], "position"),
        (["retry", "mail", "--stream", "\udcff"], "aggregate_id"),
        (["skip", "mail", "--stream", "", "--reason", "x"], "aggregate_id"),
        (["show", "\udcff"], "NAME"),
    ],
)
def test_a_value_that_mongodb_cannot_hold_is_wrong_use(poisoned, arguments, named):
    error = failure("subscriptions", *arguments)
    assert (error.returncode, named in str(error)) == (2, True)
