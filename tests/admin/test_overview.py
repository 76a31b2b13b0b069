"""The overview: contents, events per day, and the store's health."""

import datetime as dt

import pytest

from ossy_event_store import AggregateRebuild, EventStore
from ossy_event_store.admin import StreamAdmin
from ossy_event_store.admin.overview import CHART_DAYS, DayCounts
from ossy_event_store.mongodb import indexes
from ossy_event_store.mongodb.ports import drive
from tests.support.admin import ALL, NOT_ON_DJONGO, text_of, url

pytestmark = [pytest.mark.versions, pytest.mark.django_db, NOT_ON_DJONGO]


@pytest.fixture(autouse=True)
def _no_kept_counts(monkeypatch):
    monkeypatch.setattr(StreamAdmin, "day_counts", DayCounts())


def test_the_overview_shows_contents_and_health(book, lend, staff):
    lend("other", "BookBought", "BookLent")
    EventStore.append_event(
        {"aggregateId": "x", "aggregateType": "Ship", "type": "Built"}
    )
    client = staff(*ALL)
    text = text_of(client.get(url("stream", "overview")))
    assert "not counted yet" in text
    assert "no class is registered for this type" in text
    assert "all exist" in text
    for stale in (True, False):
        AggregateRebuild.build_and_save_all(stale=stale)
        types = client.get(url("stream", "overview")).context["types"]
        counted = {t["name"]: t["tally"] for t in types}
        assert (counted["Book"].streams, counted["Book"].events) == (2, 5)
        assert counted["Ship"] is None
    assert "Book (2)" in text_of(client.get(url("stream")))
    days = client.get(url("stream", "overview")).context["days"]
    assert len(days) == CHART_DAYS
    assert sum(day.events for day in days) == 6  # midnight may pass meanwhile


def test_the_overview_names_streams_that_failed_to_fold(store, staff):
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


def test_counting_the_events_of_a_day_stops_at_the_limit(lend, staff, monkeypatch):
    monkeypatch.setattr(StreamAdmin, "day_counts", DayCounts(limit=5))
    lend("a", *["BookRead"] * 7)
    assert "more than 5" in text_of(staff(*ALL).get(url("stream", "overview")))


def test_the_chart_of_a_quiet_store_ends_with_the_newest_event(
    lend, staff, history, settings
):
    settings.TIME_ZONE = "Asia/Tokyo"
    client, address = staff(*ALL), url("stream", "overview")
    assert "No recent events" not in text_of(client.get(address))
    lend("a", "BookBought", "BookLent", "BookReturned")
    for version, day in ((1, 1), (2, 3), (3, 3)):
        created = dt.datetime(2024, 2, day, 16, tzinfo=dt.UTC)  # the next day in Tokyo
        history.update_one(
            {"aggregateVersion": version}, {"$set": {"created": created}}
        )
    response = client.get(address)
    assert "No recent events" in text_of(response)
    counted = {str(d.day): d.events for d in response.context["days"] if d.events}
    assert counted == {"2024-02-02": 1, "2024-02-04": 2}
    assert response.context["days"][-1].day == dt.date(2024, 2, 4)


def test_the_count_of_a_past_day_is_reused_for_a_while(
    lend, staff, history, monkeypatch
):
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
    monkeypatch.setattr(StreamAdmin, "day_counts", DayCounts(keep_seconds=-1))
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
