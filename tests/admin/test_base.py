"""The admin's pages: who may see what, that they only show, and hostile contents."""

import datetime as dt
import math

import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from django.conf import settings as django_settings
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import site
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import OperationalError
from django.db import connection as django_connection
from django.urls import reverse
from pymongo.errors import (
    AutoReconnect,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
)

from ossy_event_store import EventStore, Mongo, StoreUnavailable
from ossy_event_store.admin import StreamAdmin
from ossy_event_store.models import Stream
from ossy_event_store.mongodb import deadline, indexes, location
from ossy_event_store.mongodb.ports import drive
from tests.support.admin import ALL, APP, NOT_ON_DJONGO, text_of, url
from tests.support.servers import free_port

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


# --- who may see what -------------------------------------------------------


def every_url(book):
    """Yield each URL of the two admins, as they declare them."""
    event_id = str(EventStore.get_event_stream(book.id)[0]["_id"])
    for name, object_id in (("stream", book.id), ("event", event_id)):
        (model,) = (m for m in site._registry if m._meta.model_name == name)
        assert model._meta.app_label == APP
        for pattern in site._registry[model].get_urls():
            takes = "object_id" in pattern.pattern.converters
            yield reverse(f"admin:{pattern.name}", args=[object_id] if takes else [])


def test_every_url_is_forbidden_without_its_permission(book, staff):
    client = staff()
    addresses = list(every_url(book))
    assert len(addresses) == 10
    for address in addresses:
        assert client.get(address).status_code == 403, address
        assert client.post(address).status_code == 403, address


def test_every_url_redirects_anonymous_users_to_the_login(book, client):
    for address in every_url(book):
        response = client.get(address)
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("admin:login"))


def test_every_url_redirects_users_who_are_not_staff_to_the_login(book, client):
    client.force_login(User.objects.create_user("root", is_superuser=True))
    for address in every_url(book):
        assert client.get(address).status_code == 302


def test_nothing_can_be_added_changed_or_deleted(book, staff):
    client = staff(*ALL)
    names = {name for name in site._registry if name._meta.app_label == APP}
    for model in names:
        admin = site._registry[model]
        found = {pattern.name.rsplit("_", 1)[1] for pattern in admin.get_urls()}
        assert not found & {"add", "delete", "history"}
    for page in ("add/", f"{book.id}/delete/", f"{book.id}/history/"):
        assert client.get(url("stream") + page).status_code == 404
    before = EventStore.get_event_stream(book.id)
    for address in every_url(book):
        client.post(address, {"id": "other", "_save": "1"})
    assert EventStore.get_event_stream(book.id) == before


def test_the_index_lists_only_the_pages_that_the_user_may_see(book, staff):
    text = text_of(staff("view_stream").get(reverse("admin:index")))
    assert "Streams" in text
    assert "Events" not in text


def test_view_stream_alone_shows_who_did_what_but_no_contents(book, staff):
    client = staff("view_stream")
    text = text_of(client.get(url("stream", "change", book.id)))
    assert "BookLent" in text
    assert "librarian" in text
    assert "not have permission to see the contents of events" in text
    assert "Emma" not in text
    assert "Snapshot" not in text
    assert client.get(url("stream", "state", book.id)).status_code == 403


# --- contents that other programs stored ------------------------------------


ODD = [
    {"type": Code("f()")},
    {"aggregateType": Code("f()")},
    {"aggregateType": {"a": 1}},
    {"payload": ["no", "object"]},
    {"metadata": None},
    {"metadata": {"correlationId": {"a": 1}, "causationId": 7}},
    {"created": "yesterday"},
    {"created": DatetimeMS(2**60)},
    {"createdBy": {"name": "ann"}},
    {"_id": {"a": 1}},
    {"_id": 7},
]
MISSING = ["aggregateType", "type", "payload", "created", "createdBy", "metadata"]


def test_no_page_fails_on_what_another_program_stored(book, staff, history):
    plain = history.find_one({"aggregateId": book.id})
    for number, fields in enumerate([*ODD, *({name: None} for name in MISSING)]):
        stream = f"odd-{number}"
        event = {**plain, "_id": stream, "aggregateId": stream, **fields}
        if number >= len(ODD):
            del event[MISSING[number - len(ODD)]]
        history.insert_one(event)
    client = staff(*ALL)
    response = client.get(url("event"))
    assert len(response.context["rows"]) == len(ODD) + len(MISSING) + 3
    assert client.get(url("stream", "overview")).status_code == 200
    assert client.get(url("stream")).status_code == 200
    for row in response.context["rows"]:
        for address in filter(None, (row["url"], row["stream_url"])):
            assert client.get(address).status_code == 200, address


