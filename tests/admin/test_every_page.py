"""No page fails: whatever is requested, is stored, or is set for the whole site."""

import datetime as dt
import os
import re
import subprocess
import sys
from html import unescape
from itertools import count
from urllib.parse import urljoin

import pytest
from bson import Decimal128
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.contrib.auth.models import User
from django.db import OperationalError
from django.utils import translation
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from ossy_event_store import health
from ossy_event_store.mongodb import connection
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.admin import ALL, NOT_ON_DJONGO, text_of, url
from tests.support.admin_requests import requests
from tests.support.processes import ON_URL, here
from tests.support.sent_commands import Listener

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]

NOW = dt.datetime(2026, 3, 15, 10, tzinfo=dt.UTC)
EVENT = {
    "aggregateType": "Book",
    "aggregateVersion": 1,
    "type": "BookBought",
    "payload": {"title": "Emma"},
    "created": NOW,
    "createdBy": None,
    "metadata": {},
}
FOREIGN = {
    "nothing": dict.fromkeys((*EVENT, "aggregateId")),
    "no stream": {"aggregateId": None},
    "a dict as stream": {"aggregateId": {"a": 1}},
    "a number as stream": {"aggregateId": 7},
    "no version": {"aggregateVersion": None},
    "a text as version": {"aggregateVersion": "1"},
    "half a version": {"aggregateVersion": 1.5},
    "NaN as version": {"aggregateVersion": float("nan")},
    "an endless version": {"aggregateVersion": float("inf")},
    "a decimal version": {"aggregateVersion": Decimal128("1")},
    "no type": {"type": None},
    "no aggregate type": {"aggregateType": None},
}
ODD = {
    **FOREIGN,
    "no payload": {"payload": None},
    "a text as payload": {"payload": "text"},
}


@pytest.fixture
def foreign(history):
    """Store documents of another program, each under the name of what is odd in it."""
    for name, fields in ODD.items():
        event = {"_id": name, "aggregateId": name, **EVENT, **fields}
        history.insert_one({k: v for k, v in event.items() if v is not None})
        if event["aggregateId"] == name:  # a stream that has an event as well
            second = {**EVENT, "_id": f"2 {name}", "aggregateVersion": 2}
            history.insert_one({**second, "aggregateId": name})


def pages(*ids):
    """Return the addresses of all lists, and of streams and their first events."""
    return [
        *(url("stream"), url("stream", "overview"), url("event"), url("subscription")),
        f"{url('event', 'catalogue')}?stored",
        *(url("stream", page, i) for page in ("change", "state") for i in ids),
        *(url("event", page, i) for page in ("change", "download") for i in ids),
    ]


# --- what is stored ---------------------------------------------------------


def test_documents_that_are_no_events_are_marked_and_passed_over(
    foreign, staff, settings
):
    client = staff(*ALL, "view_subscription")
    for address in pages(*ODD):
        assert client.get(address).status_code in (200, 404), address
    rows = client.get(url("event")).context["rows"]
    assert {row["id"] for row in rows if row["is_foreign"]} == FOREIGN.keys()
    assert text_of(client.get(url("event"))).count("no event") == len(FOREIGN)
    for name in ODD:
        page = text_of(client.get(url("event", "change", name)))
        assert ("This document is no event" in page) == (name in FOREIGN), name
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "HEALTH": {}}
    assert health.figures()["store"] == {"reachable": True, "error": None}


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_times_at_both_ends_of_the_calendar_are_shown(history, staff, settings, zone):
    settings.TIME_ZONE = zone
    for name, created in (("first", dt.datetime.min), ("last", dt.datetime.max)):
        event = {"_id": name, "aggregateId": name, **EVENT, "created": created}
        history.insert_one(event)
    client = staff(*ALL, "view_subscription")
    for address in pages("first", "last"):
        assert client.get(address).status_code == 200, address
    assert "9999-12-31" in text_of(client.get(url("event")))


# --- what is requested ------------------------------------------------------

# The first requests run each line that the others run.
MANY = [pytest.mark.faults, pytest.mark.no_cover]


@pytest.mark.usefixtures("quick", "foreign")
@pytest.mark.parametrize(
    ("seed", "number"),
    [
        (1, 100),
        *(pytest.param(seed, 2500, marks=MANY) for seed in range(2, 6)),
    ],
)
def test_no_request_is_answered_with_an_error_of_the_server(
    book, client, store, monkeypatch, seed, number
):
    if seed > 1:  # it is the same on each page, and an eighth of the time
        monkeypatch.setattr(admin.site, "enable_nav_sidebar", False)
    subscription("mails")(print)
    connection.raw(store.subscriptions).insert_one({"_id": "mails", "position": 1})
    client.force_login(User.objects.create_superuser("root"))
    client.raise_request_exception = False
    ids = (*ODD, book.id, str(book.events[0]["_id"]), "mails", "Book", "BookBought")
    failed, statuses = [], set()
    for method, address in requests(seed, number, ids):
        response = getattr(client, method)(address)
        response.getvalue()
        statuses.add(response.status_code)
        if response.status_code >= 500:
            reason = str(response.context["reason"]) if response.context else "crashed"
            failed.append((method, address, reason))
    assert not failed, (len(failed), failed[:5])
    assert {200, 302, 404} <= statuses


