"""The list of streams, and what the page of a stream offers: downloads, a rebuild."""

import datetime as dt
import json

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ossy_event_store import EventStore
from ossy_event_store.admin.paging import Cursor
from tests.support.admin import ALL, NOT_ON_DJONGO, text_of, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


# --- the list ---------------------------------------------------------------


def test_streams_with_the_latest_activity_come_first(lend, staff):
    lend("old", "BookBought")
    lend("new", "BookBought")
    lend("old", "BookLent")
    rows = listed(staff(*ALL).get(url("stream")))
    assert rows == ["old", "new"]


def listed(response):
    assert response.status_code == 200, response.context["reason"]
    return [row["stream"] for row in response.context["rows"]]


def test_pages_of_streams_neither_lose_nor_repeat_one(lend, staff):
    ids = [f"book-{n:03}" for n in range(120)]
    for aggregate_id in ids:
        lend(aggregate_id, "BookBought", "BookLent")
    client = staff(*ALL)
    pages, query = [], ""
    while query is not None:
        response = client.get(url("stream") + query)
        pages.append(listed(response))
        query = response.context["links"]["older"]
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [i for page in pages for i in page] == ids[::-1]
    response = client.get(url("stream") + response.context["links"]["newer"])
    assert listed(response) == pages[1]


def test_a_stream_with_newer_events_is_listed_once_across_pages(lend, staff):
    for n in range(70):
        lend(f"book-{n:03}", "BookBought")
    for n in range(70):
        lend(f"book-{n:03}", "BookLent")
    client = staff(*ALL)
    first = client.get(url("stream"))
    second = client.get(url("stream") + first.context["links"]["older"])
    found = listed(first) + listed(second)
    assert sorted(found) == [f"book-{n:03}" for n in range(70)]


def test_streams_are_filtered_by_type_author_and_day(book, lend, staff):
    lend("other", "BookBought")
    EventStore.append_event(
        {
            "aggregateId": "reader",
            "aggregateType": "Reader",
            "type": "Joined",
            "createdBy": "bob",
        }
    )
    client = staff(*ALL)
    assert listed(client.get(url("stream"), {"type": "Reader"})) == ["reader"]
    assert listed(client.get(url("stream"), {"by": "bob"})) == ["reader"]
    both = {"by": "bob", "type": "Book"}
    assert listed(client.get(url("stream"), both)) == []
    today = timezone.localdate()
    tomorrow = today + dt.timedelta(1)
    assert len(listed(client.get(url("stream"), {"since": today}))) == 3
    assert listed(client.get(url("stream"), {"since": tomorrow})) == []
    assert len(listed(client.get(url("stream"), {"until": today}))) == 3


def test_searching_an_id_opens_its_stream_and_a_prefix_lists_streams(book, lend, staff):
    lend("emma-12", "BookBought")
    lend("ulysses", "BookBought")
    client = staff(*ALL)
    response = client.get(url("stream"), {"q": "emma-1"})
    assert response.status_code == 302
    assert response["Location"] == url("stream", "change", "emma-1").replace("-", "-")
    assert listed(client.get(url("stream"), {"q": "emma"})) == [
        "emma-1",
        "emma-12",
    ]
    assert listed(client.get(url("stream"), {"q": "x"})) == []


def test_streams_of_a_prefix_are_paged(lend, staff):
    ids = [f"book-{n:03}" for n in range(60)]
    for aggregate_id in ids:
        lend(aggregate_id, "BookBought")
    client = staff(*ALL)
    first = client.get(url("stream"), {"q": "book"})
    second = client.get(url("stream") + first.context["links"]["next"])
    assert listed(first) + listed(second) == ids
    assert second.context["links"]["next"] is None


@pytest.mark.parametrize(
    ("stored", "status"),
    [
        ({}, "up to date"),
        ({"aggregateVersion": 2}, "older than its stream"),
        ({"aggregateVersion": 9}, "newer than its stream"),
        ({"revision": "old"}, "from another reducer revision"),
    ],
)
def test_the_list_and_the_page_show_the_status_of_the_snapshot(
    book, staff, snapshots, stored, status
):
    if stored:
        snapshots.update_one({}, {"$set": stored})
    client = staff(*ALL)
    assert status in text_of(client.get(url("stream")))
    assert status in text_of(client.get(url("stream", "change", book.id)))


@pytest.mark.parametrize("model", ["stream", "event"])
def test_dates_the_wrong_way_round_are_reported_and_match_nothing(book, staff, model):
    dates = {"since": "2026-03-20", "until": "2026-03-10"}
    response = staff(*ALL).get(url(model), dates)
    assert "The first day is after the last one" in text_of(response)
    assert response.context["rows"] == []


@pytest.mark.parametrize("model", ["stream", "event"])
def test_a_cursor_outside_of_the_dates_matches_nothing(book, staff, model):
    client = staff(*ALL)
    for name, day in (("older", 1), ("newer", 30)):
        cursor = str(Cursor(dt.datetime(2026, 3, day), "x"))
        query = {"since": "2026-03-10", "until": "2026-03-20", name: cursor}
        response = client.get(url(model), query)
        assert response.status_code == 200
        assert response.context["rows"] == []


@pytest.mark.parametrize("name", ["since", "until", "older", "newer"])
def test_an_invalid_filter_is_reported(book, staff, name):
    for text in ("yesterday", "2026-13-45", "\x00", "AAAA", "bm8"):
        response = staff_get(staff, url("stream"), {name: text})
        assert "errornote" in response.content.decode(), text


def staff_get(staff, address, query):
    User.objects.filter(username="ann").delete()
    return staff(*ALL).get(address, query)


# --- rebuild and download ---------------------------------------------------


def test_a_rebuild_takes_a_post_and_is_logged(book, staff, snapshots):
    snapshots.delete_many({})
    client, address = staff(*ALL), url("stream", "rebuild", book.id)
    assert client.get(address).status_code == 405
    assert snapshots.find_one() is None
    response = client.post(address, follow=True)
    assert "Rebuilt the snapshot at version 3." in text_of(response)
    assert snapshots.find_one()["aggregateVersion"] == 3
    (entry,) = LogEntry.objects.all()
    assert (entry.user.username, entry.object_id) == ("ann", "emma-1")
    assert entry.change_message == "Rebuilt the snapshot at version 3."
    assert "emma-1" in text_of(client.get(reverse("admin:index")))


def test_a_rebuild_is_forbidden_to_users_who_may_only_view(book, staff):
    client = staff("view_stream", "view_event", "view_snapshot")
    assert client.post(url("stream", "rebuild", book.id)).status_code == 403
    assert "Rebuild" not in text_of(client.get(url("stream", "change", book.id)))


def test_a_rebuild_from_another_site_is_forbidden(book, django_user_model):
    client = Client(enforce_csrf_checks=True)
    client.force_login(django_user_model.objects.create_superuser("root"))
    assert client.post(url("stream", "rebuild", book.id)).status_code == 403


def test_a_stream_is_downloaded_as_lines_of_json(book, staff):
    response = staff(*ALL).get(url("stream", "download", book.id))
    lines = [json.loads(line) for line in response.getvalue().splitlines()]
    assert [line["aggregateVersion"] for line in lines] == [1, 2, 3]
    assert response["Content-Disposition"] == 'attachment; filename="emma-1.jsonl"'


def test_a_state_is_downloaded_as_of_a_version(book, staff):
    response = staff(*ALL).get(url("stream", "state", book.id), {"version": 2})
    assert json.loads(response.content) == {
        "loans": 1,
        "title": "Emma",
        "lent_to": "ann",
    }
