"""The view that pushes events to browsers, from a server that speaks ASGI."""

import asyncio
import threading

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, Client

from ossy_event_store import EventStore
from ossy_event_store.documents.context.current import current
from ossy_event_store.push.event_filter import EventFilter
from ossy_event_store.push.views import EventSourceView
from tests.support.event_source import Source
from tests.support.processes import ON_URL
from tests.support.push import BOOK, ids_of, listeners, running, versions
from tests.support.servers import until

pytestmark = ON_URL


def requested(path):
    """Return the response to a request that is refused."""
    return asyncio.run(AsyncClient().get(f"/push/{path}"))


# --- what is sent ------------------------------------------------------------


def test_a_new_event_is_sent_with_its_position_and_without_its_payload(connect, lend):
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


def test_the_payload_is_sent_if_the_view_adds_it(connect, lend):
    source = connect("payload/").begin()
    lend("a", "BookLent")
    assert source.message().data["payload"] == {"to": "ann", "title": "Emma"}


def test_headers_forbid_caching_and_buffering(connect, store):
    headers = connect("all/").response.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize(
    "middleware",
    ["django.middleware.gzip.GZipMiddleware", "tests.support.push_site.synchronous"],
)
def test_middleware_buffers_nothing(positions, settings, lend, middleware):
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


def test_a_value_that_json_does_not_have_is_sent_as_extended_json(connect):
    source = connect("payload/").begin()
    payload = {"raw": b"\n"}
    event = {"aggregateId": "a", "aggregateType": "Book", "type": "BookLent"}
    EventStore.append_event({**event, "payload": payload})
    raw = {"$binary": {"base64": "Cg==", "subType": "00"}}
    assert source.message().data["payload"] == {"raw": raw}


def test_a_heartbeat_carries_the_position(connect, lend):
    source = connect("lively/").begin()
    lend("a", "BookBought", "BookBought")
    while source.last != "2":
        assert "data" not in source.block()


def test_a_response_ends_so_that_permission_is_checked_again(connect, store):
    source = connect("brief/")
    assert source.message() is None


# --- to whom -----------------------------------------------------------------


def test_a_view_without_may_see_is_refused_at_once():
    with pytest.raises(ImproperlyConfigured, match="needs may_see"):
        EventSourceView.as_view(stream="a")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"types": "BookLent"}, "types must be a list"),
        ({"query": ["strem"]}, "query names unknown parameters: strem"),
    ],
)
def test_a_misconfigured_view_is_refused_at_once(wrong, message):
    with pytest.raises(ImproperlyConfigured, match=message):
        EventSourceView.as_view(may_see=lambda request, wanted: True, **wrong)


@pytest.mark.parametrize("path", ["forgotten/", "refused/"])
def test_clients_that_may_not_see_get_403(store, path):
    assert requested(path).status_code == 403
    assert listeners() == []


@pytest.mark.django_db(transaction=True)
def test_may_see_may_query_the_database_and_releases_its_connection(
    connect, store, lend
):
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


def test_another_method_is_refused(store):
    response = asyncio.run(AsyncClient().head("/push/all/"))
    assert response.status_code == 405


def test_under_wsgi_the_response_says_what_is_needed(store):
    response = Client().get("/push/all/")
    assert response.status_code == 501
    assert b"ASGI" in response.content


# --- which events ------------------------------------------------------------

EXPECTED = {
    "all/": [("a", 1), ("a", 2), ("b", 1), ("s", 1), ("a", 3)],
    "all/?stream=b": [("b", 1)],
    "book/a/": [("a", 1), ("a", 2), ("a", 3)],
    "all/?stream=a&type=BookLent": [("a", 2), ("a", 3)],
    "lent/": [("a", 2), ("s", 1), ("a", 3)],
    "all/?type=BookLent&type=BookBought&aggregate_type=Ship": [("s", 1)],
    "books/": [("a", 1), ("a", 2), ("b", 1), ("a", 3)],
    "books/?type=BookBought": [("a", 1), ("b", 1)],
    "all/?stream=a&aggregate_type=Ship": [],
    "all/?tag=ship:s": [("s", 1)],
    "all/?tag=ship:s&tag=lent": [("s", 1)],
    "all/?tag=ship:s&tag=unknown": [],
    "ships/?tag=lent": [("s", 1)],
    "ships/?tag=unknown": [],
}


