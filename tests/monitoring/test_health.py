"""The health of the store: its figures, its problems, the view."""

import asyncio
import datetime as dt
import json
import re
import shlex
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.test import AsyncClient

from ossy_event_store.conf import HealthLimits
from ossy_event_store.documents.collections import SEQUENCER_LEASE, subscription_lease
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring import health
from ossy_event_store.monitoring import status as status_module
from ossy_event_store.monitoring.health import problems
from ossy_event_store.monitoring.status import Status
from ossy_event_store.positions import reader as positions_reader
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.processes import ON_URL
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


@pytest.fixture
def limits(settings):
    """Set limits of the health."""

    def limits(**given):
        settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "HEALTH": given}

    return limits


def figures_of(face):
    if face.runner is None:
        return health.figures()
    return face.runner.run(health.afigures())


def text_of(response):
    return response.content.decode()


# --- figures ----------------------------------------------------------------


def test_a_store_without_subscriptions_is_healthy(store, face):
    assert figures_of(face) == {
        "ok": True,
        "reasons": [],
        "remarks": [],
        "store": {"reachable": True, "error": None},
        "positions": {
            "head": 0,
            "events": 0,
            "running": False,
            "owner": None,
            "lag_seconds": 0.0,
            "damaged": 0,
            "damaged_streams": {},
        },
        "subscriptions": [],
        "outboxes": [],
    }


def test_a_subscription_that_keeps_up_is_healthy(store, lend, face):
    subscription("reader")(lambda event: None)
    lend("a", "BookBought", "BookLent")
    with running() as runner:
        reached(store, "reader", 2)
        found = figures_of(face)
    assert found["ok"], found["reasons"]
    assert found["positions"]["head"] == found["positions"]["events"] == 2
    assert found["positions"]["running"]
    assert found["positions"]["owner"] == runner.owner
    (reader,) = found["subscriptions"]
    assert reader["state"] == "running"
    assert reader["delivered"] == 2
    assert json.loads(json.dumps(found)) == found


def test_a_subscription_that_no_process_runs_is_unhealthy(store, face, limits):
    subscription("reader")(lambda event: None)
    assert figures_of(face)["reasons"] == [
        "No process is assigning positions; start manage.py run_subscriptions.",
        "reader has never run.",
    ]
    with running():
        until(lambda: checkpoint(store, "reader"))
    assert figures_of(face)["reasons"][1:] == ["reader is not running."]
    limits(RUNNING=False)
    assert figures_of(face)["ok"]


def test_a_subscription_that_no_code_declares_is_healthy(poisoned, limits, monkeypatch):
    limits(RUNNING=None)
    assert not health.figures()["ok"]
    monkeypatch.setattr("ossy_event_store.subscriptions.declaration._registered", {})
    found = health.figures()
    assert found["ok"]
    assert found["subscriptions"][0]["parked"] == 1


def test_a_parked_stream_is_unhealthy_until_it_is_delivered(poisoned, store, limits):
    with running():
        until(lambda: health.figures()["subscriptions"][0]["state"] == "running")
        until(lambda: health.figures()["positions"]["running"])
        assert health.figures()["reasons"] == ["mail has 1 parked stream."]
        limits(PARKED=1)
        assert health.figures()["ok"]
        limits()
        poisoned.clear()
        operator_actions.retry("mail")
        until(lambda: not parked(store))
        assert health.figures()["ok"]


def test_a_stopped_subscription_is_unhealthy_under_any_limits(store, lend, limits):
    @subscription("mail", retries=0, on_error="stop")
    def mail(event):
        raise KeyError("address")

    limits(RUNNING=None, LAG=None, LAG_SECONDS=None, PARKED=None, POSITION_SECONDS=None)
    (event,) = lend("a", "BookLent")
    with running():
        until(
            lambda: checkpoint(store, "mail") and checkpoint(store, "mail")["stopped"]
        )
        found = until(lambda: (f := health.figures())["reasons"] and f)
    assert found["reasons"] == ["mail has stopped at an event."]
    stopped = found["subscriptions"][0]["stopped"]
    assert dt.datetime.fromisoformat(stopped.pop("failed")).tzinfo
    assert stopped == {
        "error": "KeyError: 'address'",
        "eventId": str(event["_id"]),
        "type": "BookLent",
        "aggregateId": "a",
        "aggregateVersion": 1,
        "position": 1,
    }
    json.dumps(found)


