"""The health of the store: its figures, the verdict, the answers by HTTP."""

import asyncio
import datetime as dt
import json
import socket
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient
from django.urls import path

from ossy_event_store import Mongo
from ossy_event_store.conf import HealthLimits
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring import health
from ossy_event_store.monitoring.health import HealthView, doubts
from ossy_event_store.monitoring.metrics import MetricsView
from ossy_event_store.monitoring.status import Status
from ossy_event_store.positions import reader as positions_reader
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.declaration import subscription
from tests.mongodb.test_connection import ON_URL
from tests.subscriptions.test_consumer import checkpoint, parked, reached, running
from tests.support.servers import until

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]

urlpatterns = [
    path("health", HealthView.as_view()),
    path("health/details", HealthView.as_view(details=True)),
    path("health/store", HealthView.as_view(store_only=True)),
    path("metrics", MetricsView.as_view()),
]


@pytest.fixture(autouse=True)
def served(settings):
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def limits(settings):
    """Set limits of the health."""

    def limits(**given):
        settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "HEALTH": given}

    return limits


@pytest.fixture(params=["refuses", "is silent"])
def nobody_there(settings, request):
    """Settings that lead to a port where nothing listens, or where nothing answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            taken.listen()
        port = taken.getsockname()[1]
        settings.OSSY_EVENT_STORE = {
            "URL": f"mongodb://ann:secret@127.0.0.1:{port}",
            "HEALTH": {"TIMEOUT": 0.3},
        }
        yield
    Mongo.close()


@pytest.fixture
def poisoned(store, lend):
    """A subscription with a parked stream, which has run and runs no more."""
    bad = {"BookLent"}

    @subscription("mail", retries=0)
    def mail(event):
        if event["type"] in bad:
            raise KeyError("the address of ann")

    lend("book-of-ann", "BookBought", "BookLent")
    with running():
        reached(store, "mail", 2)
    return bad


def asked(face):
    if face.runner is None:
        return health.figures()
    return face.runner.run(health.afigures())


def text_of(answer):
    return answer.content.decode()


# --- figures ----------------------------------------------------------------


def test_a_store_without_subscriptions_is_healthy(store, face):
    assert asked(face) == {
        "ok": True,
        "reasons": [],
        "store": {"reachable": True, "error": None},
        "positions": {
            "head": 0,
            "events": 0,
            "running": False,
            "owner": None,
            "lag_seconds": 0.0,
        },
        "subscriptions": [],
    }


def test_a_subscription_that_keeps_up_is_healthy(store, lend, face):
    subscription("reader")(lambda event: None)
    lend("a", "BookBought", "BookLent")
    with running() as runner:
        reached(store, "reader", 2)
        found = asked(face)
    assert found["ok"], found["reasons"]
    assert found["positions"]["head"] == found["positions"]["events"] == 2
    assert found["positions"]["running"]
    assert found["positions"]["owner"] == runner.owner
    (reader,) = found["subscriptions"]
    assert reader["state"] == "running"
    assert reader["delivered"] == 2
    assert json.loads(json.dumps(found)) == found


def test_one_that_nobody_runs_is_not_healthy(store, face, limits):
    subscription("reader")(lambda event: None)
    assert asked(face)["reasons"] == [
        "No process gives positions: run manage.py run_subscriptions.",
        "reader never ran.",
    ]
    with running():
        until(lambda: checkpoint(store, "reader"))
    assert asked(face)["reasons"][1:] == ["reader does not run."]
    limits(RUNNING=False)
    assert asked(face)["ok"]


def test_one_that_is_declared_nowhere_is_no_ones_concern(poisoned, limits, monkeypatch):
    limits(RUNNING=None)
    assert not health.figures()["ok"]
    monkeypatch.setattr("ossy_event_store.subscriptions.declaration._registered", {})
    found = health.figures()
    assert found["ok"]
    assert found["subscriptions"][0]["parked"] == 1


def test_a_parked_stream_is_not_healthy_until_it_went_on(poisoned, store, limits):
    with running():
        until(lambda: health.figures()["subscriptions"][0]["state"] == "running")
        until(lambda: health.figures()["positions"]["running"])
        assert health.figures()["reasons"] == ["mail has 1 parked streams."]
        limits(PARKED=1)
        assert health.figures()["ok"]
        limits()
        poisoned.clear()
        operator_actions.retry("mail")
        until(lambda: not parked(store))
        assert health.figures()["ok"]


def test_one_that_stopped_is_not_healthy_whatever_the_limits(store, lend, limits):
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


def test_an_event_that_nobody_gives_a_position_is_missed(store, lend, face, history):
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
    found = asked(face)
    assert 290 < found["positions"]["lag_seconds"] < 400
    assert any("waited for its position for 30" in one for one in found["reasons"])
    assert found["positions"]["events"] - found["positions"]["head"] == 2


def test_the_wait_for_a_position_is_told_whatever_the_dates(store, lend, history):
    assert drive(positions_reader.waiting_since(store)) is None
    lend("a", "BookBought")
    assert drive(positions_reader.waiting_since(store)) is not None
    # The clock of whoever appended is ahead: not waiting for it blinds nobody.
    history.update_one({}, {"$set": {"created": datetime.now(UTC) + timedelta(1)}})
    assert drive(positions_reader.waiting_since(store)) is None
    # Of the Node package: a number, behind which dates are not found.
    history.update_one({}, {"$set": {"created": 1.0}})
    with running():
        until(lambda: drive(positions_reader.head_position(store)) == 1)
    (event,) = lend("a", "BookLent")
    assert drive(positions_reader.waiting_since(store)) == event["created"]


def one_that(**figures):
    plain = {
        "name": "mail",
        "kind": "subscription",
        "state": "running",
        "position": 0,
        "lag": 0,
        "lag_seconds": 0.0,
        "rate": 0.0,
        "delivered": 0,
        "parked": 0,
        "owner": None,
        "updated": None,
        "last_error": None,
        "stopped": None,
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
        ({"parked": 1}, {}, ["mail has 1 parked streams."]),
        ({"parked": 1}, {"PARKED": None}, []),
        ({"state": "new"}, {}, ["mail never ran."]),
        ({"state": "not running", "declared": False}, {}, []),
        ({"kind": "projection build", "lag_seconds": 1e9, "parked": 3}, {}, []),
    ],
)
def test_what_exceeds_a_limit_is_said_in_words(figures, limits, reasons):
    assert list(doubts(one_that(**figures), HealthLimits(**limits))) == reasons


# --- a store that is away ---------------------------------------------------


@ON_URL
def test_a_store_that_is_away_is_told_soon_and_without_the_password(nobody_there, face):
    began = time.monotonic()
    found = asked(face)
    assert time.monotonic() - began < 2
    assert not found["ok"]
    assert found["reasons"] == ["The store does not answer (StoreUnavailable)."]
    assert not found["store"]["reachable"]
    assert found["store"]["error"].startswith("The event store is not available: ")
    assert "secret" not in json.dumps(found)


@ON_URL
def test_a_view_answers_though_the_store_is_away(nobody_there, client, caplog):
    for address in ("/health", "/health/store", "/health/details"):
        began = time.monotonic()
        answer = client.get(address)
        assert time.monotonic() - began < 2
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["reasons"][0]
        assert ("is not available" in text_of(answer)) is address.endswith("details")
        assert "secret" not in text_of(answer)
        # In a line of the store's log; Django would mail it to the admins each time.
        (logged,) = caplog.records
        assert (logged.name, logged.levelname) == ("ossy_event_store", "WARNING")
        assert "is not available" in logged.message
        assert "secret" not in logged.message
        caplog.clear()
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "ossy_event_store_up 0.0\n" in text_of(answer)
    assert "ossy_event_store_healthy 0.0\n" in text_of(answer)


def test_settings_that_are_wrong_are_an_answer(client, settings):
    settings.OSSY_EVENT_STORE = {"HEALTH": {"PARKD": 1}}
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == [
        "The store does not answer (ImproperlyConfigured)."
    ]
    error = client.get("/health/details").json()["store"]["error"]
    assert error.endswith("has no key 'PARKD'. Did you mean 'PARKED'?")


def test_what_nobody_thought_of_is_an_answer_and_logged(client, monkeypatch, caplog):
    def broken():
        raise RuntimeError("surprise")

    monkeypatch.setattr(health, "figures", broken)
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["The store cannot be read (RuntimeError)."]
    assert "surprise" not in text_of(answer)
    assert "surprise" in caplog.text


def test_an_event_that_was_deleted_is_an_answer(client, store, lend, history):
    subscription("reader")(lambda event: None)
    lend("book-of-ann", "BookBought")
    with running():
        reached(store, "reader", 1)
    operator_actions.reset("reader", 0)
    history.delete_many({})
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "reader does not run." in answer.json()["reasons"]
    assert answer.json()["store"]["reachable"]
    assert "book-of-ann" not in text_of(answer)


# --- the view ---------------------------------------------------------------


def test_the_view_answers_200_or_503_and_is_not_cached(store, client):
    answer = client.get("/health")
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.json()["ok"]
    subscription("reader")(lambda event: None)
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "reader never ran." in answer.json()["reasons"]


def test_the_view_takes_get_and_head_alone(store, client):
    assert client.head("/health").status_code == 200
    assert client.head("/health").content == b""
    for method in (client.post, client.put, client.delete, client.options):
        assert method("/health").status_code == 405


def test_what_the_view_tells_may_be_public(poisoned, client):
    answer = client.get("/health")
    for private in ("book-of-ann", "address", socket.gethostname(), "BookLent"):
        assert private not in text_of(answer)
    (mail,) = answer.json()["subscriptions"]
    assert mail["parked"] == 1
    answer = client.get("/health/details")
    assert answer.status_code == 503
    assert "the address of ann" in text_of(answer)
    assert "Traceback" not in text_of(answer)


def test_a_balancer_asks_for_the_store_alone(store, client):
    subscription("reader")(lambda event: None)
    answer = client.get("/health/store")
    assert answer.status_code == 200
    assert answer.json() == {"ok": True, "reasons": [], "store": {"reachable": True}}


def test_the_views_answer_under_asgi(store):
    async def main():
        client = AsyncClient()
        return [await client.get(address) for address in ("/health", "/metrics")]

    if connection.resolve().alias:
        pytest.skip("Django's own connections are of one thread")
    for answer in asyncio.run(main()):
        assert answer.status_code == 200


# --- Prometheus -------------------------------------------------------------


def test_the_metrics_are_those_of_the_figures(poisoned, client):
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "no-store" in answer.headers["Cache-Control"]
    lines = text_of(answer).splitlines()
    for line in (
        "ossy_event_store_up 1.0",
        "ossy_event_store_healthy 0.0",
        "ossy_event_store_head_position 2.0",
        "ossy_event_store_events 2.0",
        "ossy_event_store_sequencer_running 0.0",
        "ossy_event_store_position_lag_seconds 0.0",
        'ossy_event_store_subscription_lag_events{subscription="mail"} 0.0',
        'ossy_event_store_subscription_lag_seconds{subscription="mail"} 0.0',
        'ossy_event_store_subscription_delivered_total{subscription="mail"} 1.0',
        'ossy_event_store_subscription_parked{subscription="mail"} 1.0',
        'ossy_event_store_subscription_running{subscription="mail"} 0.0',
        'ossy_event_store_subscription_stopped{subscription="mail"} 0.0',
        'ossy_event_store_subscription_declared{subscription="mail"} 1.0',
        "# TYPE ossy_event_store_subscription_delivered_total counter",
        "# TYPE ossy_event_store_subscription_rate gauge",
    ):
        assert line in lines


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImproperlyConfigured, match=r"ossy_event_store\[prometheus\]"):
        MetricsView.as_view()


def test_the_metrics_join_those_of_the_project(store):
    from prometheus_client import CollectorRegistry, generate_latest

    from ossy_event_store.monitoring.metrics import Collector

    registry = CollectorRegistry()
    registry.register(Collector())
    assert b"ossy_event_store_up 1.0" in generate_latest(registry)
