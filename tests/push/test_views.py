"""Events that are pushed to browsers, from a server that speaks ASGI."""

import asyncio
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import django
import pytest
import uvicorn
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.test import Client

from ossy_event_store import EventStore, Mongo
from ossy_event_store.mongodb import connection as mongodb_connection
from ossy_event_store.mongodb import indexes, location
from ossy_event_store.mongodb.indexes import ENTRY_VERSIONS
from ossy_event_store.mongodb.leases import new_owner
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.head_watcher import watcher
from ossy_event_store.positions.leased_sequencer import run_sequencer
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.projections import projection as projections_projection
from ossy_event_store.projections.generations import in_use
from ossy_event_store.projections.projection import Projection, register_projection
from ossy_event_store.push import applied_events, live_feed
from ossy_event_store.push.live_feed import EventFilter, listening
from ossy_event_store.push.views import EventSourceView
from ossy_event_store.subscriptions import operator_actions
from tests.subscriptions.test_consumer import parked, reached
from tests.subscriptions.test_consumer import running as running_subscriptions
from tests.support import servers
from tests.support.event_source import Source
from tests.support.processes import ON_URL, here, serving
from tests.support.servers import until

pytestmark = [pytest.mark.versions, ON_URL]


@pytest.fixture
def positions(store, _unbound, monkeypatch):
    """Give every event its position, as the process of the subscriptions does."""
    monkeypatch.setattr(Sequencer, "wait_seconds", 0.03)  # else each waits for its end
    index = ENTRY_VERSIONS
    _unbound(store.positions).create_index(list(index.keys), **index.options)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(
            run_sequencer, mongodb_connection.blocking, stop, new_owner()
        )
        try:
            yield
        finally:
            stop.set()
        giving.result()


def needs_django_5():
    # Before, it does not notice that a browser goes, and leaves files behind.
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


@pytest.fixture
def port(positions):
    with running() as port:
        yield port


@pytest.fixture
def connect(port):
    """Connect to a path below ``/push/``; all connections end with the test."""
    with ExitStack() as stack:

        def connect(path, last=None, **options):
            source = Source(port, f"/push/{path}", last, **options)
            return stack.enter_context(source)

        yield connect


def listeners():
    """Return who is listened for in this process, in any of its loops."""
    return [
        listener
        for of_a_loop in list(live_feed._feeds.values())
        for feed in list(of_a_loop.values())
        for listener in list(feed._members)
    ]


def versions(messages):
    return [(m.data["aggregateId"], m.data["aggregateVersion"]) for m in messages]


# --- what is sent -----------------------------------------------------------


def test_a_new_event_is_told_with_its_position_and_without_its_payload(connect, lend):
    lend("a", "BookBought")
    until(lambda: EventStore.head_position() == 1)
    source = connect("all/").begin()
    assert source.last == "1"
    (event,) = lend("a", "BookLent")
    message = source.message()
    assert (message.name, message.id) == ("message", "2")
    created = event["created"].isoformat(timespec="milliseconds")
    assert message.data == {
        "position": 2,
        "aggregateId": "a",
        "aggregateType": "Book",
        "aggregateVersion": 2,
        "type": "BookLent",
        "created": created.replace("+00:00", "Z"),
        "createdBy": None,
    }


def test_the_payload_is_told_where_the_view_says_so(connect, lend):
    source = connect("payload/").begin()
    lend("a", "BookLent")
    assert source.message().data["payload"] == {"to": "ann", "title": "Emma"}


def test_nobody_on_the_way_keeps_or_packs_a_stream(connect, store):
    headers = connect("all/").answer.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize(
    "middleware",
    ["django.middleware.gzip.GZipMiddleware", "tests.support.push_site.synchronous"],
)
def test_middleware_holds_nothing_back(positions, settings, lend, middleware):
    settings.MIDDLEWARE = [middleware]
    with running() as port, Source(port, "/push/all/") as source:
        source.begin()
        lend("a", "BookLent")
        assert source.message().id == "1"


@pytest.mark.parametrize("odd", ["x\nid: 99\n\ndata: {}", "x\r\rdata: 1", "ä\u2028😀"])
def test_no_name_can_forge_a_message(connect, odd):
    source = connect("all/", last=0).begin()
    event = {"aggregateId": odd, "aggregateType": odd, "type": odd, "createdBy": odd}
    EventStore.append_events([event, event])
    first, second = source.take(2)
    assert (first.id, second.id) == ("1", "2")
    for name in event:
        assert first.data[name] == odd


def test_a_value_that_json_does_not_have_is_told_in_extended_json(connect):
    source = connect("payload/").begin()
    payload = {"raw": b"\n"}
    event = {"aggregateId": "a", "aggregateType": "Book", "type": "BookLent"}
    EventStore.append_event({**event, "payload": payload})
    raw = {"$binary": {"base64": "Cg==", "subType": "00"}}
    assert source.message().data["payload"] == {"raw": raw}


