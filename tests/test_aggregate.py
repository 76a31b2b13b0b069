"""Aggregates, blocking and awaitable."""

import datetime as dt

import pytest
from bson import ObjectId

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateTypeMismatch,
    ConcurrencyError,
    EventStore,
    IdempotencyConflict,
    InvalidEvent,
    InvalidState,
)
from tests.library.aggregate import Book, Reader

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}, "createdBy": "jane"}
LENT = {"type": "BookLent", "payload": {"to": "ann"}}


def test_a_first_event_creates_an_aggregate(store, face):
    book = face(Aggregate.of, Book, {**BOUGHT, "aggregateId": "book-1"})
    assert (book.id, book.type, book.version) == ("book-1", "Book", 1)
    assert book.view() == {"loans": 0, "title": "Emma"}


def test_a_first_event_without_an_aggregate_id_gets_one(store, face):
    one, other = face(Aggregate.of, Book, BOUGHT), face(Aggregate.of, Book, BOUGHT)
    assert len(one.id) == 21
    assert one.id != other.id


def test_the_stored_document_has_every_field(store, face):
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    book = face(Aggregate.of, Book, {**BOUGHT, "metadata": {"request": "r-1"}})
    (event,) = EventStore.get_event_stream(book.id)
    created, event_id = event.pop("created"), event.pop("_id")
    assert before <= created <= dt.datetime.now(dt.UTC)
    assert isinstance(event_id, ObjectId)
    assert event == {
        "aggregateId": book.id,
        "aggregateType": "Book",
        "aggregateVersion": 1,
        "type": "BookBought",
        "payload": {"title": "Emma"},
        "createdBy": "jane",
        "metadata": {"request": "r-1"},
    }


def test_appended_events_are_loaded(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.add, LENT)
    again = face(Aggregate.of, Book, book.id)
    assert again.version == book.version == 2
    assert again.events == book.events
    assert again.view() == {"loans": 1, "title": "Emma", "lent_to": "ann"}


def test_calls_chain(store):
    book = Aggregate.of(Book, BOUGHT).add(LENT).save()
    assert Aggregate.of(Book, book.id).add({"type": "BookReturned"}).version == 3


def test_several_events_get_consecutive_versions(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.add, LENT, {"type": "BookReturned"}, LENT)
    versions = [e["aggregateVersion"] for e in EventStore.get_event_stream(book.id)]
    assert versions == [1, 2, 3, 4]


