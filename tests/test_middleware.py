"""The middleware: who did it and what belongs together, under WSGI and ASGI."""

import asyncio
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.db import connections
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext

from ossy_event_store import EventStore, IdempotencyConflict, InvalidEvent
from ossy_event_store.documents.context import current
from tests.support import context_site
from tests.support.admin import NOT_ON_DJONGO
from tests.support.push import running

pytestmark = [pytest.mark.versions, NOT_ON_DJONGO]

USERS = 20
# What each user requests. Under WSGI, each use of the awaitable face opens a client.
PATHS = ["blocking", "in_thread", "rest"] * 2 + ["blocking", "in_thread"]
PATHS += ["awaitable", "in_loop"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NEW_ID = re.compile(r"[\w-]{21}")


@pytest.fixture(autouse=True)
def site(settings, store):
    """The middleware before that of the users, and sessions without queries."""
    settings.ROOT_URLCONF = "tests.support.context_site"
    settings.MIDDLEWARE = context_site.MIDDLEWARE
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    return settings


def option(settings, **options):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "CONTEXT": options}


def stored():
    return EventStore.find_events({}, sort=[("created", 1), ("_id", 1)], default=[])


def one_stored():
    (event,) = stored()
    return event


# --- many at the same time ----------------------------------------------------