@pytest.mark.parametrize("name", ["mail", "of 'ann'", "$(id)`id`; x", "a\nb", "é"])
def test_a_command_that_is_advised_does_what_it_says_in_a_shell(store, name):
    query = {"_id": name, "position": 7, "kind": "subscription"}
    connection.raw(store.subscriptions).insert_one(query)
    (remark,) = health.figures()["remarks"]
    (command,) = re.findall("manage.py .* removes", remark, re.DOTALL)
    assert shlex.split(command)[1:-1] == ["subscriptions", "forget", name]


def test_an_event_that_waits_for_its_position_is_unhealthy(store, lend, face, history):
    subscription("reader")(lambda event: None)
    lend("a", "BookBought")
    with running():
        reached(store, "reader", 1)
    lend("a", "BookLent", "BookReturned")
    minutes = {1: 9, 2: 5, 3: 3}
    now = datetime.now(UTC)
    for version, ago in minutes.items():
        created = {"$set": {"created": now - timedelta(minutes=ago)}}
        history.update_one({"aggregateVersion": version}, created)
    found = figures_of(face)
    assert 290 < found["positions"]["lag_seconds"] < 400
    assert any("waiting for its position for 30" in one for one in found["reasons"])
    assert found["positions"]["events"] - found["positions"]["head"] == 2


def test_the_wait_for_a_position_is_known_whatever_the_dates(store, lend, history):
    assert waiting_since(store) is None
    lend("a", "BookBought")
    assert waiting_since(store) is not None
    # The clock of the writer is ahead: such an event is not waited for.
    history.update_one({}, {"$set": {"created": datetime.now(UTC) + timedelta(1)}})
    assert waiting_since(store) is None
    # As the Node package writes it: a number, which no date is greater than.
    history.update_one({}, {"$set": {"created": 1.0}})
    with running():
        until(lambda: drive(positions_reader.head_position(store)) == 1)
    (event,) = lend("a", "BookLent")
    assert waiting_since(store) == event["created"]


def waiting_since(store):
    return drive(positions_reader.waiting_since(store, datetime.now(UTC)))


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_clock_of_the_server_decides_what_runs_and_how_long_an_event_waits(
    store, lend, face, monkeypatch, hours
):
    """As if the site's clock were that much behind or ahead of the server's."""

    async def server_time(store):
        return datetime.now(UTC) + timedelta(hours=hours)

    for module in (health, status_module):
        monkeypatch.setattr(module, "server_time", server_time)
    subscription("reader")(lambda event: None)
    lend("a", "BookBought")
    ends = datetime.now(UTC) + timedelta(hours=hours / 2)
    lease = {"owner": "ann", "until": ends}
    for name in (SEQUENCER_LEASE, subscription_lease("reader")):
        connection.raw(store.leases).insert_one({"_id": name, **lease})
    connection.raw(store.subscriptions).insert_one({"_id": "reader", "position": 0})
    found = figures_of(face)
    is_running = hours < 0
    assert found["positions"]["running"] == is_running
    assert (found["subscriptions"][0]["state"] == "running") == is_running
    assert (found["positions"]["lag_seconds"] > 3500) == (hours > 0)


def status_of(**figures):
    plain = {
        "name": "mail",
        "kind": "subscription",
        "state": "running",
        "position": 0,
        "lag": 0,
        "ahead": 0,
        "lag_seconds": 0.0,
        "rate": 0.0,
        "delivered": 0,
        "parked": 0,
        "owner": None,
        "updated": None,
        "last_error": None,
        "stopped": None,
        "paused": None,
        "declared": True,
        "changed": False,
    }
    return Status(**{**plain, **figures})


@pytest.mark.parametrize(
    ("figures", "limits", "reasons"),
    [
        ({"lag": 10**6}, {}, []),
        ({"lag": 1001}, {"LAG": 1000}, ["mail is 1,001 events behind."]),
        ({"lag": 1000}, {"LAG": 1000}, []),
        ({"lag_seconds": 60.5}, {}, ["mail is 60 seconds behind."]),
        ({"lag_seconds": 60.5}, {"LAG_SECONDS": None}, []),
        ({"parked": 1}, {}, ["mail has 1 parked stream."]),
        ({"parked": 1}, {"PARKED": None}, []),
        ({"state": "new"}, {}, ["mail has never run."]),
        ({"state": "new"}, {"RUNNING": False}, []),
        ({"state": "stopped"}, {"RUNNING": False}, ["mail has stopped at an event."]),
        (
            {"state": "paused"},
            {"RUNNING": False},
            ["mail is paused; manage.py subscriptions resume ends that."],
        ),
        ({"state": "not running", "declared": False}, {}, []),
        ({"kind": "projection build", "lag_seconds": 1e9, "parked": 3}, {}, []),
    ],
)
def test_each_limit_that_is_exceeded_is_a_sentence(figures, limits, reasons):
    assert list(problems(status_of(**figures), HealthLimits(**limits))) == reasons


