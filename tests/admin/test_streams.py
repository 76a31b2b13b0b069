"""The admin's pages: who may see what, what they show, and that they only show."""

import datetime as dt
import json
import re
from weakref import WeakKeyDictionary

import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from django.conf import settings as django_settings
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import site
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, Mongo, registry
from ossy_event_store.admin import StreamAdmin, StreamHistoryMixin, overview
from ossy_event_store.models import Stream
from ossy_event_store.mongodb import indexes, location
from ossy_event_store.mongodb.ports import drive
from tests.library.aggregate import Book
from tests.support.servers import free_port

pytestmark = [
    pytest.mark.versions,
    pytest.mark.django_db,
    pytest.mark.skipif(
        django_settings.STORE == "djongo", reason="djongo cannot keep the users"
    ),
]

APP = "ossy_event_store"
ALL = ("view_stream", "view_event", "view_snapshot", "rebuild_snapshot")


def url(model, page="changelist", *args):
    return reverse(f"admin:{APP}_{model}_{page}", args=args)


@pytest.fixture
def staff(client):
    """Log a member of the staff in who has some permissions of the app."""

    def staff(*permissions):
        user = User.objects.create_user("ann", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(
                content_type__app_label=APP, codename__in=permissions
            )
        )
        client.force_login(user)
        return client

    return staff


@pytest.fixture
def book(store):
    """A book that was bought, lent and returned, with its snapshot."""
    by = {"createdBy": "librarian"}
    return (
        Aggregate.of(
            Book,
            {
                "aggregateId": "emma-1",
                "aggregateType": "Book",
                "type": "BookBought",
                "payload": {"title": "Emma"},
                **by,
            },
        )
        .add(
            {"type": "BookLent", "payload": {"to": "ann"}, **by},
        )
        .add({"type": "BookReturned"})
        .save()
    )


@pytest.fixture
def snapshots(store, _unbound):
    """The snapshots as a collection that even a role's user may change."""
    return _unbound(store.snapshots)


def text_of(response):
    assert response.status_code == 200, response.status_code
    html = response.content.decode()
    body = html[html.index('id="main"') :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


# --- who may see what -------------------------------------------------------


def every_url(book):
    """Each address of the two admins, from their own lists: none can be forgotten."""
    event_id = str(EventStore.get_event_stream(book.id)[0]["_id"])
    for name, object_id in (("stream", book.id), ("event", event_id)):
        (model,) = (m for m in site._registry if m._meta.model_name == name)
        assert model._meta.app_label == APP
        for pattern in site._registry[model].get_urls():
            takes = "object_id" in pattern.pattern.converters
            yield reverse(f"admin:{pattern.name}", args=[object_id] if takes else [])


def test_every_address_is_refused_without_a_permission(book, staff):
    client = staff()
    addresses = list(every_url(book))
    assert len(addresses) == 9
    for address in addresses:
        assert client.get(address).status_code == 403, address
        assert client.post(address).status_code == 403, address


def test_every_address_sends_who_is_not_logged_in_to_log_in(book, client):
    for address in every_url(book):
        response = client.get(address)
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("admin:login"))


def test_who_is_not_of_the_staff_is_sent_to_log_in(book, client):
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


def test_the_index_lists_the_pages_of_those_who_may_see_them(book, staff):
    shown = text_of(staff("view_stream").get(reverse("admin:index")))
    assert "Streams" in shown
    assert "Events" not in shown


def test_who_may_see_streams_alone_sees_who_did_what_but_no_content(book, staff):
    client = staff("view_stream")
    shown = text_of(client.get(url("stream", "change", book.id)))
    assert "BookLent" in shown
    assert "librarian" in shown
    assert "no permission to see what events hold" in shown
    assert "Emma" not in shown
    assert "Snapshot" not in shown
    assert client.get(url("stream", "state", book.id)).status_code == 403


# --- streams ----------------------------------------------------------------


def test_streams_are_listed_by_latest_activity(lend, staff):
    lend("old", "BookBought")
    lend("new", "BookBought")
    lend("old", "BookLent")
    rows = streams_shown(staff(*ALL).get(url("stream")))
    assert rows == ["old", "new"]


