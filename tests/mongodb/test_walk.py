"""A walk along an index, which resumes after a break."""

import pytest
from bson import Int64, ObjectId
from pymongo.errors import AutoReconnect, OperationFailure

from ossy_event_store.mongodb import connection, indexes, resumable_scan
from ossy_event_store.mongodb.ports import drive_each
from tests.support.flaky import Flaky, no_pause
from tests.support.verification import LATELY, UNIQUE, event, stream


@pytest.fixture
def at_once(store, monkeypatch):
    """Resume at once after a break."""
    monkeypatch.setattr(type(connection.blocking().client), "pause", no_pause)


@pytest.fixture
def loose(history):
    """The events without their unique index, which is created again afterwards."""
    history.drop_index(UNIQUE.name)
    yield history
    history.delete_many({})
    if UNIQUE.name in history.index_information():
        history.drop_index(UNIQUE.name)
    history.create_index(list(UNIQUE.keys), **UNIQUE.options)


def walked(store, flaky, keys, query=None, **options):
    fields = {"_id": 1, **{key: 1 for key, _ in keys}}
    walk = resumable_scan.walk(store, flaky, keys, query or {}, fields, **options)
    return [document["_id"] for batch in drive_each(walk) for document in batch]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "keys",
    [[("_id", 1)], list(indexes.TYPE_VERSIONS.keys)],
    ids=["id", "type and version"],
)
def test_a_walk_resumes_where_it_broke_off(store, history, keys):
    ids = [None, 1, 2.5, "a", "b", {"x": 1}, b"z", ObjectId(), True, LATELY, Int64(9)]
    history.insert_many(
        event("b", n, _id=value, aggregateType=value) for n, value in enumerate(ids)
    )
    expected = [one["_id"] for one in history.find().sort(keys)]
    for size in (1, 2, 3):
        flaky = Flaky(store.events, [2, 1, 3, 0, 1])
        assert walked(store, flaky, keys, size=size) == expected, size
        assert flaky.opened >= 3


@pytest.mark.usefixtures("at_once")
def test_a_walk_yields_each_document_of_one_key_once(store, history, loose):
    loose.create_index(list(UNIQUE.keys), name=UNIQUE.name)
    versions = [1, 2, 2, 2, 2, 2, 3, 3]
    history.insert_many(event("b", v, _id=str(n)) for n, v in enumerate(versions))
    for size in (1, 2, 3, 4):
        for breaks in ([1], [2], [1, 1], [2, 0, 1], [3, 3]):
            ids = walked(store, Flaky(store.events, breaks), UNIQUE.keys, size=size)
            assert ids == list("01234567"), (size, breaks)


def test_a_walk_ends_when_nothing_arrives_in_time(store, history, settings):
    if settings.STORE != "url":
        pytest.skip("the setting is that of the run")
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.2}
    history.insert_many(stream("b", 3))
    flaky = Flaky(store.events, [0] * 1000)
    with pytest.raises(AutoReconnect):
        walked(store, flaky, [("_id", 1)])
    assert flaky.opened > 1


def test_a_walk_does_not_resume_after_another_error(store, history):
    history.insert_many(stream("b", 5))
    flaky = Flaky(store.events, [1, 1], OperationFailure)
    with pytest.raises(OperationFailure):
        walked(store, flaky, [("_id", 1)], size=2)
    assert flaky.opened == 1


def test_a_walk_without_its_index_does_not_resume(store, history, loose):
    history.insert_many(stream("b", 5))
    flaky = Flaky(store.events, [1])
    with pytest.raises(AutoReconnect):
        walked(store, flaky, UNIQUE.keys, size=2, indexed=False)