def test_a_sign_of_life_takes_the_position_along(connect, lend):
    source = connect("lively/").begin()
    lend("a", "BookBought", "BookBought")
    while source.last != "2":
        assert "data" not in source.block()


def test_an_answer_ends_so_that_permission_is_asked_anew(connect, store):
    source = connect("brief/")
    assert source.message() is None


# --- to whom ----------------------------------------------------------------


def test_a_view_that_does_not_say_who_may_see_is_refused_at_once():
    with pytest.raises(ImproperlyConfigured, match="needs may_see"):
        EventSourceView.as_view(stream="a")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"types": "BookLent"}, "types must be a list"),
        ({"query": ["strem"]}, r"query has \['strem'\]"),
    ],
)
def test_a_view_that_is_set_up_wrongly_is_refused_at_once(wrong, message):
    with pytest.raises(ImproperlyConfigured, match=message):
        EventSourceView.as_view(may_see=lambda request, wanted: True, **wrong)


@pytest.mark.parametrize("path", ["forgotten/", "refused/"])
def test_who_may_not_see_gets_403(connect, store, path):
    assert connect(path).status == 403
    assert listeners() == []


@pytest.mark.django_db(transaction=True)
def test_permission_may_be_asked_of_the_database_which_is_let_go(connect, store, lend):
    User.objects.create_user("ann")
    assert connect("users/bob/").status == 403
    source = connect("users/ann/").begin()
    lend("bob", "BookLent")
    lend("ann", "BookLent")
    assert source.message().data["aggregateId"] == "ann"


@pytest.mark.django_db(transaction=True)
def test_an_open_stream_keeps_no_thread(connect, store):
    User.objects.create_user("ann")
    connect("users/ann/").begin()
    before = threading.active_count()
    for _ in range(20):
        connect("users/ann/").begin()
    until(lambda: threading.active_count() <= before + 3)
    assert len(listeners()) == 21


def test_another_method_is_refused(port, store):
    with ExitStack() as stack:
        connection = stack.enter_context(Source(port, "/push/brief/"))._connection
        connection.close()
        connection.request("HEAD", "/push/all/")
        answer = connection.getresponse()
        assert answer.status == 405
        answer.close()


def test_wsgi_gets_an_answer_that_says_what_is_needed(store):
    answer = Client().get("/push/all/")
    assert answer.status_code == 501
    assert b"ASGI" in answer.content


# --- which events -----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("all/", [("a", 1), ("a", 2), ("b", 1), ("s", 1), ("a", 3)]),
        ("all/?stream=b", [("b", 1)]),
        ("book/a/", [("a", 1), ("a", 2), ("a", 3)]),
        ("all/?stream=a&type=BookLent", [("a", 2), ("a", 3)]),
        ("lent/", [("a", 2), ("s", 1), ("a", 3)]),
        ("all/?type=BookLent&type=BookBought&aggregate_type=Ship", [("s", 1)]),
        ("books/", [("a", 1), ("a", 2), ("b", 1), ("a", 3)]),
        ("books/?type=BookBought", [("a", 1), ("b", 1)]),
        ("all/?stream=a&aggregate_type=Ship", []),
    ],
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_only_what_is_wanted_is_told(connect, lend, path, expected, when):
    last = "&after=0" if "?" in path else "?after=0"
    source = connect(path + last).begin() if when == "meanwhile" else None
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    ship = {"aggregateId": "s", "aggregateType": "Ship", "type": "BookLent"}
    EventStore.append_event(ship)
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 5)
    source = source or connect(path + last)
    found = source.take(len(expected))
    # In one order, but that of commits is not that of two streams' appends.
    assert sorted(versions(found)) == sorted(expected)
    assert [int(m.id) for m in found] == sorted(int(m.id) for m in found)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("all/?strem=a", "no parameter 'strem'"),
        ("all/?stream=", "stream must have 1 to 255 characters"),
        ("all/?stream=a%00", "NUL"),
        ("all/?stream=a&stream=b", "Only one stream"),
        ("all/?stream[$gt]=a", "no parameter"),
        ("book/a/?stream=b", "no parameter 'stream'"),
        ("books/?aggregate_type=Ship", "aggregate_type 'Ship' is not sent here"),
        ("all/?key=a", "A key is one of a projection"),
        ("all/?projection=nothing", "no projection 'nothing'"),
        ("all/?after=x", "must be the position"),
        ("all/?after=-1", "must be the position"),
        ("all/?after=9999999999999999999", "must be the position"),
        ("all/?after=٣", "must be the position"),
    ],
)
def test_what_cannot_be_asked_for_gets_400(connect, store, path, message):
    source = connect(path.replace("٣", "%D9%A3"))
    assert source.status == 400
    assert message in source.answer.read().decode()