def streams_shown(response):
    assert response.status_code == 200, response.context["reason"]
    return [row["stream"] for row in response.context["rows"]]


def test_streams_are_paged_without_loss_or_doubles(lend, staff):
    ids = [f"book-{n:03}" for n in range(120)]
    for aggregate_id in ids:
        lend(aggregate_id, "BookBought", "BookLent")
    client = staff(*ALL)
    pages, query = [], ""
    while query is not None:
        response = client.get(url("stream") + query)
        pages.append(streams_shown(response))
        query = response.context["links"]["older"]
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [i for page in pages for i in page] == ids[::-1]
    response = client.get(url("stream") + response.context["links"]["newer"])
    assert streams_shown(response) == pages[1]


def test_a_stream_that_went_on_is_shown_once_however_the_pages_fall(lend, staff):
    for n in range(70):
        lend(f"book-{n:03}", "BookBought")
    for n in range(70):
        lend(f"book-{n:03}", "BookLent")
    client = staff(*ALL)
    first = client.get(url("stream"))
    second = client.get(url("stream") + first.context["links"]["older"])
    found = streams_shown(first) + streams_shown(second)
    assert sorted(found) == [f"book-{n:03}" for n in range(70)]


def test_streams_are_found_by_type_by_person_and_by_day(book, lend, staff):
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
    assert streams_shown(client.get(url("stream"), {"type": "Reader"})) == ["reader"]
    assert streams_shown(client.get(url("stream"), {"by": "bob"})) == ["reader"]
    asked = {"by": "bob", "type": "Book"}
    assert streams_shown(client.get(url("stream"), asked)) == []
    today = timezone.localdate()
    tomorrow = today + dt.timedelta(1)
    assert len(streams_shown(client.get(url("stream"), {"since": today}))) == 3
    assert streams_shown(client.get(url("stream"), {"since": tomorrow})) == []
    assert len(streams_shown(client.get(url("stream"), {"until": today}))) == 3


def test_an_exact_id_goes_to_its_stream_and_a_prefix_lists(book, lend, staff):
    lend("emma-12", "BookBought")
    lend("ulysses", "BookBought")
    client = staff(*ALL)
    response = client.get(url("stream"), {"q": "emma-1"})
    assert response.status_code == 302
    assert response["Location"] == url("stream", "change", "emma-1").replace("-", "-")
    assert streams_shown(client.get(url("stream"), {"q": "emma"})) == [
        "emma-1",
        "emma-12",
    ]
    assert streams_shown(client.get(url("stream"), {"q": "x"})) == []


def test_a_prefix_is_paged(lend, staff):
    ids = [f"book-{n:03}" for n in range(60)]
    for aggregate_id in ids:
        lend(aggregate_id, "BookBought")
    client = staff(*ALL)
    first = client.get(url("stream"), {"q": "book"})
    second = client.get(url("stream") + first.context["links"]["next"])
    assert streams_shown(first) + streams_shown(second) == ids
    assert second.context["links"]["next"] is None


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ({}, "up to date"),
        ({"aggregateVersion": 2}, "behind"),
        ({"aggregateVersion": 9}, "ahead of its stream"),
        ({"revision": "old"}, "of an earlier reducer"),
    ],
)
def test_the_snapshot_of_a_stream_is_up_to_date_or_not(
    book, staff, snapshots, stored, shown
):
    if stored:
        snapshots.update_one({}, {"$set": stored})
    client = staff(*ALL)
    assert shown in text_of(client.get(url("stream")))
    assert shown in text_of(client.get(url("stream", "change", book.id)))


@pytest.mark.parametrize("name", ["since", "until", "older", "newer"])
def test_what_a_filter_cannot_be_is_said(book, staff, name):
    for text in ("yesterday", "2026-13-45", "\x00", "AAAA", "bm8"):
        response = staff_get(staff, url("stream"), {name: text})
        assert "errornote" in response.content.decode(), text


def staff_get(staff, address, asked):
    User.objects.filter(username="ann").delete()
    return staff(*ALL).get(address, asked)


# --- one stream -------------------------------------------------------------


