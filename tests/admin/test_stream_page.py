"""The page of a stream: its timeline, its state at each version, its snapshot."""

import datetime as dt
import re

import pytest
from django.contrib.admin.models import LogEntry

from ossy_event_store import Aggregate, EventStore, event_context
from ossy_event_store.admin import stream_page, streams
from ossy_event_store.aggregate import registry
from tests.library.aggregate import Book
from tests.support.admin import ALL, NOT_ON_DJONGO, text_of, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


def test_a_stream_shows_its_timeline_and_its_state(book, staff):
    client, address = staff(*ALL), url("stream", "change", book.id)
    text = text_of(client.get(address))
    for part in ("As of version 3", "BookBought", "BookLent", "BookReturned"):
        assert part in text
    assert "lent_to" in text
    assert "up to date" in text
    assert "Fresh fold same state" in text
    assert "from tests.library.aggregate import Book" in text
    assert "Aggregate.of(Book, &#x27;emma-1&#x27;)" in text
    before = text_of(client.get(address, {"version": 2}))
    assert "Aggregate.of(Book, &#x27;emma-1&#x27;, at_version=2)" in before


def changes_in(response):
    changes = response.context["moment"]["changes"]
    return [(c["where"], c["kind"], c["old"], c["new"]) for c in changes]