@contextmanager
def wsgi():
    """Run a server with a thread for each request, and return its port."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *arguments):
            pass

    class Server(ThreadedWSGIServer):
        request_queue_size = 2 * USERS  # else some of them wait for a second

    server = Server(("127.0.0.1", 0), Quiet)
    server.set_app(WSGIHandler())
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sends(port, paths, together, name, cookie):
    """Send the requests of one user, and return what was wrong with the responses."""
    for number, path in enumerate(paths):
        together.wait(60)  # so that as many are at a path as wait for each other there
        correlation = f"{name}/{number}"
        expected = {"user": name, "correlation": correlation, "stream": name}
        url = f"http://127.0.0.1:{port}/{path}/?{urlencode(expected)}"
        headers = {"X-Correlation-ID": correlation, "Cookie": cookie}
        if path == "rest":
            headers = {**headers, "Cookie": "", "Authorization": f"Token {name}"}
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            if response.headers["X-Correlation-ID"] != correlation:
                yield f"{correlation}: {response.headers['X-Correlation-ID']}"


def wrong_events():
    """Return the events that have another user or correlation than expected."""
    found = []
    for event in EventStore.find_events({}):
        who, correlation = event["createdBy"], event["metadata"].get("correlationId")
        expected = event["payload"]["user"], event["payload"]["correlation"]
        if (who, correlation) != expected:
            found.append((who, correlation, *expected))
    return found


def all_at_once(server, monkeypatch, paths=PATHS):
    """Let all users send their requests at once; return what went wrong."""
    monkeypatch.setattr(context_site.meeting, "is_on", True)
    monkeypatch.setattr(context_site.meeting, "barriers", {})
    cookies = {}
    for number in range(USERS):
        client = Client()
        user = User.objects.create(username=f"user-{number}")
        client.force_login(user)
        cookies[user.username] = f"sessionid={client.cookies['sessionid'].value}"
    together = threading.Barrier(USERS)
    with server() as port, ThreadPoolExecutor(USERS) as pool:
        sending = []
        for number, (name, cookie) in enumerate(cookies.items()):
            first = number // context_site.TOGETHER % len(paths)
            own = [*paths[first:], *paths[:first]]
            args = (port, own, together, name, cookie)
            sending.append(pool.submit(lambda *args: list(sends(*args)), *args))
        wrong = [problem for one in sending for problem in one.result()]
    assert EventStore.count() == USERS * len(paths)
    return wrong + wrong_events()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("server", [wsgi, running], ids=["WSGI", "ASGI"])
def test_no_event_of_200_requests_at_once_has_another_user(server, monkeypatch):
    assert USERS * len(PATHS) == 200
    assert all_at_once(server, monkeypatch) == []


@pytest.mark.django_db(transaction=True)
def test_a_context_that_requests_share_is_found(monkeypatch):
    shared = SimpleNamespace(value=None)
    shared.get = lambda: shared.value
    shared.set = lambda value: setattr(shared, "value", value)
    monkeypatch.setattr(current, "_current", shared)
    assert len(all_at_once(wsgi, monkeypatch, ["blocking", "rest"])) > 10


# --- one request --------------------------------------------------------------


@pytest.fixture
def ann(django_user_model):
    return django_user_model.objects.create(username="ann")


def get(path, user=None, *, client=Client, headers=None, **query):
    """Send one request, through either handler of Django."""
    own = client()
    if user is not None:
        own.force_login(user)
    found = own.get(f"/{path}/", query, headers=headers)
    return asyncio.run(found) if client is AsyncClient else found


@pytest.mark.django_db
def test_a_request_that_appends_nothing_makes_no_query(ann, site):
    def queries():
        client = Client()
        client.force_login(ann)
        with CaptureQueriesContext(connections["default"]) as captured:
            response = client.get("/nothing/")
        assert "Cookie" not in response.headers.get("Vary", "")
        return len(captured)

    assert queries() == 0
    site.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    assert queries() == 0


@pytest.mark.django_db
def test_nobody_is_logged_in(ann):
    response = get("blocking")
    event = one_stored()
    assert event["createdBy"] is None
    assert NEW_ID.fullmatch(event["metadata"]["correlationId"])
    assert event["metadata"].keys() == {"correlationId"}
    assert response["X-Correlation-ID"] == event["metadata"]["correlationId"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["executed", "executed_async"])
def test_every_way_to_append_fills_in_the_same(ann, path):
    response = get(path, ann)
    filled = {
        (event["createdBy"], event["metadata"]["correlationId"]) for event in stored()
    }
    assert filled == {("ann", response["X-Correlation-ID"])}
    assert {event["aggregateId"] for event in stored()} == {
        *("of", "successor", "streams", "t", "tag:1")
    }


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("path", "client"),
    [("streamed", Client), ("streamed", AsyncClient), ("streamed_async", AsyncClient)],
)
def test_a_body_is_streamed_in_the_context_of_its_request(ann, path, client):
    async def parts(response):
        return [part async for part in response]

    if client is Client:
        own = Client()
        own.force_login(ann)
        response = own.get(f"/{path}/")
        assert EventStore.count() == 0
        assert list(response) == [b"part", b"part"]
    else:

        async def request():
            own = AsyncClient()
            await sync_to_async(own.force_login)(ann)
            response = await own.get(f"/{path}/")
            return response, await parts(response)

        response, body = asyncio.run(request())
        assert body == [b"part", b"part"]
    first, second = stored()
    assert first["createdBy"] == second["createdBy"] == "ann"
    correlation = response["X-Correlation-ID"]
    assert first["metadata"] == second["metadata"] == {"correlationId": correlation}
    assert current.current() is None


@pytest.mark.django_db
def test_what_an_event_says_wins_over_a_block_and_that_over_the_request(ann):
    response = get("explicit", ann)
    correlation = {"correlationId": response["X-Correlation-ID"], "note": "n"}
    assert [(event["createdBy"], event["metadata"]) for event in stored()] == [
        ("given", correlation),
        (None, correlation),
        ("block", correlation),
    ]


@pytest.mark.django_db
def test_who_logs_in_between_two_appends_is_known_from_then_on(ann):
    get("logs_in", name="ann")
    assert [event["createdBy"] for event in stored()] == [None, "ann"]


@pytest.mark.django_db
def test_a_user_who_was_deleted_is_nobody(ann):
    client = Client()
    client.force_login(ann)
    ann.delete()
    client.get("/blocking/")
    assert one_stored()["createdBy"] is None


@pytest.mark.django_db
def test_a_coroutine_that_would_wait_for_the_user_is_told_what_to_await(ann):
    with pytest.raises(SynchronousOnlyOperation, match=r"await event_context\.acarry"):
        get("carried_in_loop", ann)


# --- the same again -----------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["blocking", "awaitable"])
def test_the_same_request_twice_stores_its_event_once(ann, site, path):
    option(site, REQUEST_ID=True, ADDRESS=True)
    for number in range(2):
        headers = {
            "X-Request-ID": f"request-{number}",
            "X-Correlation-ID": f"correlation-{number}",
            "traceparent": TRACEPARENT.replace("b7", f"c{number}"),
        }
        user = ann if number == 0 else None
        assert get(path, user, headers=headers, id="once").status_code == 200
    assert one_stored()["metadata"] == {
        "correlationId": "correlation-0",
        "requestId": "request-0",
        "traceparent": TRACEPARENT.replace("b7", "c0"),
        "ip": "127.0.0.0/24",
    }
    with pytest.raises(IdempotencyConflict) as conflict:
        get(path, ann, id="once", other="payload")
    assert conflict.value.differences == ("payload",)


# --- what comes in headers ----------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    "forged", ["", "a" * 129, "a b", "a,b", "<b>", "$ne", "a\x00", "\u00e9", "a\n"]
)
def test_a_forged_header_gives_a_new_id(forged):
    response = get("blocking", headers={"X-Correlation-ID": forged})
    assert NEW_ID.fullmatch(response["X-Correlation-ID"])


@pytest.mark.django_db
def test_a_trace_gives_the_correlation_unless_a_header_does(site):
    response = get("blocking", headers={"traceparent": TRACEPARENT})
    assert response["X-Correlation-ID"] == "0af7651916cd43dd8448eb211c80319c"
    assert one_stored()["metadata"]["traceparent"] == TRACEPARENT
    both = {"traceparent": TRACEPARENT, "X-Correlation-ID": "a:b/c=1"}
    assert get("nothing", headers=both)["X-Correlation-ID"] == "a:b/c=1"
    option(site, TRUST_HEADERS=False)
    assert NEW_ID.fullmatch(get("nothing", headers=both)["X-Correlation-ID"])


@pytest.mark.django_db
def test_a_span_of_opentelemetry_goes_before_the_header():
    trace = pytest.importorskip("opentelemetry.trace")
    ids = int("4bf92f3577b34da6a3ce929d0e0e4736", 16), int("00f067aa0ba902b7", 16)
    span = trace.SpanContext(*ids, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(span)):
        get("blocking", headers={"traceparent": TRACEPARENT})
    assert one_stored()["metadata"] == {
        "correlationId": "4bf92f3577b34da6a3ce929d0e0e4736",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }


# --- the setting --------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("attribute", "expected"),
    [("username", "ann"), ("pk", None), ("email", "a@b.example"), (None, "nobody")],
)
def test_the_setting_says_what_names_a_user(ann, site, attribute, expected):
    ann.email = "a@b.example"
    ann.save()
    option(site, USER=attribute)
    get("blocking", ann)
    name = {"nobody": None, None: str(ann.pk)}.get(expected, expected)
    assert one_stored()["createdBy"] == name


@pytest.mark.django_db
def test_an_attribute_that_users_lack_is_named(ann, site):
    option(site, USER="handle")
    with pytest.raises(ImproperlyConfigured, match=r"\['USER'\] is 'handle', but the"):
        get("blocking", ann)


@pytest.mark.django_db
def test_a_name_that_no_event_can_hold_says_which_setting_helps(ann, site):
    User.objects.filter(pk=ann.pk).update(first_name="\0")
    option(site, USER="first_name")
    with pytest.raises(InvalidEvent, match=r"CONTEXT'\]\['USER'\] to 'pk'") as refused:
        get("blocking", ann)
    assert refused.value.path == "createdBy"