def test_a_stream_shows_its_timeline_and_its_state(book, staff):
    shown = text_of(staff(*ALL).get(url("stream", "change", book.id)))
    for text in ("As of version 3", "BookBought", "BookLent", "BookReturned"):
        assert text in shown
    assert "lent_to" in shown
    assert "up to date" in shown
    assert "gives the same state" in shown
    assert "from tests.library.aggregate import Book" in shown
    assert "Aggregate.of(Book, &#x27;emma-1&#x27;)" in shown


def moment_shown(response):
    shown = response.context["moment"]
    return [(c["where"], c["kind"], c["old"], c["new"]) for c in shown["changes"]]


def test_each_version_shows_what_its_event_changed(book, staff):
    client, address = staff(*ALL), url("stream", "change", book.id)
    assert moment_shown(client.get(address, {"version": 2})) == [
        ("loans", "changed", "0", "1"),
        ("lent_to", "added", "null", '"ann"'),
    ]
    assert moment_shown(client.get(address, {"version": 3})) == [
        ("lent_to", "changed", '"ann"', "null")
    ]
    steps = client.get(address, {"version": 2}).context["steps"]
    assert [steps[name][-9:] for name in steps] == [
        "version=1",
        "version=1",
        "version=3",
        "version=3",
    ]
    ends = client.get(address, {"version": 3}).context["steps"]
    assert (ends["next"], ends["last"]) == (None, None)


@pytest.mark.parametrize("version", ["0", "4", "-1", "x", "1.5", "٣", "9" * 5000])
def test_a_version_that_is_not_there_is_not_found(book, staff, version):
    address = url("stream", "change", book.id)
    assert staff(*ALL).get(address, {"version": version}).status_code == 404


@pytest.mark.parametrize("page", ["change", "state", "download"])
def test_a_stream_that_is_not_there_is_not_found(store, staff, page):
    client = staff(*ALL)
    for aggregate_id in ("nobody", "a\x00b", "x" * 2000):
        assert client.get(url("stream", page, aggregate_id)).status_code == 404


def test_a_stream_is_shown_as_it_was_at_a_time(book, staff, history, settings):
    settings.TIME_ZONE = "UTC"
    for version, day in ((1, 1), (2, 3), (3, 5)):
        created = dt.datetime(2026, 3, day, 10, 0, 0, 999_000, tzinfo=dt.UTC)
        history.update_one(
            {"aggregateVersion": version}, {"$set": {"created": created}}
        )
    client, address = staff(*ALL), url("stream", "change", book.id)

    def at(text):
        return client.get(address, {"at": text})["Location"].rsplit("?", 1)[-1]

    assert at("2026-03-03T10:15") == "version=2"
    assert at("2026-03-03T09:59") == "version=1"
    # The page shows this event's time without a fraction, to be typed in again.
    assert at("2026-03-03T10:00:00") == "version=2"
    assert at("2026-03-03T10:00") == "version=2"
    assert at("2026-03-03T10:00:00.998") == "version=1"
    assert at("2027-01-01T00:00:00") == "version=3"
    assert at("2020-01-01T00:00") == "version=1"
    assert client.get(address, {"at": "soon"}).status_code == 302
    for edge in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00+14:00"):
        assert "version" not in at(edge)
    response = client.get(address)
    assert "no event yet" in text_of(response)
    assert "not a time" in text_of(response)


def test_a_long_stream_is_shown_in_pages(lend, staff):
    lend("long", "BookBought", *["BookLent"] * 249)
    client, address = staff(*ALL), url("stream", "change", "long")
    versions, page = [], client.get(address)
    while True:
        versions += [event["version"] for event in page.context["events"]]
        if page.context["older_block"] is None:
            break
        page = client.get(page.context["older_block"])
    assert versions == list(range(250, 0, -1))
    oldest = client.get(address, {"version": 120, "order": "oldest"})
    assert [e["version"] for e in oldest.context["events"]] == list(range(101, 201))
    assert "order=oldest" in oldest.context["newer_block"]


