"""One document of another program among the events stops nothing, and is named."""

import datetime as dt

import pytest
from bson.datetime_ms import DatetimeMS
from django.core.management import CommandError
from django.template import Context, Template

from ossy_event_store import AggregateRebuild, EventStore
from ossy_event_store.health import figures
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.metrics import metrics
from ossy_event_store.rebuild import on_startup
from ossy_event_store.streams.lookup import stream_problem
from ossy_event_store.subscriptions import snapshot_subscription
from ossy_event_store.verify import verify_event_store
from tests.support.event_lines import exported
from tests.support.subscriptions import said
from tests.support.verification import rebuild_indexes

NOW = dt.datetime.now(dt.UTC)
EVENT = {
    "_id": "foreign",
    "aggregateId": "x",
    "aggregateType": "Book",
    "aggregateVersion": 1,
    "type": "BookBought",
    "payload": {},
    "created": NOW,
}
LACKING = {
    f"no {name}": {key: value for key, value in EVENT.items() if key != name}
    for name in ("aggregateId", "aggregateType", "aggregateVersion", "type")
}
WRONG = {
    "null as version": EVENT | {"aggregateVersion": None},
    "a string as version": EVENT | {"aggregateVersion": "1"},
    "a string as version of a stream": EVENT
    | {"aggregateId": "a", "aggregateVersion": "1"},
    "a dict as id of the stream": EVENT | {"aggregateId": {"a": 1}},
    "a list as id of the stream": EVENT | {"aggregateId": ["x"]},
    "of the npm package 3": {"_id": "foreign", "resourceId": "x", "version": 1},
}
# These say of which stream they are: they are events.
PAYLOADS = {
    "no payload": {key: value for key, value in EVENT.items() if key != "payload"},
    "null as payload": EVENT | {"payload": None},
    "a string as payload": EVENT | {"payload": "Emma"},
}


@pytest.fixture(autouse=True)
def _as_new(request, store, history):
    """An index that once held a list is never as new: create it again."""
    yield
    if "a list" in request.node.name:
        history.delete_many({})
        rebuild_indexes()


def each_use(store):
    """Yield what reads the log; each raises nothing."""
    yield lambda: AggregateRebuild.build_and_save_all()
    yield lambda: AggregateRebuild.build_and_save_all(stale=True)
    yield lambda: on_startup.rebuild_stale("me", on_startup._Rebuild())
    yield lambda: list(EventStore.get_event_streams())
    yield lambda: EventStore.get_event_stream("x")
    yield lambda: EventStore.get_event_stream("a")
    yield lambda: exported(store)
    yield lambda: figures()
    yield lambda: verify_event_store(sample=None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", [*LACKING, *WRONG])
def test_a_document_that_is_no_event_is_passed_over_everywhere(
    store, history, lend, kind, caplog
):
    lend("a", "BookBought", "BookLent")
    history.insert_one({**LACKING, **WRONG}[kind])
    snapshot_subscription.register()
    for use in each_use(store):
        use()
    said("run_subscriptions", "--until-caught-up", "--verbosity", "0")
    assert [event["aggregateId"] for event in EventStore.read_all()] == ["a", "a"]
    snapshots = connection.raw(store.snapshots)
    assert [(one["_id"], one["aggregateVersion"]) for one in snapshots.find()] == [
        ("a", 2)
    ]
    assert len(exported(store)) == 2
    streams = [stream["aggregateId"] for stream in EventStore.get_event_streams()]
    assert streams == ["a"]
    assert not EventStore.exists("x")
    assert EventStore.get_stream_info("x") is None
    assert drive(stream_problem(store, "x", None)).endswith("Ids next to it: a.")
    assert EventStore.get_stream_info("a")["aggregateVersion"] == 2
    assert "'foreign': " in caplog.text
    assert verify_event_store().found["event"] >= 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", PAYLOADS)
def test_an_event_with_an_odd_payload_is_read_as_it_is(store, history, lend, kind):
    lend("a", "BookBought")
    history.insert_one(PAYLOADS[kind])
    snapshot_subscription.register()
    for use in each_use(store):
        use()
    try:
        said("run_subscriptions", "--until-caught-up", "--verbosity", "0")
    except CommandError as error:
        assert "snapshots: a handler failed" in str(error)
    assert len(exported(store)) == 2
    (event,) = EventStore.get_event_stream("x")
    assert event["payload"] in ({}, "Emma")


DATES = {
    "the first day": dt.datetime(1, 1, 1),
    "the last day": dt.datetime(9999, 12, 31, 23, 59, 59, 999000),
    "before the first day": DatetimeMS(-(2**60)),
    "after the last day": DatetimeMS(2**60),
    "a number": 1709209815123.0,
    "an endless number": float("inf"),
    "a number beyond all days": -1e300,
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", DATES)
def test_an_event_of_any_time_is_read_by_everything(
    store, history, lend, kind, settings, tmp_path
):
    settings.OSSY_EVENT_STORE = {
        **settings.OSSY_EVENT_STORE,
        "HEALTH": {"RUNNING": False},
    }
    lend("a", "BookBought")
    history.insert_one(EVENT | {"created": DATES[kind]})
    snapshot_subscription.register()
    for use in each_use(store):  # among them, the health before it has a position
        use()
    for command, *arguments in (
        ("run_subscriptions", "--until-caught-up"),
        ("subscriptions",),
        ("rebuild_aggregates", "--no-input"),
        ("rebuild_aggregates", "--stale"),
        ("rebuild_aggregates", "--dry-run"),
        ("export_events", "--output", str(tmp_path / "events")),
        ("ensure_event_store",),
        ("check", "--database", "default"),
    ):
        said(command, *arguments)
    assert sorted(one["aggregateId"] for one in EventStore.read_all()) == ["a", "x"]
    assert EventStore.get_stream_info("x")["lastCreated"] is not None
    assert list(metrics(figures()))
    assert figures()["positions"]["lag_seconds"] == 0


class Reader:
    def has_perm(self, permission):
        return True


@pytest.mark.parametrize("kind", [*LACKING, *WRONG])
def test_the_tag_shows_the_events_of_a_stream_beside_it(store, history, lend, rf, kind):
    lend("a", "BookBought")
    history.insert_one({**LACKING, **WRONG}[kind] | {"created": NOW})
    request = rf.get("/")
    request.user = Reader()
    text = "{% load ossy_event_store %}{% stream_history 'a' %}{% stream_history 'x' %}"
    page = Template(text).render(Context({"request": request}))
    assert "BookBought" in page


def test_a_held_up_stream_is_named_by_the_command(quick, store, history, lend):
    history.insert_one(EVENT | {"aggregateVersion": 2})
    lend("a", "BookBought")
    with pytest.raises(CommandError, match="'x': Version 1 is missing before"):
        said("run_subscriptions", "--until-caught-up", "--verbosity", "0")
    found = figures()
    assert found["positions"]["damaged"] == 1
    assert list(found["positions"]["damaged_streams"]) == ["x"]
    assert "1 stream is damaged" in " ".join(found["reasons"])
    assert found["positions"]["lag_seconds"] == 0
    assert drive(store.positions.count()) == 1
