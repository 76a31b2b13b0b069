"""What handlers return and raise, and how they end."""

import asyncio
import threading

import pytest
from asgiref.sync import sync_to_async

from ossy_event_store import EventStore, event_context
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.servers import until
from tests.support.subscriptions import parked, reached, running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]


class Panic(BaseException):
    """As an extension in Rust raises it."""


ENDS = [SystemExit(3), asyncio.CancelledError(), Panic()]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("ended", ENDS, ids=["exit", "cancelled", "panic"])
def test_a_handler_cannot_end_the_process_that_calls_it(
    store, lend, subscribe, ended, concurrency
):
    got = []

    def do(event):
        if event["position"] == 1:
            raise ended
        got.append(event["position"])

    subscribe("reader", do, retries=1, concurrency=concurrency)
    lend("a", "BookBought")
    lend("b", "BookBought")
    with running():
        reached(store, "reader", 2)
    assert got == [2]
    (waits,) = parked(store)
    assert waits["tries"] == 2


def test_a_handler_class_that_panics_at_first_is_made_again(store, lend):
    made = []

    @subscription("reader")
    class Reader:
        def __init__(self):
            made.append(1)
            if len(made) == 1:
                raise Panic

        def handle(self, event):
            pass

    lend("a", "BookBought")
    with running():
        reached(store, "reader", 1)


async def later(event):
    raise AssertionError("it is never awaited")


def one_by_one(event):
    yield event


class Awaitable:
    async def __call__(self, event):
        raise AssertionError("it is never awaited")


def wrapped(event):
    return later(event)


HANDLERS = [wrapped, one_by_one, Awaitable()]


@pytest.mark.parametrize("handler", HANDLERS, ids=["wrapped", "generator", "object"])
def test_a_handler_that_does_not_run_when_called_fails(store, lend, handler):
    subscription("reader", retries=0)(handler)
    lend("a", "BookBought")
    with running():
        until(lambda: parked(store))
    assert "was not run" in parked(store)[0]["error"]


class Speechless(Exception):
    def __str__(self):
        return 404


def test_an_error_without_a_message_parks_its_stream(store, lend):
    @subscription("reader", retries=1, backoff=(0.01, 0.02))
    def reader(event):
        raise Speechless

    lend("a", "BookBought")
    with running():
        reached(store, "reader", 1)
    assert parked(store)[0]["error"].startswith("Speechless: ")


# --- in the context of the event ----------------------------------------------

CARD = {"type": "Noted", "aggregateId": "card", "aggregateType": "Reader"}
together = threading.Barrier(2)


def function(event):
    EventStore.append_event(CARD)


async def at_once(event):
    await sync_to_async(together.wait, thread_sensitive=False)(30)
    await EventStore.aappend_event(CARD)


def in_transaction(event, session):
    EventStore.append_event(CARD, session=session)


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (function, {}),
        (at_once, {"concurrency": 2}),
        (in_transaction, {"session": True}),
    ],
)
def test_what_a_handler_appends_has_its_event_as_cause(store, lend, handler, options):
    subscription("reader", aggregate_types=["Book"], **options)(handler)
    with event_context(createdBy="ann", correlationId="c"):
        (first,) = lend("a", "BookBought")
    (other,) = lend("b", "BookBought")
    with running("reader"):
        until(lambda: EventStore.count("card") == 2)
    events = EventStore.get_event_stream("card")
    links = {event["metadata"]["causationId"]: event for event in events}
    assert [event["createdBy"] for event in events] == [None, None]
    assert links[str(first["_id"])]["metadata"]["correlationId"] == "c"
    other_id = str(other["_id"])
    assert links[other_id]["metadata"]["correlationId"] == other_id