def test_a_reducer_that_raises_shows_where_and_all_before(store, staff, lend):
    lend("torn", "BookBought", "BookLent")
    lend("torn", "BookReturned")
    EventStore.append_event(
        {"aggregateId": "torn", "aggregateType": "Book", "type": "BookLent"}
    )
    lend("torn", "BookReturned")
    client, address = staff(*ALL), url("stream", "change", "torn")
    shown = text_of(client.get(address))
    assert "The reducer cannot fold version 4: KeyError: &#x27;to&#x27;" in shown
    assert "The state below is that of version 3" in shown
    assert "loans" in shown
    assert shown.count("BookReturned") == 2
    assert "cannot fold" not in text_of(client.get(address, {"version": 3}))
    client.post(url("stream", "rebuild", "torn"))
    assert "version 4" in text_of(client.get(address))
    assert LogEntry.objects.count() == 0


@pytest.fixture
def odd(store):
    """Return the page of a stream whose reducer is the one given."""

    def odd(view):
        Odd = type("Odd", (), {"aggregate_type": "Odd", "view": staticmethod(view)})
        Odd.__module__ = __name__
        registry._registered["Odd"] = Odd
        for number in range(3):
            EventStore.append_event(
                {
                    "aggregateId": "odd",
                    "aggregateType": "Odd",
                    "type": f"Type{number}",
                    "payload": {"n": number},
                }
            )

    yield odd
    registry._registered.pop("Odd", None)


def test_a_reducer_that_returns_no_state_is_told(odd, staff):
    odd(lambda events, state: {"n": 1} if events[-1]["payload"]["n"] < 2 else None)
    shown = text_of(staff(*ALL).get(url("stream", "change", "odd")))
    assert "The reducer cannot fold version 3: TypeError" in shown
    assert "The state below is that of version 2" in shown


def test_a_state_that_cannot_be_stored_is_shown_all_the_same(odd, staff):
    odd(lambda events, state: {"seen": {1, 2}, "n": len(events)})
    client = staff(*ALL)
    assert "seen" in text_of(client.get(url("stream", "change", "odd")))
    assert client.get(url("stream", "state", "odd")).status_code == 404


def test_a_reducer_that_changes_its_state_in_place_does_not_mix_versions(odd, staff):
    def view(events, state):
        for event in events:
            state.setdefault("list", []).append(event["payload"]["n"])
        return state

    odd(view)
    page = staff(*ALL).get(url("stream", "change", "odd"))
    assert moment_shown(page) == [("list[2]", "added", "null", "2")]


def test_a_type_without_a_class_shows_its_events(store, staff):
    EventStore.append_event(
        {"aggregateId": "x", "aggregateType": "Ship", "type": "Built"}
    )
    client = staff(*ALL)
    shown = text_of(client.get(url("stream", "change", "x")))
    assert "Built" in shown
    assert "No class is registered for this type" in shown
    assert "Rebuild" not in shown
    assert "no class for this type" in text_of(client.get(url("stream")))
    assert client.get(url("stream", "state", "x")).status_code == 404


def test_a_snapshot_that_is_not_what_a_fresh_fold_gives_is_told(book, staff, snapshots):
    snapshots.update_one({}, {"$set": {"state.loans": 7}})
    client = staff(*ALL)
    address = url("stream", "change", book.id)
    assert "gives another state" in text_of(client.get(address))
    client.post(url("stream", "rebuild", book.id))
    assert "gives the same state" in text_of(client.get(address))


# --- rebuild and download ---------------------------------------------------


def test_a_rebuild_needs_its_permission_and_a_post_and_is_logged(
    book, staff, snapshots
):
    snapshots.delete_many({})
    client, address = staff(*ALL), url("stream", "rebuild", book.id)
    assert client.get(address).status_code == 405
    assert snapshots.find_one() is None
    response = client.post(address, follow=True)
    assert "The snapshot was rebuilt, as of version 3." in text_of(response)
    assert snapshots.find_one()["aggregateVersion"] == 3
    (entry,) = LogEntry.objects.all()
    assert (entry.user.username, entry.object_id) == ("ann", "emma-1")
    assert entry.change_message == "Rebuilt the snapshot, as of version 3."
    assert "emma-1" in text_of(client.get(reverse("admin:index")))