# --- a store that is down ---------------------------------------------------


@ON_URL
def test_a_store_that_is_down_is_reported_soon_without_the_password(server_down, face):
    began = time.monotonic()
    found = figures_of(face)
    assert time.monotonic() - began < 2
    assert not found["ok"]
    assert found["reasons"] == ["The store does not answer (StoreUnavailable)."]
    assert not found["store"]["reachable"]
    assert found["store"]["error"].startswith("The event store is not available: ")
    assert "secret" not in json.dumps(found)


@ON_URL
def test_the_view_responds_while_the_store_is_down(server_down, client, caplog):
    for address in ("/health", "/health/store", "/health/details"):
        began = time.monotonic()
        response = client.get(address)
        assert time.monotonic() - began < 2
        assert response.status_code == 503
        assert "does not answer" in response.json()["reasons"][0]
        assert ("is not available" in text_of(response)) is address.endswith("details")
        assert "secret" not in text_of(response)
        # One line in the store's log; Django would mail it to the admins each time.
        (logged,) = caplog.records
        assert (logged.name, logged.levelname) == ("ossy_event_store", "WARNING")
        assert "is not available" in logged.message
        assert "secret" not in logged.message
        caplog.clear()


def test_wrong_settings_get_a_response(client, settings):
    settings.OSSY_EVENT_STORE = {"HEALTH": {"PARKD": 1}}
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json()["reasons"] == [
        "The store does not answer (ImproperlyConfigured)."
    ]
    error = client.get("/health/details").json()["store"]["error"]
    assert error.endswith("has no key 'PARKD'. Did you mean 'PARKED'?")


def test_an_unexpected_error_gets_a_response_and_is_logged(client, monkeypatch, caplog):
    def broken():
        raise RuntimeError("surprise")

    monkeypatch.setattr(health, "figures", broken)
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json()["reasons"] == ["The store cannot be read (RuntimeError)."]
    assert "surprise" not in text_of(response)
    assert "surprise" in caplog.text


def test_a_deleted_event_gets_a_response(client, store, lend, history):
    subscription("reader")(lambda event: None)
    lend("book-of-ann", "BookBought")
    with running():
        reached(store, "reader", 1)
    operator_actions.reset("reader", 0)
    history.delete_many({})
    response = client.get("/health")
    assert response.status_code == 503
    assert "reader is not running." in response.json()["reasons"]
    assert response.json()["store"]["reachable"]
    assert "book-of-ann" not in text_of(response)


# --- the view ---------------------------------------------------------------


def test_the_status_is_200_or_503_and_is_not_cached(store, client):
    response = client.get("/health")
    assert response.status_code == 200
    assert "no-store" in response.headers["Cache-Control"]
    assert response.json()["ok"]
    subscription("reader")(lambda event: None)
    response = client.get("/health")
    assert response.status_code == 503
    assert "reader has never run." in response.json()["reasons"]


def test_the_view_allows_only_get_and_head(store, client):
    assert client.head("/health").status_code == 200
    assert client.head("/health").content == b""
    for method in (client.post, client.put, client.delete, client.options):
        assert method("/health").status_code == 405


def test_what_the_view_shows_may_be_public(poisoned, client):
    response = client.get("/health")
    for private in ("book-of-ann", "address", socket.gethostname(), "BookLent"):
        assert private not in text_of(response)
    (mail,) = response.json()["subscriptions"]
    assert mail["parked"] == 1
    response = client.get("/health/details")
    assert response.status_code == 503
    assert "the address of ann" in text_of(response)
    assert "Traceback" not in text_of(response)


def test_a_load_balancer_checks_the_store_alone(store, client):
    subscription("reader")(lambda event: None)
    response = client.get("/health/store")
    assert response.status_code == 200
    assert response.json() == {"ok": True, "reasons": [], "store": {"reachable": True}}


def test_the_view_responds_under_asgi(store):
    if connection.resolve().alias:
        pytest.skip("Django's own connections belong to one thread")
    response = asyncio.run(AsyncClient().get("/health"))
    assert response.status_code == 200