# --- nothing is missed ------------------------------------------------------


def test_a_browser_that_comes_back_is_told_what_it_missed(connect, lend):
    source = connect("book/a/").begin()
    lend("a", "BookBought")
    assert versions(source.take(1)) == [("a", 1)]
    source.close()
    lend("b", "BookBought")
    lend("a", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 4)
    source = connect("book/a/?after=0", last=source.last)
    lend("a", "BookLent")
    assert versions(source.take(3)) == [("a", 2), ("a", 3), ("a", 4)]


@pytest.mark.parametrize("page", [2, 100])
def test_much_that_was_missed_is_told_page_by_page(connect, lend, page, monkeypatch):
    monkeypatch.setattr(live_feed, "MISSED", page)
    for number in range(6):
        lend(f"b-{number}", "BookBought", "BookLent")
    until(lambda: EventStore.head_position() == 12)
    assert len(connect("all/", last=0).take(12)) == 12
    lent = connect("lent/", last=0).take(6)
    assert {m.data["aggregateVersion"] for m in lent} == {2}
    assert versions(connect("book/b-3/", last=0).take(2)) == [("b-3", 1), ("b-3", 2)]


def test_a_position_beyond_the_last_means_that_something_was_lost(connect, lend):
    lend("a", "BookBought")
    until(lambda: EventStore.head_position() == 1)
    source = connect("all/", last=1000)
    message = source.message()
    assert (message.name, message.id, message.data) == ("reset", "1", {"position": 1})
    lend("a", "BookLent")
    assert versions(source.take(1)) == [("a", 2)]


def test_positions_that_begin_again_let_every_browser_come_again(
    connect, lend, store, monkeypatch
):
    monkeypatch.setattr(live_feed, "LOOK", 0.1)
    lend("a", "BookBought")
    until(lambda: EventStore.head_position() == 1)
    source = connect("all/").begin()
    mongodb_connection.raw(store.positions).delete_many({})
    assert source.message() is None


def test_an_event_that_was_deleted_past_the_store_is_passed_over(
    connect, lend, history, caplog
):
    lend("a", "BookBought", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 3)
    history.delete_one({"aggregateVersion": 2})
    assert versions(connect("all/", last=0).take(2)) == [("a", 1), ("a", 3)]
    assert "Position 2" in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize(
    ("path", "is_wanted", "count"),
    [
        ("all/", lambda event: True, 480),
        ("lent/", lambda event: event["type"] == "BookLent", 320),
        ("book/b-1/", lambda event: event["aggregateId"] == "b-1", 60),
    ],
)
def test_who_comes_again_and_again_misses_nothing_and_hears_nothing_twice(
    port, path, is_wanted, count
):
    def write(number):
        event = {"aggregateId": f"b-{number}", "aggregateType": "Book"}
        for turn in range(60):
            kind = "BookLent" if turn % 3 else "BookBought"
            EventStore.append_event({**event, "type": kind})

    def read(seed):
        chance, last, heard = random.Random(seed), 0, []
        while len(heard) < count:
            with Source(port, f"/push/{path}", last) as source:
                found = source.take(min(chance.randint(1, 20), count - len(heard)))
                heard += [int(message.id) for message in found]
                last = source.last
        return heard

    with ThreadPoolExecutor(14) as pool:
        readers = [pool.submit(read, seed) for seed in range(6)]
        for writer in [pool.submit(write, number) for number in range(8)]:
            writer.result()
        heard = [reader.result() for reader in readers]
    expected = [e["position"] for e in EventStore.read_all() if is_wanted(e)]
    assert len(expected) == count
    assert heard == [expected] * 6


async def taken(listener, count):
    found = []
    while len(found) < count:
        found += await listener.take(60)
    return [notice.position for notice in found]


async def joined(listener):
    while not listener._is_joined:
        await listener.take(60)


BOOK = {"aggregateId": "a", "aggregateType": "Book", "type": "BookLent"}


def test_a_listener_that_is_slow_has_a_short_queue_and_misses_nothing(
    positions, monkeypatch
):
    monkeypatch.setattr(live_feed, "QUEUE", 5)

    async def slow_and_quick():
        wanted = EventFilter(stream="a")
        async with listening(wanted, 0) as slow, listening(wanted, 0) as quick:
            await joined(slow)
            for _ in range(4):
                await EventStore.aappend_events([BOOK] * 10)
                await taken(quick, 10)
                assert len(slow._waiting) <= 5
            assert not slow._is_joined
            assert await taken(slow, 40) == list(range(1, 41))
            await joined(slow)
            await EventStore.aappend_event(BOOK)
            assert await taken(slow, 1) == [41]

    asyncio.run(slow_and_quick())