@ON_URL  # on an alias, sessions and users are queried in the same way
def test_a_page_says_so_whichever_of_its_queries_breaks(book, staff, monkeypatch):
    left = 0  # queries until one breaks

    def breaking(method):
        def query(self, *args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise AutoReconnect("closed")
            return method(self, *args, **options)

        return query

    client = staff(*ALL, "view_subscription")
    for name in ("find", "find_raw_batches", "aggregate", "count_documents"):
        monkeypatch.setattr(Collection, name, breaking(getattr(Collection, name)))
    for address in pages(book.id):
        for number in count(1):
            left = number
            status = client.get(address).status_code
            if left > 0:  # it has no more
                break
            assert status == 503, (address, number)
        assert number > 1, address


@ON_URL
def test_every_query_of_a_page_has_a_time_limit(book, staff, settings):
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    client = staff(*ALL, "view_subscription")
    for address in pages(book.id):
        client.get(address)
    reads = {"find", "aggregate", "count", "hello", "buildInfo", "listIndexes"}
    sent = [command for name in reads for command in listener.sent[name]]
    assert len(sent) > len(reads)
    assert [command for command in sent if "maxTimeMS" not in command] == []


# --- what is set for the whole site -----------------------------------------


def test_without_time_zones_pages_and_filters_mean_the_local_time(
    history, staff, settings
):
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Tokyo"
    created = dt.datetime(2026, 3, 15, 20, tzinfo=dt.UTC)  # the 16th in Tokyo
    history.insert_one(
        {"_id": "emma", "aggregateId": "emma", **EVENT, "created": created}
    )
    client = staff(*ALL, "view_subscription")
    for address in pages("emma"):
        assert client.get(address).status_code == 200, address
    for address in (url("event"), url("stream"), url("stream", "change", "emma")):
        assert "2026-03-16 05:00:00" in text_of(client.get(address))
    found = client.get(url("event"), {"since": "2026-03-16", "until": "2026-03-16"})
    assert len(found.context["rows"]) == 1
    found = client.get(url("stream", "change", "emma"), {"at": "2026-03-16T05:00:00"})
    assert found["Location"].endswith("?version=1")
    days = client.get(url("stream", "overview")).context["days"]
    assert [str(day.day) for day in days if day.events] == ["2026-03-16"]


@pytest.mark.parametrize("language", ["ar", "fa", "de"])
def test_pages_work_in_languages_that_write_numbers_in_another_way(
    history, staff, settings, language
):
    settings.LANGUAGE_CODE = language
    settings.USE_THOUSAND_SEPARATOR = True
    events = [
        {**EVENT, "aggregateId": "long", "aggregateVersion": 1 + n} for n in range(1100)
    ]
    history.insert_many([{"_id": f"e-{n}", **event} for n, event in enumerate(events)])
    client = staff(*ALL, "view_subscription")
    with translation.override(language):
        for address in pages("long", "e-1000"):
            assert client.get(address).status_code in (200, 404), address
        page = client.get(url("stream", "change", "long"), {"version": 1001})
    html = page.content.decode()
    assert f'lang="{language}"' in html
    links = [
        unescape(one) for one in re.findall('href="([^"]+)"', html) if "version=" in one
    ]
    assert any("version=1000" in one for one in links)
    for link in links[:5]:
        assert (
            client.get(urljoin(url("stream", "change", "long"), link)).status_code
            == 200
        )


def test_what_an_operator_did_stays_done_if_it_cannot_be_recorded(
    client, store, monkeypatch
):
    """The site's own database is read-only: the log of the admin cannot be written."""

    def refuse(*arguments):
        raise OperationalError("attempt to write a readonly database")

    subscription("mails")(print)
    connection.raw(store.subscriptions).insert_one({"_id": "mails", "position": 1})
    client.force_login(User.objects.create_superuser("root"))
    monkeypatch.setattr(ModelAdmin, "log_change", refuse)
    for action, paused in (("pause", True), ("resume", False)):
        response = client.post(url("subscription", action, "mails"))
        assert response.status_code == 302
        found = connection.raw(store.subscriptions).find_one({"_id": "mails"})
        assert bool(found["paused"]) == paused


@ON_URL
def test_pages_work_on_a_site_that_differs_in_everything(store, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.other_site", tmp_path],
        env={
            **os.environ,
            **here(store),
            "DJANGO_SETTINGS_MODULE": "tests.support.other_site.settings",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "all pages work\n", done.stdout + done.stderr