def test_a_rebuild_is_refused_to_who_may_only_look(book, staff):
    client = staff("view_stream", "view_event", "view_snapshot")
    assert client.post(url("stream", "rebuild", book.id)).status_code == 403
    shown = text_of(client.get(url("stream", "change", book.id)))
    assert "Rebuild" not in shown


def test_a_rebuild_from_another_site_is_refused(book, django_user_model):
    client = Client(enforce_csrf_checks=True)
    client.force_login(django_user_model.objects.create_superuser("root"))
    assert client.post(url("stream", "rebuild", book.id)).status_code == 403


def test_a_stream_is_downloaded_as_lines_of_json(book, staff):
    response = staff(*ALL).get(url("stream", "download", book.id))
    lines = [json.loads(line) for line in response.getvalue().splitlines()]
    assert [line["aggregateVersion"] for line in lines] == [1, 2, 3]
    assert response["Content-Disposition"] == 'attachment; filename="emma-1.jsonl"'


def test_a_state_is_downloaded_as_it_was(book, staff):
    response = staff(*ALL).get(url("stream", "state", book.id), {"version": 2})
    assert json.loads(response.content) == {
        "loans": 1,
        "title": "Emma",
        "lent_to": "ann",
    }


# --- events -----------------------------------------------------------------


def types_shown(response):
    assert response.status_code == 200, response.context["reason"]
    return [row["type"] for row in response.context["rows"]]


def test_the_feed_shows_the_newest_first_and_is_filtered(book, lend, staff):
    lend("other", "BookBought")
    client, address = staff(*ALL), url("event")
    assert types_shown(client.get(address)) == [
        "BookBought",
        "BookReturned",
        "BookLent",
        "BookBought",
    ]
    asked = {"event_type": "BookBought"}
    assert len(types_shown(client.get(address, asked))) == 2
    asked = {"event_type": "BookBought", "by": "librarian"}
    assert types_shown(client.get(address, asked)) == ["BookBought"]
    assert types_shown(client.get(address, {"type": "Reader"})) == []
    assert types_shown(client.get(address, {"by": "nobody"})) == []


def test_the_feed_is_paged_also_among_events_of_one_time(lend, staff, history):
    lend("a", *["BookRead"] * 130)
    history.update_many({}, {"$set": {"created": dt.datetime(2026, 1, 1)}})
    client = staff(*ALL)
    for asked in ("?", "?event_type=BookRead", "?type=Book"):
        found, query = [], asked
        while query is not None:
            response = client.get(url("event") + query)
            found += [row["version"] for row in response.context["rows"]]
            query = response.context["links"]["older"]
        assert found == list(range(130, 0, -1))


def test_events_of_the_node_package_are_paged_with_the_others(lend, staff, history):
    lend("a", *["BookRead"] * 120)
    half = {"aggregateVersion": {"$lte": 60}}
    history.update_many(half, {"$set": {"created": 1.7e12}, "$unset": {"metadata": 1}})
    client, found, query = staff(*ALL), [], ""
    while query is not None:
        response = client.get(url("event") + query)
        found += [row["version"] for row in response.context["rows"]]
        query = response.context["links"]["older"]
    assert sorted(found) == list(range(1, 121))


def test_an_event_is_found_by_its_id(book, staff):
    client = staff(*ALL)
    (event_id, *_) = (event["_id"] for event in EventStore.get_event_stream(book.id))
    response = client.get(url("event"), {"q": str(event_id)})
    assert response["Location"] == url("event", "change", str(event_id))
    response = client.get(url("event"), {"q": "nothing"})
    assert "There is no event of this id" in text_of(response)
    assert client.get(url("event", "change", "nothing")).status_code == 404
    assert client.get(url("event", "change", str(ObjectId()))).status_code == 404