def test_who_joins_while_a_page_is_read_misses_none_of_it(positions, monkeypatch):
    entered = []

    async def late_and_early():
        async with listening(EventFilter(types=frozenset(["BookLent"])), 0) as early:
            await joined(early)
            late = live_feed.Listener(early._feed, EventFilter(stream="b"), 0)
            original = live_feed._events

            async def read(*arguments):
                found = await original(*arguments)
                if not entered:
                    entered.append(late)
                    early._feed.enter(late)
                    await late.take(0.01)
                    assert late._is_joined
                return found

            monkeypatch.setattr(live_feed, "_events", read)
            await EventStore.aappend_events([BOOK])
            found = await taken(early, 1)
            await EventStore.aappend_event({**BOOK, "aggregateId": "b"})
            assert await taken(early, 1) == [2]
            assert found == [1]
            assert await taken(late, 1) == [2]
            early._feed.leave(late)

    asyncio.run(late_and_early())
    assert entered


# --- what a connection costs ------------------------------------------------


def test_a_browser_that_goes_leaves_nothing_behind(connect, lend):
    sources = [connect("all/").begin() for _ in range(3)]
    sources.append(connect("book/a/").begin())
    assert len(listeners()) == 4
    for source in sources:
        source.close()
    until(lambda: not listeners())


def test_a_browser_that_goes_while_it_is_written_to_leaves_nothing_behind(
    connect, monkeypatch
):
    monkeypatch.setattr(live_feed, "QUEUE", 3)
    slow = connect("payload/", window=4096).begin()
    quick = connect("book/a/").begin()
    payload = {"text": "x" * 400_000}
    for _ in range(20):  # more than what the system keeps on the way
        EventStore.append_event({**BOOK, "payload": payload})
    assert len(quick.take(20)) == 20
    (waiting,) = [one for one in listeners() if one.wanted == EventFilter()]
    assert not waiting._is_joined
    assert len(waiting._waiting) <= 3
    slow.close()
    quick.close()
    until(lambda: not listeners())


def test_a_slow_browser_is_told_everything(connect, monkeypatch):
    monkeypatch.setattr(live_feed, "QUEUE", 3)
    slow = connect("payload/", window=4096).begin()
    quick = connect("all/").begin()
    payload = {"text": "x" * 400_000}
    for _ in range(20):
        EventStore.append_event({**BOOK, "payload": payload})
    assert len(quick.take(20)) == 20
    assert [int(message.id) for message in slow.take(20)] == list(range(1, 21))


# --- projections ------------------------------------------------------------


class Readers(Projection):
    """Books by who has them."""

    name = "readers"
    types = ["BookLent", "BookRead"]

    @staticmethod
    def key(event):
        reader = event["payload"].get("to")
        return reader and reader.lower()

    @staticmethod
    def apply(event, state):
        return state


@pytest.fixture
def apply(store, monkeypatch):
    """Say how far the projection has applied the events."""
    monkeypatch.setitem(projections_projection._registered, "readers", Readers)

    def apply(position, **more):
        mongodb_connection.raw(store.subscriptions).update_one(
            {"_id": "readers"}, {"$set": {"position": position, **more}}, upsert=True
        )

    return apply


def test_an_event_is_told_once_the_projection_has_applied_it(connect, lend, apply):
    apply(0)
    source = connect("all/?projection=readers&key=ann").begin()
    every = connect("all/").begin()
    lend("a", "BookLent")
    EventStore.append_event({**BOOK, "payload": {"to": "bob"}})
    EventStore.append_event({**BOOK, "payload": {}})
    lend("a", "BookLent")
    assert len(every.take(4)) == 4
    apply(1)
    message = source.message()
    assert message.id == "1"
    assert (message.data["projection"], message.data["key"]) == ("readers", "ann")
    apply(4)
    assert source.message().id == "4"


def test_what_a_projection_applied_meanwhile_is_told_to_who_comes_back(
    connect, lend, apply
):
    lend("a", "BookLent")
    EventStore.append_event({**BOOK, "payload": {"to": "bob"}})
    lend("a", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 4)
    apply(3)
    source = connect("all/?projection=readers&key=ann", last=1)
    assert source.message().id == "3"
    apply(4)
    assert source.message().id == "4"
    source = connect("all/?projection=readers&type=BookRead", last=1)
    assert source.message().id == "4"


def test_who_missed_too_much_of_a_projection_is_told_that_it_lost_something(
    connect, lend, apply, monkeypatch
):
    monkeypatch.setattr(live_feed, "REPLAY", 2)
    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    apply(4)
    message = connect("all/?projection=readers&key=ann", last=1).message()
    assert (message.name, message.id) == ("reset", "4")


