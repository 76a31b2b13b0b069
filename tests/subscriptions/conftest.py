"""Handlers in each shape that they may have, and the parts of a consumer."""

import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions import checkpoints
from ossy_event_store.subscriptions.attempts import Attempts
from ossy_event_store.subscriptions.claim import Claim
from ossy_event_store.subscriptions.consumer import delivery_of
from ossy_event_store.subscriptions.declaration import Subscription, subscription
from ossy_event_store.subscriptions.operator_requests import OperatorRequests
from ossy_event_store.subscriptions.progress import Progress, Rate
from ossy_event_store.subscriptions.runner import assign_positions

SHAPES = ["function", "coroutine", "class", "awaitable class"]


@pytest.fixture(params=SHAPES)
def subscribe(request):
    """Subscribe ``do(event)`` in one of the shapes that a handler may have."""

    def subscribe(name, do, **options):
        def function(event, *session):
            do(event, *session)

        async def coroutine(event, *session):
            do(event, *session)

        class Handler:
            def handle(self, event, *session):
                do(event, *session)

        class AwaitableHandler:
            async def handle(self, event, *session):
                do(event, *session)

        shapes = [function, coroutine, Handler, AwaitableHandler]
        handler = shapes[SHAPES.index(request.param)]
        subscription(name, backoff=(0.01, 0.02), **options)(handler)

    return subscribe


class Clock:
    """A monotonic clock that only a test and the pauses of a consumer advance."""

    def __init__(self):
        self.now = 1000.0
        self.pauses = []

    def __call__(self):
        return self.now


@pytest.fixture
def clock(store, monkeypatch):
    clock = Clock()

    async def pause(client, seconds):
        clock.pauses.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(type(store.client), "pause", pause)
    return clock


@pytest.fixture
def consume(store, clock, django_db_blocker):
    """Claim a subscription, and return the parts that a consumer is made of."""
    with ExitStack() as sessions:
        # A handler runs in this thread, where connections to SQL databases are checked.
        sessions.enter_context(django_db_blocker.unblock())

        def consume(handler, **options):
            declared = Subscription("reader", handler, **options)
            drive(checkpoints.find_or_create(store, "reader", 0, "subscription"))
            claim = Claim("reader", "me", threading.Event(), clock=clock)
            assert drive(claim.acquire_lease(store))
            client = connection.raw(store.events).database.client
            session = sessions.enter_context(client.start_session())
            claimed = drive(claim.take_over(store, session))
            delivery = delivery_of(store, session, declared)
            seen = drive(delivery.begin(claimed))
            rate = Rate(clock)
            progress = Progress(store, claim, delivery, claimed["position"], seen, rate)
            parked = drive(delivery.parked())
            attempts = Attempts(store, declared, claim, delivery, progress, parked)
            requests = OperatorRequests(
                store, declared, claim, delivery, progress, attempts
            )
            return SimpleNamespace(
                claim=claim,
                delivery=delivery,
                progress=progress,
                attempts=attempts,
                requests=requests,
            )

        yield consume


@pytest.fixture
def positioned(store, lend):
    """Append events, assign their positions, and return them as handlers get them."""

    def positioned(*streams):
        for stream in streams:
            lend(stream, "BookLent")
        assign_positions(threading.Event())
        return list(EventStore.read_all())

    return positioned