def test_each_version_shows_what_its_event_changed(book, staff):
    client, address = staff(*ALL), url("stream", "change", book.id)
    assert changes_in(client.get(address, {"version": 2})) == [
        ("loans", "changed", "0", "1"),
        ("lent_to", "added", "null", '"ann"'),
    ]
    assert changes_in(client.get(address, {"version": 3})) == [
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


@pytest.mark.parametrize(
    "version",
    ["0", "4", "-1", "x", "1.5", "٣", "9" * 34, "9" * 5000, "0000000000011"],
)
def test_a_version_that_does_not_exist_is_not_found(book, staff, version):
    address = url("stream", "change", book.id)
    client = staff(*ALL)
    assert client.get(address, {"version": version}).status_code == 404
    state = url("stream", "state", book.id)
    assert client.get(state, {"version": version}).status_code == 404


@pytest.mark.parametrize("page", ["change", "state", "download"])
def test_a_stream_that_does_not_exist_is_not_found(store, staff, page):
    client = staff(*ALL)
    for aggregate_id in ("nobody", "a\x00b", "x" * 2000):
        assert client.get(url("stream", page, aggregate_id)).status_code == 404


def test_a_time_leads_to_the_version_of_that_time(book, staff, history, settings):
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
    # The page shows this time without its fraction; typing it in finds the event.
    assert at("2026-03-03T10:00:00") == "version=2"
    assert at("2026-03-03T10:00") == "version=2"
    assert at("2026-03-03T10:00:00.998") == "version=1"
    assert at("2027-01-01T00:00:00") == "version=3"
    assert at("2020-01-01T00:00") == "version=1"
    # A clock that stepped back: version 3 was never the state at that time.
    history.update_one(
        {"aggregateVersion": 3},
        {"$set": {"created": dt.datetime(2026, 3, 2, tzinfo=dt.UTC)}},
    )
    assert at("2026-03-02T12:00") == "version=1"
    assert client.get(address, {"at": "soon"}).status_code == 302
    for edge in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00+14:00"):
        assert "version" not in at(edge)
    response = client.get(address)
    assert "had no events at that time" in text_of(response)
    assert "not a valid time" in text_of(response)


def test_the_timeline_of_a_long_stream_is_paged(lend, staff):
    lend("long", "BookBought", *["BookLent"] * 249)
    client, address = staff(*ALL), url("stream", "change", "long")
    versions, page = [], client.get(address)
    while True:
        versions += [event["version"] for event in page.context["events"]]
        if page.context["older_events"] is None:
            break
        page = client.get(page.context["older_events"])
    assert versions == list(range(250, 0, -1))
    oldest = client.get(address, {"version": 120, "order": "oldest"})
    assert [e["version"] for e in oldest.context["events"]] == list(range(101, 201))
    assert "order=oldest" in oldest.context["newer_events"]


def test_a_page_names_the_version_at_which_the_reducer_raises(store, staff, lend):
    lend("torn", "BookBought", "BookLent")
    lend("torn", "BookReturned")
    EventStore.append_event(
        {"aggregateId": "torn", "aggregateType": "Book", "type": "BookLent"}
    )
    lend("torn", "BookReturned")
    client, address = staff(*ALL), url("stream", "change", "torn")
    text = text_of(client.get(address))
    assert "The reducer failed at version 4: KeyError: &#x27;to&#x27;" in text
    assert "The state below is as of version 3" in text
    assert "loans" in text
    assert text.count("BookReturned") == 2
    assert "reducer failed" not in text_of(client.get(address, {"version": 3}))
    client.post(url("stream", "rebuild", "torn"))
    assert "version 4" in text_of(client.get(address))
    assert LogEntry.objects.count() == 0


@pytest.fixture
def odd(store):
    """Store a stream whose reducer is the given function."""

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


def test_a_page_names_the_version_at_which_the_reducer_returns_no_state(odd, staff):
    odd(lambda events, state: {"n": 1} if events[-1]["payload"]["n"] < 2 else None)
    text = text_of(staff(*ALL).get(url("stream", "change", "odd")))
    assert "The reducer failed at version 3: TypeError" in text
    assert "The state below is as of version 2" in text


def test_a_state_that_cannot_be_stored_is_shown_anyway(odd, staff):
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
    assert changes_in(page) == [("list[2]", "added", "null", "2")]


def test_a_stream_without_a_registered_class_shows_its_events(store, staff):
    EventStore.append_event(
        {"aggregateId": "x", "aggregateType": "Ship", "type": "Built"}
    )
    client = staff(*ALL)
    text = text_of(client.get(url("stream", "change", "x")))
    assert "Built" in text
    assert "No class is registered for this type" in text
    assert "Rebuild" not in text
    assert "no class registered for this type" in text_of(client.get(url("stream")))
    assert client.get(url("stream", "state", "x")).status_code == 404


def test_a_page_says_whether_the_snapshot_equals_a_fresh_fold(book, staff, snapshots):
    snapshots.update_one({}, {"$set": {"state.loans": 7}})
    client = staff(*ALL)
    address = url("stream", "change", book.id)
    assert "Fresh fold different state" in text_of(client.get(address))
    client.post(url("stream", "rebuild", book.id))
    assert "Fresh fold same state" in text_of(client.get(address))


def test_a_page_folds_only_so_many_events_and_uses_the_snapshot(
    lend, staff, monkeypatch, snapshots
):
    monkeypatch.setattr(stream_page, "LONG_STREAM", 5)
    for module in (stream_page, streams):
        monkeypatch.setattr(module, "LONGEST_FOLD", 10)
    lend("long", "BookBought", *["BookLent"] * 19)
    Aggregate.of(Book, "long").save()
    lend("long", *["BookLent"] * 10)
    client, address = staff(*ALL), url("stream", "change", "long")

    def loans(version, **query):
        page = client.get(address, {"version": version, **query})
        assert "As of version" in text_of(page)
        assert len(page.context["events"]) == 30
        moment = page.context["moment"]
        if moment is None:
            assert "too many events away from the snapshot" in text_of(page)
            return None
        state = re.sub("<[^>]*>", "", moment["state"].html)
        return re.search(r"loans\D*(\d+)", state)[1], "changes" in moment

    assert loans(20) == ("19", False)  # the snapshot itself
    assert loans(25) == ("24", True)
    assert loans(26) is None
    assert loans(26, fresh=1) == ("25", True)
    assert loans(5) == ("4", True)
    assert loans(12) is None
    assert client.get(url("stream", "state", "long"), {"version": 30}).json()["loans"]
    snapshots.delete_many({})
    assert client.get(url("stream", "state", "long")).status_code == 404
    assert loans(30, fresh=1) is None
    page = client.get(address)
    assert page.context["snapshot"]["rebuild_url"] is None
    assert "rebuild_aggregates --id" in text_of(page)
    assert client.post(url("stream", "rebuild", "long")).status_code == 404


def test_the_timeline_says_who_did_it_and_because_of_what(store, lend, staff):
    (cause,) = lend("emma", "BookBought")
    with event_context.of(cause), event_context(createdBy="ann & <b>"):
        lend("card", "BookLent")
    with event_context(causationId="gone"):
        lend("card", "BookLent")
    client, address = staff(*ALL), url("stream", "change", "card")
    page = client.get(address)
    assert "by ann &amp; &lt;b&gt; because of BookBought of emma" in text_of(page)
    assert text_of(page).count("because of") == 1
    assert url("event", "change", cause["_id"]) in page.content.decode()
    (row,) = [row for row in page.context["events"] if row["by"]]
    feed = client.get(row["by_url"]).context["rows"]
    assert [event["type"] for event in feed] == ["BookLent"]


def test_who_may_not_see_events_sees_no_cause(store, lend, staff):
    (cause,) = lend("emma", "BookBought")
    with event_context.of(cause):
        lend("card", "BookLent")
    page = staff("view_stream").get(url("stream", "change", "card"))
    assert "because of" not in text_of(page)
    assert str(cause["_id"]) not in page.content.decode()
