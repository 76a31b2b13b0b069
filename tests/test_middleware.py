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

USERS, PASSES = 20, 2
PATHS = ("blocking", "awaitable", "in_thread", "in_loop", "rest")
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

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(WSGIHandler())
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sends(port, name, cookie):
    """Send the requests of one user, and return what was wrong with the responses."""
    for number in range(PASSES * len(PATHS)):
        path = PATHS[number % len(PATHS)]
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


def all_at_once(server, monkeypatch):
    """Let all users send their requests at once; return what went wrong."""
    monkeypatch.setattr(context_site.meeting, "is_on", True)
    cookies = {}
    for number in range(USERS):
        client = Client()
        user = User.objects.create(username=f"user-{number}")
        client.force_login(user)
        cookies[user.username] = f"sessionid={client.cookies['sessionid'].value}"
    with server() as port, ThreadPoolExecutor(USERS) as pool:
        sending = [
            pool.submit(lambda *args: list(sends(*args)), port, name, cookie)
            for name, cookie in cookies.items()
        ]
        wrong = [problem for one in sending for problem in one.result()]
    assert EventStore.count() == USERS * PASSES * len(PATHS) == 200
    return wrong + wrong_events()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("server", [wsgi, running], ids=["WSGI", "ASGI"])
def test_no_event_of_200_requests_at_once_has_another_user(server, monkeypatch):
    assert all_at_once(server, monkeypatch) == []


@pytest.mark.django_db(transaction=True)
def test_a_context_that_requests_share_is_found(monkeypatch):
    shared = SimpleNamespace(value=None)
    shared.get = lambda: shared.value
    shared.set = lambda value: setattr(shared, "value", value)
    monkeypatch.setattr(current, "_current", shared)
    assert len(all_at_once(wsgi, monkeypatch)) > 20