def test_an_event_shows_what_belongs_to_it(store, staff):
    def append(stream, event_id, **metadata):
        EventStore.append_event(
            {
                "aggregateId": stream,
                "aggregateType": "Book",
                "type": f"Type{event_id}",
                "id": event_id,
                "metadata": metadata,
            }
        )

    append("a", "cause", correlationId="visit-7")
    append("b", "effect", correlationId="visit-7", causationId="cause")
    append("c", "beside", correlationId="visit-7")
    append("c", "other", correlationId="visit-8")
    client = staff(*ALL)
    cause = client.get(url("event", "change", "cause")).context
    assert [event["id"] for event in cause["caused"]] == ["effect"]
    assert {event["id"] for event in cause["correlated"]} == {"effect", "beside"}
    effect = client.get(url("event", "change", "effect")).context
    assert effect["cause"]["id"] == "cause"
    beside = client.get(url("event", "change", "beside")).context
    assert (beside["previous"], beside["next"]["id"]) == (None, "other")
    feed = client.get(cause["correlation_url"])
    assert len(feed.context["rows"]) == 3


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


def test_what_another_program_stored_does_not_bring_a_page_down(book, staff, history):
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


def test_an_event_is_downloaded_whole(store, staff):
    text = "x" * 1_000_000
    EventStore.append_event(
        {
            "aggregateId": "big",
            "aggregateType": "Book",
            "type": "BookBought",
            "id": "big-1",
            "payload": {"text": text, "title": "Emma"},
        }
    )
    client = staff(*ALL)
    for address in (url("event"), url("stream", "change", "big")):
        response = client.get(address)
        assert len(response.content) < 200_000
        assert "A payload of 976.6 KB" in text_of(response)
    page = client.get(url("event", "change", "big-1"))
    assert len(page.content) < 200_000
    assert "Download the whole event" in text_of(page)
    whole = json.loads(client.get(url("event", "download", "big-1")).content)
    assert whole["payload"]["text"] == text


# --- overview ---------------------------------------------------------------


def test_the_overview_says_what_is_there_and_how_it_is(book, lend, staff):
    lend("other", "BookBought", "BookLent")
    EventStore.append_event(
        {"aggregateId": "x", "aggregateType": "Ship", "type": "Built"}
    )
    client = staff(*ALL)
    shown = text_of(client.get(url("stream", "overview")))
    assert "not counted yet" in shown
    assert "no class for this type" in shown
    assert "all there" in shown
    for stale in (True, False):
        AggregateRebuild.build_and_save_all(stale=stale)
        types = client.get(url("stream", "overview")).context["types"]
        counted = {t["name"]: t["tally"] for t in types}
        assert (counted["Book"].streams, counted["Book"].events) == (2, 5)
        assert counted["Ship"] is None
    assert "Book (2)" in text_of(client.get(url("stream")))
    days = client.get(url("stream", "overview")).context["days"]
    assert len(days) == overview.DAYS
    assert sum(day.events for day in days) == 6  # it may be midnight just now


def test_the_overview_names_what_could_not_be_folded(store, staff):
    EventStore.append_event(
        {"aggregateId": "torn", "aggregateType": "Book", "type": "BookLent"}
    )
    AggregateRebuild.build_and_save_all(stale=True)
    response = staff(*ALL).get(url("stream", "overview"))
    (book,) = response.context["types"]
    assert book["tally"].failed == 1
    (failure,) = book["failures"]
    assert failure["id"] == "torn"
    assert failure["url"].endswith("?version=1")


def test_the_overview_counts_a_day_up_to_a_limit(lend, staff, monkeypatch):
    monkeypatch.setattr(overview, "MOST", 5)
    lend("a", *["BookRead"] * 7)
    shown = text_of(staff(*ALL).get(url("stream", "overview")))
    assert "more than 5" in shown


def test_the_chart_of_a_quiet_store_ends_with_the_newest_event(
    lend, staff, history, settings
):
    settings.TIME_ZONE = "Asia/Tokyo"
    client, address = staff(*ALL), url("stream", "overview")
    assert "Nothing came" not in text_of(client.get(address))
    lend("a", "BookBought", "BookLent", "BookReturned")
    for version, day in ((1, 1), (2, 3), (3, 3)):
        created = dt.datetime(2024, 2, day, 16, tzinfo=dt.UTC)  # one day on in Tokyo
        history.update_one(
            {"aggregateVersion": version}, {"$set": {"created": created}}
        )
    response = client.get(address)
    assert "Nothing came" in text_of(response)
    counted = {str(d.day): d.events for d in response.context["days"] if d.events}
    assert counted == {"2024-02-02": 1, "2024-02-04": 2}
    assert response.context["days"][-1].day == dt.date(2024, 2, 4)


