"""Fixtures of the monitoring tests: the views, a server that is down, a failure."""

import datetime as dt
import socket

import pytest

from ossy_event_store import Mongo
from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.servers import until
from tests.support.subscriptions import reached, running


@pytest.fixture(autouse=True)
def served(settings):
    settings.ROOT_URLCONF = "tests.support.monitoring_site"


@pytest.fixture(params=["refuses", "is silent"])
def server_down(settings, request):
    """Settings that lead to a port where nothing listens, or where nothing answers."""
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            occupied.listen()
        port = occupied.getsockname()[1]
        settings.OSSY_EVENT_STORE = {
            "URL": f"mongodb://ann:secret@127.0.0.1:{port}",
            "HEALTH": {"TIMEOUT": 0.1},
        }
        yield
    Mongo.close()


@pytest.fixture
def poisoned(store, quick, lend):
    """A subscription with a parked stream, which has run and no longer runs."""
    bad = {"BookLent"}

    @subscription("mail", retries=0)
    def mail(event):
        if event["type"] in bad:
            raise KeyError("the address of ann")

    lend("book-of-ann", "BookBought", "BookLent")
    with running():
        reached(store, "mail", 2)
    # A busy server may not answer in the second that a process takes to release it.
    leases = connection.raw(store.leases)
    until(lambda: not leases.find_one({"until": {"$gt": dt.datetime.now(dt.UTC)}}))
    return bad
