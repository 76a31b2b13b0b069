"""Streams that have ended, and those that continue them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    EventStore,
    InvalidEvent,
    StreamClosed,
)
from ossy_event_store.mongodb import connection
from tests.library.aggregate import Book
from tests.support.processes import ON_URL
from tests.support.sent_commands import Listener

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}
LENT = {"type": "BookLent", "payload": {"to": "ann"}}
RAW = {**LENT, "aggregateId": "a", "aggregateType": "Book"}


@pytest.fixture
def book(store):
    return Aggregate.of(Book, {**BOUGHT, "aggregateId": "a"})


def types(aggregate_id):
    return [event["type"] for event in EventStore.get_event_stream(aggregate_id)]


# --- close ------------------------------------------------------------------


def test_closing_appends_an_event_that_says_why_and_who(face, book):
    assert face(book.close, "sold", created_by="ann") is book
    assert book.is_closed
    last = EventStore.get_event_stream("a")[-1]
    assert last["type"] == "$StreamClosed"
    assert last["payload"] == {"reason": "sold"}
    assert last["createdBy"] == "ann"
    assert EventStore.get_stream_info("a")["isClosed"]


WRITERS = {
    "one that loaded it before": lambda stale, face: face(stale.add, LENT),
    "one that loads it now": lambda stale, face: face(
        face(Aggregate.of, Book, "a").add, LENT
    ),
    "one that decides": lambda stale, face: face(
        Aggregate.execute, Book, "a", lambda book: LENT
    ),
    "one at any version": lambda stale, face: face(EventStore.append_event, RAW),
    "one at the version before": lambda stale, face: face(
        EventStore.append_event, RAW, expected_version=1
    ),
    "one at the version of the end": lambda stale, face: face(
        EventStore.append_event, RAW, expected_version=2
    ),
    "one of several": lambda stale, face: face(stale.add, LENT, LENT),
    "one to several streams": lambda stale, face: face(
        EventStore.append_streams, {"a": [RAW], "b": [RAW | {"aggregateId": "b"}]}
    ),
    "one to several, at the version of the end": lambda stale, face: face(
        EventStore.append_streams, {"a": [RAW]}, expected={"a": 2}
    ),
    "one to several, at the version before": lambda stale, face: face(
        EventStore.append_streams, {"a": [RAW]}, expected={"a": 1}
    ),
    "one that closes it again": lambda stale, face: face(stale.close),
    "one that loads it now and closes it": lambda stale, face: face(
        face(Aggregate.of, Book, "a").close
    ),
    "one that continues it": lambda stale, face: face(stale.continue_as, "b"),
    "one that loads it now and continues it": lambda stale, face: face(
        face(Aggregate.of, Book, "a").continue_as, "b"
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("snapshot", [False, True])
def test_a_stream_that_has_ended_refuses_every_writer(face, book, write, snapshot):
    stale = Aggregate.of(Book, "a")
    book.close()
    if snapshot:
        book.save()
    with pytest.raises(StreamClosed) as error:
        write(stale, face)
    assert (error.value.aggregate_id, error.value.version) == ("a", 2)
    assert error.value.successor is None
    assert EventStore.count() == 2


def test_an_event_that_was_stored_before_the_end_is_found(face, book):
    stored = face(book.add, {**LENT, "id": "1"}).events[-1]
    book.close()
    again = {**RAW, "id": "1"}
    assert face(EventStore.append_event, again) == stored
    assert face(Aggregate.of, Book, "a").add({**LENT, "id": "1"}).version == 3
    with pytest.raises(StreamClosed):
        face(EventStore.append_event, {**again, "id": "2"})


def test_closing_at_an_old_version_loses_the_race(face, book):
    stale = Aggregate.of(Book, "a")
    book.add(LENT)
    with pytest.raises(ConcurrencyError):
        face(stale.close)
    assert not stale.is_closed


def test_a_reducer_gets_the_end_as_an_event(book):
    book.close("sold")
    assert Aggregate.of(Book, "a").view(lambda events, _: events[-1]["payload"]) == {
        "reason": "sold"
    }
    assert book.view() == {"title": "Emma", "loans": 0}


@pytest.mark.parametrize("kind", ["$StreamClosed", "$StreamContinued"])
def test_only_the_store_appends_the_events_of_the_end(book, kind):
    with pytest.raises(InvalidEvent, match=r"type: only close\(\)"):
        book.add({"type": kind})
    with pytest.raises(InvalidEvent, match=r"type: only close\(\)"):
        EventStore.append_event({**RAW, "type": kind})


def test_wrong_reasons_are_refused(book):
    with pytest.raises(InvalidEvent, match="createdBy"):
        book.close(created_by=7)
    with pytest.raises(TypeError, match="reason must be a string"):
        book.close(7)


@ON_URL
def test_an_ordinary_append_asks_nothing_more(store, settings):
    listener = Listener()
    options = {"event_listeners": [listener]}
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "OPTIONS": options}
    book = Aggregate.of(Book, {**BOUGHT, "aggregateId": "a"})
    listener.sent.clear()
    book.add(LENT)
    assert set(listener.sent) == {"insert"}
    listener.sent.clear()
    EventStore.append_event(RAW)
    assert {name: len(found) for name, found in listener.sent.items()} == {
        "find": 1,
        "insert": 1,
    }


# --- continue ---------------------------------------------------------------


def test_a_new_stream_begins_with_its_predecessor_and_the_summary(face, book):
    face(book.add, LENT)
    new = face(book.continue_as, "a2", BOUGHT, LENT, reason="2027", created_by="ann")
    assert (book.is_closed, book.version) == (True, 3)
    assert (new.id, new.version, new.is_closed) == ("a2", 3, False)
    assert types("a") == ["BookBought", "BookLent", "$StreamClosed"]
    assert types("a2") == ["$StreamContinued", "BookBought", "BookLent"]
    closing, first = EventStore.get_event_stream("a")[-1], new.events[0]
    assert closing["payload"] == {"reason": "2027", "successor": "a2"}
    assert first["payload"] == {"predecessor": "a", "version": 3}
    assert closing["createdBy"] == first["createdBy"] == "ann"
    assert face(new.add, LENT).view()["loans"] == 2


def test_the_error_names_the_successor(face, book):
    book.continue_as("a2")
    with pytest.raises(StreamClosed, match="Append to 'a2'") as error:
        face(EventStore.append_event, RAW)
    assert error.value.successor == "a2"


def test_the_history_goes_back_through_all_predecessors(face, book):
    book.add(LENT)
    book.continue_as("a2", BOUGHT).continue_as("a3", BOUGHT).add(LENT)
    found = face.list(EventStore.get_history, "a3")
    assert [(event["aggregateId"], event["aggregateVersion"]) for event in found] == [
        *[("a", 1), ("a", 2), ("a", 3)],
        *[("a2", 1), ("a2", 2), ("a2", 3)],
        *[("a3", 1), ("a3", 2), ("a3", 3)],
    ]
    assert len(face.list(EventStore.get_history, "a")) == 3
    assert face.list(EventStore.get_history, "none") == []
    info = face(EventStore.get_stream_info, "a2")
    assert (info["predecessor"], info["successor"]) == ("a", "a3")
    assert face(EventStore.get_stream_info, "a3")["successor"] is None


def test_a_stream_is_not_continued_in_one_that_exists(face, book):
    Aggregate.of(Book, {**BOUGHT, "aggregateId": "b"})
    with pytest.raises(ConcurrencyError) as error:
        face(book.continue_as, "b", BOUGHT)
    assert error.value.conflicts == [("b", 0, 1)]
    assert not book.is_closed
    assert face(book.add, LENT).version == 2


@pytest.mark.parametrize("wrong", ["a", "", 7, None, "x" * 256])
def test_a_wrong_successor_is_refused(face, book, wrong):
    with pytest.raises((TypeError, ValueError), match="successor_id"):
        face(book.continue_as, wrong)
    assert EventStore.count() == 1


def test_wrong_events_of_a_summary_are_refused(face, book):
    with pytest.raises(InvalidEvent, match="type"):
        face(book.continue_as, "a2", {"payload": {}})
    assert EventStore.count() == 1


def test_a_stream_ends_and_continues_within_a_transaction(store, book):
    with pytest.raises(ZeroDivisionError), EventStore.transaction() as t:
        Aggregate.of(Book, "a", session=t.session).continue_as("a2", BOUGHT)
        raise ZeroDivisionError
    assert EventStore.count() == 1
    with EventStore.transaction() as t:
        new = Aggregate.of(Book, "a", session=t.session).continue_as("a2", BOUGHT)
        new.add(LENT)
    assert types("a2") == ["$StreamContinued", "BookBought", "BookLent"]
    client = connection.raw(store.events).database.client
    with client.start_session() as session, session.start_transaction():
        Aggregate.of(Book, "a2", session=session).continue_as("a3")
    assert types("a3") == ["$StreamContinued"]


# --- races ------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "continue_as"])
def test_no_event_follows_an_end_and_none_is_lost(store, end):
    rounds, writers = 12, 6
    for number in range(rounds):
        stream = f"s{number}"
        Aggregate.of(Book, {**BOUGHT, "aggregateId": stream})
        start = threading.Barrier(writers + 1)

        def write(stream=stream, start=start):
            start.wait(30)
            done = 0
            try:
                while True:
                    EventStore.append_event({**RAW, "aggregateId": stream})
                    done += 1
            except StreamClosed:
                return done

        def finish(stream=stream, start=start):
            start.wait(30)
            while True:
                try:
                    book = Aggregate.of(Book, stream)
                    return getattr(book, end)(*[f"{stream}-2"] * (end != "close"))
                except ConcurrencyError:
                    pass

        with ThreadPoolExecutor(writers + 1) as pool:
            ended = pool.submit(finish)
            done = sum(
                one.result(60) for one in [pool.submit(write) for _ in range(writers)]
            )
            ended.result(60)
        found = types(stream)
        assert found == ["BookBought", *["BookLent"] * done, "$StreamClosed"]