@pytest.mark.parametrize("when", ["before", "after"])
def test_only_matching_events_are_sent(connect, lend, when):
    """The client connects before the events are appended, or after that."""

    def connected():
        return {
            path: connect(path + ("&" if "?" in path else "?") + "after=0")
            for path in EXPECTED
        }

    sources = connected() if when == "before" else {}
    for source in sources.values():
        source.begin()
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    ship = {"aggregateId": "s", "aggregateType": "Ship", "type": "BookLent"}
    EventStore.append_event({**ship, "tags": ["ship:s", "lent"]})
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 5)
    sources = sources or connected()
    for path, expected in EXPECTED.items():
        messages = sources[path].take(len(expected))
        # Positions follow the order of commits, which need not be that of appends.
        assert sorted(versions(messages)) == sorted(expected), path
        assert ids_of(messages) == sorted(ids_of(messages))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("all/?strem=a", "Unknown parameter 'strem'"),
        ("all/?stream=", "stream must have 1 to 255 characters"),
        ("all/?stream=a%00", "NUL"),
        ("all/?stream=a&stream=b", "'stream' must not be repeated"),
        ("all/?stream[$gt]=a", "Unknown parameter"),
        ("book/a/?stream=b", "Unknown parameter 'stream'"),
        ("books/?aggregate_type=Ship", "does not send events of aggregate_type 'Ship'"),
        ("all/?tag=", "must have 1 to 255 characters"),
        ("all/?tag[$gt]=a", "Unknown parameter"),
        ("book/a/?tag=b", "Unknown parameter 'tag'"),
        ("all/?key=a", "'key' needs the parameter 'projection'"),
        ("all/?projection=nothing", "Unknown projection 'nothing'"),
        ("all/?after=x", "must be the position"),
        ("all/?after=-1", "must be the position"),
        ("all/?after=9999999999999999999", "must be the position"),
        ("all/?after=٣", "must be the position"),
    ],
)
def test_a_parameter_that_is_not_allowed_gets_400(store, path, message):
    response = requested(path.replace("٣", "%D9%A3"))
    assert response.status_code == 400
    assert message in response.content.decode()


# --- what a connection costs -------------------------------------------------


def test_a_browser_that_disconnects_leaves_nothing_behind(connect, lend):
    sources = [connect("all/").begin() for _ in range(3)]
    sources.append(connect("book/a/").begin())
    assert len(listeners()) == 4
    for source in sources:
        source.close()
    until(lambda: not listeners())


def test_a_browser_that_disconnects_during_a_write_leaves_nothing_behind(
    connect, limit_feeds
):
    limit_feeds(queue_size=3)
    slow = connect("payload/", window=4096).begin()
    quick = connect("book/a/").begin()
    payload = {"text": "x" * 400_000}
    for _ in range(20):  # more than what the system keeps on the way
        EventStore.append_event({**BOOK, "payload": payload})
    assert len(quick.take(20)) == 20
    (queued,) = [one for one in listeners() if one.wanted == EventFilter()]
    assert not queued._is_joined
    assert len(queued._queue) <= 3
    slow.close()
    quick.close()
    until(lambda: not listeners())


def test_a_slow_browser_receives_every_event(connect, limit_feeds):
    limit_feeds(queue_size=3)
    slow = connect("payload/", window=4096).begin()
    quick = connect("all/").begin()
    payload = {"text": "x" * 400_000}
    for _ in range(20):
        EventStore.append_event({**BOOK, "payload": payload})
    assert len(quick.take(20)) == 20
    assert [int(message.id) for message in slow.take(20)] == list(range(1, 21))


# --- beside the middleware of the context -------------------------------------


@pytest.fixture
def beside_the_context(settings):
    own = "ossy_event_store.middleware.EventContext"
    settings.MIDDLEWARE = [own, *settings.MIDDLEWARE]


def test_events_are_pushed_through_the_middleware_of_the_context(
    beside_the_context, connect, lend, monkeypatch
):
    contexts = []
    data = EventSourceView.data
    monkeypatch.setattr(
        EventSourceView,
        "data",
        staticmethod(lambda event: contexts.append(current()) or data(event)),
    )
    source = connect("all/").begin()
    (event,) = lend("a", "BookBought")
    assert len(source.take(1)) == 1
    assert contexts[0].metadata["causationId"] == str(event["_id"])
    assert contexts[0].request is None
    source.close()
    until(lambda: not listeners())