def test_an_event_that_the_projection_has_no_key_for_is_passed_over(
    connect, apply, caplog
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    EventStore.append_event({**BOOK, "payload": {"to": {"no": "key"}}})
    EventStore.append_event({**BOOK, "payload": {"to": "ann"}})
    until(lambda: EventStore.head_position() == 2)
    apply(2)
    assert source.message().id == "2"
    assert "Projection readers has no key for position 1" in caplog.text


# --- projections with parked streams ---------------------------------------


class Titles(Projection):
    """Books by who has them, of which some cannot be applied."""

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


@pytest.fixture
def titles(store, quick, monkeypatch):
    """Run a projection that cannot apply what the stream ``a`` has."""
    monkeypatch.setattr(live_feed, "LOOK", 0.1)
    monkeypatch.setattr(projections_projection, "_registered", {})
    monkeypatch.setattr(in_use, "fresh_seconds", 0.0)
    monkeypatch.setattr(Titles, "broken", {"a"})
    mongodb_connection.raw(store.events).database["projection_titles"].drop()
    register_projection(Titles)
    with running_subscriptions("titles"):
        yield Titles


@pytest.fixture
def lend_to(store):
    """Lend a book, and wait until that has a position, and a projection is there."""

    def lend_to(reader, aggregate_id, projection=None):
        payload = {"to": reader}
        event = {**BOOK, "aggregateId": aggregate_id, "payload": payload}
        position = EventStore.head_position() + 1
        EventStore.append_event(event)
        until(lambda: EventStore.head_position() == position)
        if projection:
            reached(store, projection, position)

    return lend_to


@pytest.fixture
def park(store, monkeypatch):
    """Say from which position on a stream is parked; from None on it is not."""
    monkeypatch.setattr(live_feed, "LOOK", 0.1)
    collection = mongodb_connection.raw(store.parked)

    def park(aggregate_id, position, version=1):
        own = {"subscription": "readers", "aggregateId": aggregate_id}
        collection.delete_one({"_id": own})
        if position is not None:
            place = {"position": position, "aggregateVersion": version}
            collection.insert_one({"_id": own, **own, **place})

    return park


def positions_of(messages):
    return [message.data["position"] for message in messages]


def ids_of(messages):
    return [int(message.id) for message in messages]


def test_an_event_of_a_parked_stream_is_told_once_a_retry_has_applied_it(
    connect, lend_to, titles
):
    source = connect("all/?projection=titles").begin()
    for stream in "abab":  # the third arrives while its stream is parked
        lend_to("ann", stream, "titles")
    assert positions_of(source.take(2)) == [2, 4]
    titles.broken.clear()
    assert operator_actions.retry("titles", "a") == 1
    for position in (1, 3):
        message = source.message()
        assert message.data["position"] == position
        assert message.id == "4"
        assert position in titles.get("ann")["positions"]
    lend_to("ann", "a")
    (message,) = source.take(1)
    assert (message.data["position"], message.id) == (5, "5")


def test_a_skipped_event_is_never_told(connect, lend_to, titles, store):
    source = connect("all/?projection=titles").begin()
    for stream in "abab":
        lend_to("ann", stream, "titles")
    assert positions_of(source.take(2)) == [2, 4]
    titles.broken.clear()
    assert operator_actions.skip("titles", "a", "a test order")
    assert positions_of(source.take(1)) == [3]
    lend_to("ann", "c")
    assert positions_of(source.take(1)) == [5]


def test_who_comes_back_is_told_of_no_skipped_event(connect, lend_to, titles, store):
    for stream in "ab":
        lend_to("ann", stream, "titles")
    until(lambda: parked(store))
    source = connect("all/?projection=titles", last=0)
    assert positions_of(source.take(1)) == [2]
    source.close()
    until(lambda: not listeners())
    operator_actions.skip("titles", "a", "a test order")
    until(lambda: not parked(store))
    assert positions_of(connect("all/?projection=titles", last=0).take(1)) == [2]


def test_a_late_event_is_told_to_those_who_listen_for_its_key(connect, lend_to, titles):
    bob = connect("all/?projection=titles&key=bob").begin()
    typed = connect("all/?projection=titles&type=BookRead").begin()
    for reader, stream in [("ann", "a"), ("bob", "a"), ("bob", "b")]:
        lend_to(reader, stream, "titles")
    assert positions_of(bob.take(1)) == [3]
    titles.broken.clear()
    operator_actions.retry("titles")
    assert positions_of(bob.take(1)) == [2]
    EventStore.append_event({**BOOK, "type": "BookRead", "payload": {"to": "bob"}})
    assert positions_of(typed.take(1)) == positions_of(bob.take(1)) == [4]


def test_events_are_told_late_as_far_as_a_retry_has_applied_them(
    connect, lend, lend_to, apply, park
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    lend("a", "BookLent", "BookRead", "BookLent", "BookRead")
    until(lambda: EventStore.head_position() == 4)
    park("a", 2, 2)
    apply(4)
    assert positions_of(source.take(1)) == [1]
    park("a", 4, 4)
    late = source.take(2)
    assert positions_of(late) == [2, 3]
    assert ids_of(late) == [4, 4]
    for stream in "bab":
        lend_to("ann", stream)
    apply(5)
    assert positions_of(source.take(1)) == [5]
    park("a", None)
    apply(6)
    assert positions_of(source.take(2)) == [4, 6]
    apply(7)
    assert positions_of(source.take(1)) == [7]


def test_a_late_event_that_has_no_key_is_told_to_nobody(connect, lend, apply, park):
    apply(0)
    source = connect("all/?projection=readers").begin()
    EventStore.append_event({**BOOK, "payload": {}})
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 2)
    park("a", 1)
    apply(2)
    park("a", None)
    assert positions_of(source.take(1)) == [2]


def test_an_id_does_not_go_back_for_a_listener_that_is_ahead_of_the_projection(
    connect, lend, apply, park
):
    lend("a", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    park("a", 1)
    apply(1)
    source = connect("all/?projection=readers", last=3).begin()
    park("a", 2, 2)
    message = source.message()
    assert (message.data["position"], message.id) == (1, "3")


@pytest.mark.parametrize("last", [1, 2])
def test_who_comes_back_from_before_a_late_event_is_told_that_it_lost_something(
    connect, lend, apply, last
):
    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    apply(3, lateAt=2)
    source = connect("all/?projection=readers", last=last)
    message = source.message()
    assert (message.name, message.id, message.data) == ("reset", "3", {"position": 3})
    apply(4)
    message = source.message()
    assert (message.name, message.id) == ("message", "4")


def test_a_page_that_was_loaded_after_a_late_event_is_not_reset(connect, lend, apply):
    lend("a", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    apply(2, lateAt=2)
    source = connect("all/?projection=readers&after=2").begin()
    apply(3, lateAt=2)
    message = source.message()
    assert (message.name, message.id) == ("message", "3")
    message = connect("all/?projection=readers&after=1").message()
    assert (message.name, message.id) == ("reset", "3")


def test_who_comes_back_from_after_a_late_event_is_told_what_it_missed(
    connect, lend, apply
):
    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    apply(4, lateAt=2)
    source = connect("all/?projection=readers", last=3)
    message = source.message()
    assert (message.name, message.id) == ("message", "4")


def test_a_stream_that_a_rebuild_released_is_told_once_that_has_come_so_far(
    connect, lend_to, apply, park
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    for stream in "ab":
        lend_to("ann", stream)
    park("a", 1)
    apply(2)
    assert positions_of(source.take(1)) == [2]
    apply(0)
    park("a", None)
    (listener,) = listeners()
    time.sleep(5 * live_feed.LOOK)
    assert listener._feed.late_count == 0
    apply(2)
    assert positions_of(source.take(1)) == [1]


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen once, after the next read of a feed."""
    due = []

    def do_after(name):
        original = getattr(applied_events, name)

        async def read(*arguments):
            found = await original(*arguments)
            if due:
                due.pop()()
            return found

        monkeypatch.setattr(applied_events, name, read)

    do_after("read_checkpoint")
    do_after("read_parked")
    return due.append


def test_nobody_is_told_of_what_was_parked_between_two_reads_of_the_feed(
    connect, lend_to, apply, park, meanwhile
):
    apply(0)
    source = connect("all/?projection=readers").begin()
    for stream in "ab":
        lend_to("ann", stream)
    meanwhile(lambda: (park("a", 1), apply(2)))
    assert positions_of(source.take(1)) == [2]
    park("a", None)
    assert positions_of(source.take(1)) == [1]


def test_who_comes_first_is_told_of_what_was_applied_late_while_the_feed_began(
    connect, lend_to, apply, park, meanwhile
):
    for stream in "ab":
        lend_to("ann", stream)
    park("a", 1)
    apply(2)
    meanwhile(lambda: (park("a", None), apply(2, lateAt=2)))
    assert connect("all/?projection=readers", last=2).message().name == "reset"


def test_who_comes_back_is_told_of_what_was_applied_late_while_the_feed_looked(
    connect, lend_to, apply, park, meanwhile, monkeypatch
):
    monkeypatch.setattr(live_feed, "LOOK", 60)
    for stream in "abcd":
        lend_to("ann", stream)
    park("a", 1)
    apply(2)
    source = connect("all/?projection=readers").begin()

    def moves():
        apply(3)
        meanwhile(retries)  # after the read that sees it

    def retries():
        park("a", None)
        apply(3, lateAt=3)

    meanwhile(moves)
    assert positions_of(source.take(2)) == [1, 3]
    assert connect("all/?projection=readers", last=3).message().name == "reset"


async def until_late(feed):
    await asyncio.to_thread(until, lambda: feed.late_count)


def test_a_listener_that_lost_its_queue_is_told_that_it_lost_a_late_event(
    positions, lend, apply, park, monkeypatch
):
    monkeypatch.setattr(live_feed, "QUEUE", 2)
    wanted = EventFilter(projection="readers")
    lend("a", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 2)
    lend("b", "BookLent")
    until(lambda: EventStore.head_position() == 3)

    async def slow():
        async with listening(wanted, None) as listener:
            await joined(listener)
            apply(3)
            await asyncio.to_thread(until, lambda: listener._feed.position == 3)
            park("a", None)
            await until_late(listener._feed)
            assert not listener._is_joined
            (notice,) = await listener.take(60)
            assert (notice.position, notice.event) == (3, None)
            await joined(listener)
            assert listener.position == 3

    park("a", 1)
    apply(0)
    asyncio.run(slow())


def test_a_listener_that_took_a_late_event_and_then_lost_its_queue_reads_on(
    positions, lend, apply, park, monkeypatch
):
    monkeypatch.setattr(live_feed, "QUEUE", 2)

    async def slow():
        async with listening(EventFilter(projection="readers"), None) as listener:
            await joined(listener)
            park("a", None)
            (notice,) = await listener.take(60)
            assert notice.is_late
            apply(4)
            await asyncio.to_thread(until, lambda: not listener._is_joined)
            found = await listener.take(60)
            assert [notice.position for notice in found] == [2, 3, 4]
            assert all(notice.event for notice in found)

    lend("a", "BookLent", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 4)
    park("a", 1)
    apply(1)
    asyncio.run(slow())


def test_a_listener_that_catches_up_is_told_that_it_lost_a_late_event(
    positions, lend, apply, park, monkeypatch
):
    wanted = EventFilter(projection="readers")

    async def behind():
        async with listening(wanted, None) as listener:
            await joined(listener)
            feed = listener._feed
            original = feed.missed

            async def missed(*arguments):
                park("a", None)
                found = await original(*arguments)
                await until_late(feed)
                return found

            monkeypatch.setattr(feed, "missed", missed)
            late = live_feed.Listener(feed, wanted, 1)
            feed.enter(late)
            found = [notice async for notice in notices(late)]
            assert [(n.position, n.event) for n in found][-1] == (3, None)
            assert await taken(listener, 1) == [3]
            feed.leave(late)

    async def notices(listener):
        while not listener._is_joined:
            for notice in await listener.take(60):
                yield notice

    lend("b", "BookLent")
    until(lambda: EventStore.head_position() == 1)
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 2)
    lend("b", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    park("a", 2)
    apply(3)
    asyncio.run(behind())


def test_more_late_events_than_are_told_one_by_one_are_told_as_a_loss(
    connect, lend, apply, park, monkeypatch
):
    monkeypatch.setattr(applied_events, "LATE", 1)
    apply(0)
    source = connect("all/?projection=readers").begin()
    lend("a", "BookLent", "BookLent", "BookLent")
    until(lambda: EventStore.head_position() == 3)
    park("a", 2, 2)
    apply(3)
    assert positions_of(source.take(1)) == [1]
    park("a", None)
    message = source.message()
    assert (message.name, message.id) == ("reset", "3")


def test_a_feed_of_many_parked_streams_tells_late_events_as_a_loss(
    connect, lend_to, apply, park, monkeypatch
):
    monkeypatch.setattr(applied_events, "PARKED", 1)
    apply(0)
    source = connect("all/?projection=readers").begin()
    for stream in "abc":
        lend_to("ann", stream)
    park("a", 1)
    park("b", 2)
    apply(3)
    assert positions_of(source.take(1)) == [3]
    park("b", None)
    park("d", 7)
    apply(3, lateAt=3)
    message = source.message()
    assert (message.name, message.id) == ("reset", "3")
    park("a", None)  # at the same checkpoint: it is noticed when that moves on
    park("e", 8)
    lend_to("ann", "c")
    apply(4, lateAt=3)
    message = source.message()
    assert (message.name, message.id) == ("reset", "3")
    assert positions_of(source.take(1)) == [4]


# --- MongoDB comes and goes -------------------------------------------------


@pytest.fixture
def use(tmp_path):
    """Use a MongoDB of the test's own."""
    with ExitStack() as stack:

        def use(**options):
            running = servers.running(tmp_path / "mongo", **options)
            member = stack.enter_context(running)
            stack.callback(Mongo.close)
            stack.callback(watcher.close)
            watcher.close()
            location.use(member.url())
            drive(indexes.ensure(mongodb_connection.blocking()))
            return member

        yield use


@pytest.mark.faults
def test_a_listener_waits_for_a_server_that_is_away(use):
    running = use()
    stop = threading.Event()

    async def before_and_after():
        async with listening(EventFilter(), 0) as listener:
            await EventStore.aappend_event(BOOK)
            assert await taken(listener, 1) == [1]
            running.members[0].kill()
            assert await listener.take(0.5) == []
            running.members[0].start()
            await asyncio.to_thread(until, running.find_primary)
            await EventStore.aappend_event(BOOK)
            assert await taken(listener, 1) == [2]

    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(
            run_sequencer, mongodb_connection.blocking, stop, new_owner()
        )
        try:
            asyncio.run(before_and_after())
        finally:
            stop.set()
        giving.result()


@pytest.mark.faults
def test_a_listener_on_a_standalone_server_is_told_of_in_the_log(use, caplog):
    use(name=None)

    async def listens():
        async with listening(EventFilter(), None) as listener:
            assert await listener.take(60) == []
            assert listener.position == 0

    asyncio.run(listens())
    assert "MongoDB is a standalone server" in caplog.text


# --- a server of its own ----------------------------------------------------

UVICORN = ("-m", "uvicorn", "--port", "{port}", "tests.asgi:application")


@contextmanager
def serving_alone(store, folder):
    """Run a server in a process, and return its port and its log."""
    needs_django_5()
    with serving(folder, *UVICORN, **here(store)) as (log, answer):
        until(answer)
        (port,) = re.findall(r"running on http://127\.0\.0\.1:(\d+)", log())
        yield int(port), log


@pytest.mark.faults
def test_a_server_that_is_told_to_end_is_not_held_up(positions, store, lend, tmp_path):
    with serving_alone(store, tmp_path) as (port, log):
        sources = [Source(port, f"/push/{path}").begin() for path in ("all/", "lent/")]
        lend("a", "BookLent")
        assert [source.message().id for source in sources] == ["1", "1"]
    # The process has ended by itself, as it was asked to.
    for source in sources:
        assert source.message() is None
        source.close()
    assert "Finished server process" in log()
    assert "Traceback" not in log()


MANY = 1000


@pytest.fixture
def many_files():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * MANY
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connections_and_streams(store):
    """Return how many connections MongoDB has, and how many change streams."""
    admin = mongodb_connection.raw(store.events).database.client.admin
    stage = {"$currentOp": {"allUsers": True, "idleCursors": True}}
    asked = [
        operation.get("cursor", {}).get("originatingCommand", {}).get("pipeline")
        for operation in admin.aggregate([stage])
    ]
    streams = [
        pipeline for pipeline in asked if pipeline and "$changeStream" in pipeline[0]
    ]
    return admin.command("serverStatus")["connections"]["current"], len(streams)


@pytest.mark.faults
def test_a_thousand_connections_cost_mongodb_no_more_than_a_few(
    positions, store, lend, tmp_path, many_files
):
    async def one(port, number, listens):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        path = f"/push/book/b-{number}/"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"retry: 3000\n\n")
        await reader.readuntil(b"\n\n")
        listens.append(number)
        text = await reader.readuntil(b'"createdBy":null}\n\n')
        writer.close()
        return re.findall(rb'"aggregateId":"([\w-]+)"', text)

    async def all_of_them(port):
        listens = []
        each = [asyncio.create_task(one(port, n, listens)) for n in range(MANY)]
        while len(listens) < MANY:
            assert not any(task.done() for task in each)
            await asyncio.sleep(0.05)
        during = connections_and_streams(store)
        for number in range(MANY):
            EventStore.append_event({**BOOK, "aggregateId": f"b-{number}"})
        return during, await asyncio.gather(*each)

    watcher.close()  # of the tests before
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 1)
    with serving_alone(store, tmp_path) as (port, _):
        before = connections_and_streams(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
            during, heard = asyncio.run(all_of_them(port))
        after = connections_and_streams(store)
    assert heard == [[f"b-{number}".encode()] for number in range(MANY)]
    assert max(during[0], after[0]) - before[0] <= 20
    assert during[1] - before[1] == 1


def test_what_counts_change_streams_sees_one(store):
    watcher.close()
    before = connections_and_streams(store)[1]
    with mongodb_connection.raw(store.events).watch():
        assert connections_and_streams(store)[1] == before + 1