def test_the_count_of_a_day_that_ended_is_kept_for_a_while(
    lend, staff, history, monkeypatch
):
    monkeypatch.setattr(overview, "_ended", WeakKeyDictionary())
    client, address = staff(*ALL), url("stream", "overview")
    lend("a", *["BookRead"] * 3)
    now = dt.datetime.now(dt.UTC)
    for version in (1, 2):
        created = now - dt.timedelta(days=3)
        history.update_one(
            {"aggregateVersion": version}, {"$set": {"created": created}}
        )

    def counted():
        days = client.get(address).context["days"]
        return [day.events for day in days if day.events]

    assert counted() == [2, 1]
    lend("b", "BookRead")
    history.update_one(
        {"aggregateId": "a", "aggregateVersion": 3}, {"$set": {"created": created}}
    )
    assert counted() == [2, 1]
    monkeypatch.setattr(overview, "_ended", WeakKeyDictionary())
    monkeypatch.setattr(overview, "KEEP", -1)
    assert counted() == [3, 1]
    lend("b", "BookRead")
    assert counted() == [3, 2]


def test_the_overview_names_a_missing_index(store, staff, history):
    history.drop_index(indexes.CAUSATION.name)
    try:
        health = staff(*ALL).get(url("stream", "overview")).context["health"]
        assert health.missing == [f"eventstore.{indexes.CAUSATION.name}"]
    finally:
        drive(indexes.ensure(store))


def test_a_page_whose_index_is_missing_says_what_to_do(store, staff, history):
    history.drop_index(indexes.TIME.name)
    try:
        response = staff(*ALL).get(url("stream"))
        assert response.status_code == 503
        assert "ensure_event_store" in response.content.decode()
    finally:
        drive(indexes.ensure(store))


# --- in an admin of your own ------------------------------------------------


@pytest.fixture
def own_site():
    """A site with the users, whose history is the stream of their name."""

    class UserAdmin(StreamHistoryMixin, ModelAdmin):
        def stream_id(self, user):
            return f"user-{user.username}"

    own = AdminSite(name="own")
    own.register(User, UserAdmin)
    own.register(Stream, StreamAdmin)
    return own


def own_page(own_site, rf, user, subject):
    request = rf.get("/")
    request.user = user
    response = own_site._registry[User].change_view(request, str(subject.pk))
    return response.render().content.decode()


def test_the_history_of_a_stream_is_on_the_page_of_a_model(own_site, rf, lend):
    root = User.objects.create_superuser("root")
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_user"))
    lend("user-root", *["BookLent"] * 12, "BookReturned")
    page = own_page(own_site, rf, root, root)
    assert "BookReturned" in page
    assert page.count("BookLent") == 9
    assert url("stream", "change", quote("user-root")) in page
    assert "es-history" not in own_page(own_site, rf, root, clerk)
    assert "es-history" not in own_page(own_site, rf, clerk, root)


# --- hostile content --------------------------------------------------------

SCRIPT = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
HOSTILE = [
    SCRIPT,
    "{{ 7|add:7 }}{% now 'Y' %}",
    "a\u202eb\u2066c",
    "\"'`<&>",
    "ü" * 90,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_content_is_shown_inert_and_whole(store, staff, history, text):
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
        client.get(url("stream", "change", quoted(stored["aggregateId"]))),
        client.get(url("event")),
        client.get(url("event", "change", quoted(stored["_id"]))),
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


def quoted(text):
    return quote(text)


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
    shown = text_of(client.get(address))
    for text in ("NaN", "4611686018427387904", "1.10", "int64", "decimal128"):
        assert text in shown


# --- a store that is down ---------------------------------------------------


@pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL")
def test_a_store_that_is_down_is_said_in_time(store, staff, settings):
    client = staff(*ALL)
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    location.use(f"mongodb://127.0.0.1:{free_port()}/")
    try:
        for address in (url("stream"), url("event"), url("stream", "change", "x")):
            response = client.get(address)
            assert response.status_code == 503
            assert "The event store is not available" in response.content.decode()
        assert client.get(reverse("admin:index")).status_code == 200
    finally:
        Mongo.close()