SCRIPT = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
HOSTILE = [
    SCRIPT,
    "{{ 7|add:7 }}{% now 'Y' %}",
    "a\u202eb\u2066c",
    "\"'`<&>",
    "ü" * 90,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_contents_are_shown_inert_and_in_full(store, staff, history, text):
    stored = {
        "_id": f"id {text}",
        "aggregateId": f"stream {text}",
        "aggregateType": f"kind {text}",
        "aggregateVersion": 1,
        "type": f"type {text}",
        "payload": {f"key {text}".replace("$", ""): f"value {text}"},
        "created": dt.datetime(2026, 1, 1),
        "createdBy": f"by {text}",
        "metadata": {
            "note": f"note {text}",
            "correlationId": text,
            "causationId": text,
        },
    }
    history.insert_one(stored)
    client = staff(*ALL)
    pages = [
        client.get(url("stream")),
        client.get(url("stream", "change", quote(stored["aggregateId"]))),
        client.get(url("event")),
        client.get(url("event", "change", quote(stored["_id"]))),
    ]
    for page in pages:
        html = page.content.decode()
        assert page.status_code == 200
        assert "<script>alert" not in html
        assert "<img src=x" not in html
        assert not {"\u202e", "\u2066"} & set(text_of(page))
        assert "{{ 7|add:7 }}" in html or "{{" not in text
    whole = pages[3].content.decode()
    for name in ("key", "value", "note"):
        assert f"{name} " in whole


def test_values_of_every_kind_are_shown(store, staff, history):
    deep = 1
    for _ in range(90):
        deep = {"a": deep}
    payload = {
        "nan": float("nan"),
        "late": DatetimeMS(10**16),
        "long": Int64(2**62),
        "binary": Binary(b"\x00\xff"),
        "decimal": Decimal128("1.10"),
        "deep": deep,
        "title": "x" * 100_000,
    }
    history.insert_one(
        {
            "_id": ObjectId(),
            "aggregateId": "odd",
            "aggregateType": "Book",
            "aggregateVersion": 1,
            "type": "BookBought",
            "payload": payload,
            "created": DatetimeMS(10**16),
            "createdBy": {"id": 7},
            "metadata": "none",
        }
    )
    client = staff(*ALL)
    for address in (
        url("stream"),
        url("event"),
        url("stream", "change", "odd"),
        url("event", "change", str(history.find_one()["_id"])),
    ):
        assert client.get(address).status_code == 200
    text = text_of(client.get(address))
    for value in ("NaN", "4611686018427387904", "1.10", "int64", "decimal128"):
        assert value in text


# --- a store that is down ---------------------------------------------------


def test_a_page_whose_index_is_missing_says_what_to_do(store, staff, history):
    history.drop_index(indexes.TIME.name)
    try:
        response = staff(*ALL).get(url("stream"))
        assert response.status_code == 503
        assert "ensure_event_store" in response.content.decode()
    finally:
        drive(indexes.ensure(store))


def test_a_page_of_another_database_says_whose_it_is(of_node_3, staff):
    response = staff(*ALL).get(url("stream"))
    assert response.status_code == 503
    assert "events of @ossy/event-store 3.x" in response.content.decode()


@pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL")
def test_a_page_says_in_time_that_the_store_is_down(store, staff, settings):
    client = staff(*ALL)
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.2}
    location.use(f"mongodb://127.0.0.1:{free_port()}/")
    try:
        for address in (url("stream"), url("event"), url("stream", "change", "x")):
            response = client.get(address)
            assert response.status_code == 503
            assert "The event store is not available" in response.content.decode()
        assert client.get(reverse("admin:index")).status_code == 200
    finally:
        Mongo.close()


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("closed"),
        ExecutionTimeout("late", 50),
        OperationFailure("not allowed", 13),
        InvalidOperation("closed"),
        StoreUnavailable("away"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_page_says_that_the_store_is_not_available_whatever_fails(
    admin_client, error
):
    class Failing(StreamAdmin):
        def changelist_view(self, request, extra_context=None):
            assert deadline._deadline.get() < math.inf
            raise error

    own = AdminSite()
    (view,) = (u for u in Failing(Stream, own).get_urls() if u.name.endswith("list"))
    request = admin_client.get(reverse("admin:index")).wsgi_request
    response = view.callback(request)
    assert response.status_code == 503
    assert "not available" in response.render().content.decode()


@pytest.mark.skipif(django_settings.STORE == "mongodb", reason="it executes no SQL")
def test_an_action_is_done_though_the_log_of_the_admin_cannot_be_written(
    book, client, caplog
):
    client.force_login(User.objects.create_superuser("root"))
    with django_connection.execute_wrapper(refused):
        response = client.post(url("stream", "rebuild", book.id))
    assert response.status_code == 302
    assert "Could not record" in caplog.text
    assert LogEntry.objects.count() == 0


def refused(execute, sql, params, many, context):
    if sql.startswith('INSERT INTO "django_admin_log"'):
        raise OperationalError("attempt to write a readonly database")
    return execute(sql, params, many, context)