def test_no_event_is_stored_if_one_of_several_is_refused(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    with pytest.raises(InvalidEvent, match=r"payload\.when"):
        face(book.add, LENT, {"type": "BookLent", "payload": {"when": object()}})
    assert len(EventStore.get_event_stream(book.id)) == book.version == 1


def test_a_lost_race_names_the_expected_and_the_actual_version(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    stale = face(Aggregate.of, Book, book.id)
    face(book.add, LENT)
    with pytest.raises(ConcurrencyError) as lost:
        face(stale.add, {"type": "BookReturned"})
    error = lost.value
    assert (error.aggregate_id, error.expected_version, error.actual_version) == (
        book.id,
        1,
        2,
    )
    assert stale.version == 1
    assert len(EventStore.get_event_stream(book.id)) == 2


def test_a_lost_race_of_several_events_stores_none(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    stale = face(Aggregate.of, Book, book.id)
    face(book.add, LENT)
    with pytest.raises(ConcurrencyError):
        face(stale.add, LENT, LENT)
    assert len(EventStore.get_event_stream(book.id)) == 2


def test_creating_an_aggregate_that_exists_is_a_lost_race(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    with pytest.raises(ConcurrencyError, match="expected a new stream"):
        face(Aggregate.of, Book, {**BOUGHT, "aggregateId": book.id})


def test_an_event_id_is_stored_once(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    lent = {**LENT, "id": "loan-4711"}
    face(book.add, lent)
    face(book.add, lent)
    face(face(Aggregate.of, Book, book.id).add, lent)
    events = EventStore.get_event_stream(book.id)
    assert [event["_id"] for event in events][1:] == ["loan-4711"]
    assert book.version == 2


def test_an_event_id_with_other_content_is_a_conflict(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.add, {**LENT, "id": "loan-4711"})
    with pytest.raises(IdempotencyConflict) as conflict:
        face(book.add, {**LENT, "id": "loan-4711", "payload": {"to": "bob"}})
    assert conflict.value.event_id == "loan-4711"
    assert conflict.value.differences == ("payload",)
    assert len(EventStore.get_event_stream(book.id)) == 2


def test_an_event_repeated_with_equal_content_is_no_conflict(store, face):
    event = {"type": "BookBought", "aggregateId": "b", "id": "e"}
    payload = {"title": "Emma", "price": 1.0}
    stored = face(Aggregate.of, Book, {**event, "payload": payload, "createdBy": "ann"})
    other = {"price": 1, "title": "Emma"}
    again = face(Aggregate.of, Book, {**event, "payload": other})
    assert again.events == stored.events


def test_several_events_with_known_ids_are_stored_once(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    stale = face(Aggregate.of, Book, book.id)
    events = [{**LENT, "id": "a"}, {"type": "BookReturned", "id": "b"}]
    face(book.add, *events)
    face(stale.add, *events)
    assert stale.version == 3
    assert len(EventStore.get_event_stream(book.id)) == 3


def test_events_of_which_some_are_stored_are_a_conflict(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.add, {**LENT, "id": "a"})
    with pytest.raises(IdempotencyConflict):
        face(book.add, {**LENT, "id": "a"}, {"type": "BookReturned", "id": "b"})
    assert len(EventStore.get_event_stream(book.id)) == 2


def test_the_same_id_twice_in_an_append_is_refused(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    with pytest.raises(InvalidEvent, match="id: two events"):
        face(book.add, {**LENT, "id": "a"}, {**LENT, "id": "a"})


def test_creating_again_with_the_same_event_id_returns_the_first_aggregate(store, face):
    first = face(Aggregate.of, Book, {**BOUGHT, "id": "purchase-1"})
    face(first.add, LENT)
    again = face(Aggregate.of, Book, {**BOUGHT, "id": "purchase-1"})
    assert (again.id, again.version) == (first.id, 2)
    assert len(list(EventStore.get_event_streams())) == 1


def test_an_unknown_id_is_not_found(store, face):
    with pytest.raises(AggregateNotFound, match="Book 'nowhere' does not exist"):
        face(Aggregate.of, Book, "nowhere")


def test_an_aggregate_of_another_type_is_a_mismatch(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    with pytest.raises(AggregateTypeMismatch) as mismatch:
        face(Aggregate.of, Reader, book.id)
    assert (mismatch.value.expected, mismatch.value.actual) == ("Reader", "Book")


@pytest.mark.parametrize("subject", [None, ["a"], b"a", 7, True, ObjectId()])
def test_an_id_that_is_not_a_string_never_reaches_a_query(store, face, subject):
    with pytest.raises(TypeError):
        face(Aggregate.of, Book, subject)


def test_a_dict_is_an_event_and_never_a_query(store, face):
    face(Aggregate.of, Book, BOUGHT)
    with pytest.raises(InvalidEvent):
        face(Aggregate.of, Book, {"$ne": None})


@pytest.mark.parametrize("field", ["aggregateVersion", "created"])
def test_a_reserved_field_is_refused(store, face, field):
    book = face(Aggregate.of, Book, BOUGHT)
    with pytest.raises(InvalidEvent, match=f"{field}: the store sets it"):
        face(book.add, {**LENT, field: 2})


def test_a_view_function_replaces_the_reducer(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    assert book.view(lambda events, saved: (len(events), saved)) == (1, {})


def test_an_error_of_the_function_passes_through_validate(store, face):
    book = face(Aggregate.of, Book, BOUGHT)

    def refuse(events, saved_state):
        raise PermissionError(len(events))

    with pytest.raises(PermissionError, match="1"):
        book.validate(refuse)
    assert book.validate(lambda events, saved_state: False) is book


def test_a_saved_aggregate_is_loaded_from_its_snapshot(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.save)
    face(book.add, LENT)
    again = face(Aggregate.of, Book, book.id)
    assert (again.saved_version, again.version) == (1, 2)
    assert [event["aggregateVersion"] for event in again.events] == [2]
    assert again.view() == book.view()


def test_a_load_without_snapshot_reads_the_whole_history(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.save)
    whole = face(Aggregate.of, Book, book.id, snapshot=False)
    assert (whole.saved_version, whole.saved_state, len(whole.events)) == (0, {}, 1)


def test_a_view_is_repeatable_even_if_the_reducer_changes_its_argument(store, face):
    class Careless:
        aggregate_type = "Book"

        @staticmethod
        def view(events, saved_state):
            saved_state["n"] = saved_state.get("n", 0) + len(events)
            return saved_state

    book = face(Aggregate.of, Careless, BOUGHT)
    face(book.save)
    again = face(Aggregate.of, Careless, book.id)
    face(again.add, LENT)
    assert again.view() == again.view() == {"n": 2}


def test_a_snapshot_document_is_found(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    assert face(Aggregate.find, book.id) is None
    face(book.save)
    snapshot = face(Aggregate.find, book.id)
    assert snapshot["state"] == book.view()
    assert (snapshot["aggregateType"], snapshot["aggregateVersion"]) == ("Book", 1)


def test_an_older_save_never_replaces_a_newer_snapshot(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    old = face(Aggregate.of, Book, book.id)
    face(book.add, LENT)
    face(book.save)
    face(old.save)
    assert face(Aggregate.find, book.id)["aggregateVersion"] == 2


def test_a_snapshot_of_another_revision_is_not_used(store, face, monkeypatch):
    reader = face(Aggregate.of, Reader, {"type": "Joined"})
    face(reader.save)
    other = str(ObjectId())  # not one that this process has used before
    monkeypatch.setattr(Reader, "revision", other)
    monkeypatch.setattr(
        "ossy_event_store.streams.snapshots.revision_of", lambda Root: other
    )
    again = face(Aggregate.of, Reader, reader.id)
    assert (again.saved_version, len(again.events)) == (0, 1)
    face(again.save)
    assert face(Aggregate.find, reader.id)["revision"] == other


def test_a_snapshot_ahead_of_its_stream_is_discarded(store, history, face, caplog):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.add, LENT)
    face(book.save)
    # As after a failover that lost an event which was not on a majority.
    history.delete_one({"aggregateId": book.id, "aggregateVersion": 2})
    again = face(Aggregate.of, Book, book.id)
    assert (again.version, again.view()) == (1, {"loans": 0, "title": "Emma"})
    assert face(Aggregate.find, book.id) is None
    assert "it is at version 2, but its stream ends at 1" in caplog.text


def test_a_state_that_cannot_be_stored_is_refused(store, face):
    class Odd:
        aggregate_type = "Book"

        @staticmethod
        def view(events, saved_state):
            return {"authors": [{"names": {"jane"}}]}

    book = face(Aggregate.of, Odd, BOUGHT)
    with pytest.raises(InvalidState, match=r"state.authors\[0\].names: .* use a list"):
        face(book.save)
    assert face(Aggregate.find, book.id) is None


def test_losing_every_snapshot_loses_nothing(store, face):
    book = face(Aggregate.of, Book, BOUGHT)
    face(book.add, LENT)
    face(book.save)
    Aggregate.collection.delete_many({})
    assert face(Aggregate.of, Book, book.id).view() == book.view()


def test_an_event_of_the_node_package_is_read(store, face):
    EventStore.collection.insert_one(
        {
            "aggregateId": "old-1",
            "aggregateType": "Book",
            "aggregateVersion": 1,
            "type": "BookBought",
            "payload": {"title": "Emma"},
            "created": 1700000000123,
            "createdBy": "jane",
        }
    )
    (event,) = face(Aggregate.of, Book, "old-1").events
    assert event["metadata"] == {}
    assert event["created"] == dt.datetime(
        2023, 11, 14, 22, 13, 20, 123000, tzinfo=dt.UTC
    )
