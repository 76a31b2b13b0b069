"""The metrics for Prometheus."""

import asyncio
import sys
import threading

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient

from ossy_event_store.mongodb import connection
from ossy_event_store.monitoring.metrics import Collector, MetricsView
from ossy_event_store.subscriptions import operator_actions
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.processes import ON_URL

pytestmark = pytest.mark.usefixtures("quick")


def test_the_metrics_are_those_of_the_figures(poisoned, client):
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    assert "no-store" in response.headers["Cache-Control"]
    lines = response.content.decode().splitlines()
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


def test_damaged_streams_are_counted(store, history, lend, client):
    lend("a", "BookBought", "BookLent", "BookReturned")
    lend("b", "BookBought")
    history.delete_one({"aggregateId": "a", "aggregateVersion": 2})
    assign_positions(threading.Event())
    metric = "ossy_event_store_damaged_streams"
    assert f"{metric} 1.0" in client.get("/metrics").content.decode().splitlines()
    operator_actions.accept_loss("a", "restored from a backup")
    assign_positions(threading.Event())
    assert f"{metric} 0.0" in client.get("/metrics").content.decode().splitlines()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImproperlyConfigured, match=r"ossy_event_store\[prometheus\]"):
        MetricsView.as_view()


def test_the_metrics_join_those_of_the_project(store):
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(Collector())
    assert b"ossy_event_store_up 1.0" in generate_latest(registry)


@ON_URL
def test_metrics_of_a_store_that_is_down_say_only_that(server_down, client):
    response = client.get("/metrics")
    assert response.status_code == 200
    lines = response.content.decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "ossy_event_store_up 0.0",
        "ossy_event_store_healthy 0.0",
    ]


def test_the_view_responds_under_asgi(store):
    if connection.resolve().alias:
        pytest.skip("Django's own connections belong to one thread")
    response = asyncio.run(AsyncClient().get("/metrics"))
    assert response.status_code == 200
