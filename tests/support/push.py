"""A server that pushes events, the feeds in this process, and two projections."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import django
import pytest
import uvicorn
from django.core.handlers.asgi import ASGIHandler

from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.leases import new_owner
from ossy_event_store.positions.leased_sequencer import run_sequencer
from ossy_event_store.projections.projection import Projection
from ossy_event_store.push import running_feeds
from tests.support.processes import here, serving
from tests.support.servers import until

BOOK = {"aggregateId": "a", "aggregateType": "Book", "type": "BookLent"}
PATIENCE_SECONDS = 60
UVICORN = ("-m", "uvicorn", "--port", "{port}", "tests.asgi:application")


@contextmanager
def assigning_positions():
    """Assign positions in a thread, as the process of the subscriptions does."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        sequencing = pool.submit(run_sequencer, connection.blocking, stop, new_owner())
        try:
            yield
        finally:
            stop.set()
        sequencing.result()


def needs_django_5():
    # Before 5.0, Django does not notice a disconnect, and leaves files open.
    if django.VERSION < (5, 0):
        pytest.skip("needs Django 5.0")


@contextmanager
def running():
    """Run a server in a thread, and return its port."""
    needs_django_5()
    config = uvicorn.Config(
        ASGIHandler(), port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def serving_alone(store, folder):
    """Run a server in a process of its own, and return its port and its log."""
    needs_django_5()
    with serving(folder, *UVICORN, **here(store)) as (log, answer):
        until(answer)
        (port,) = re.findall(r"running on http://127\.0\.0\.1:(\d+)", log())
        yield int(port), log


def listeners():
    """Return the listeners in this process, in any of its loops."""
    return [
        listener
        for of_a_loop in list(running_feeds._feeds.values())
        for feed in list(of_a_loop.values())
        for listener in list(feed._members)
    ]


def versions(messages):
    return [(m.data["aggregateId"], m.data["aggregateVersion"]) for m in messages]


def positions_of(messages):
    return [message.data["position"] for message in messages]


def ids_of(messages):
    return [int(message.id) for message in messages]


async def received(listener, count):
    """Return the positions of the next notifications."""
    found = []
    while len(found) < count:
        found += await listener.receive(PATIENCE_SECONDS)
    return [notification.position for notification in found]


async def joined(listener):
    """Wait until a listener has caught up with its feed."""
    while not listener._is_joined:
        await listener.receive(PATIENCE_SECONDS)


class Readers(Projection):
    """Books by their readers; tests say how far it has come."""

    name = "readers"
    types = ["BookLent", "BookRead"]

    @staticmethod
    def key(event):
        reader = event["payload"].get("to")
        return reader if isinstance(reader, list) else reader and reader.lower()

    @staticmethod
    def apply(event, state):
        return state


class Titles(Projection):
    """Books by their readers; it runs, and fails for the streams in ``broken``."""

    name = "titles"
    initial_state = {"positions": []}
    broken = set()

    @staticmethod
    def key(event):
        return event["payload"]["to"]

    @classmethod
    def apply(cls, event, state):
        if event["aggregateId"] in cls.broken:
            raise ValueError("broken")
        return {"positions": [*state["positions"], event["position"]]}
