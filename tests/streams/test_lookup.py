"""Look-ups: which streams exist, page by page."""

import asyncio

import pytest

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive, drive_each
from ossy_event_store.streams.lookup import each_stream, stream_problem
from tests.support.verification import rebuild_indexes


def test_every_stream_is_listed_once_over_pages(store, lend):
    for number in range(7):
        lend(f"b-{number}", "BookBought", "BookLent")

    async def list_streams():
        store = await connection.awaitable()
        return [stream async for stream in each_stream(store, None, page_size=3)]

    expected = [
        {"aggregateId": f"b-{number}", "aggregateType": "Book"} for number in range(7)
    ]
    assert list(drive_each(each_stream(store, None, page_size=3))) == expected
    assert asyncio.run(list_streams()) == expected


@pytest.mark.parametrize("at", ["b-2", "b-6"])
def test_an_id_that_is_a_list_hides_no_stream_on_a_later_page(store, history, lend, at):
    for number in range(7):
        lend(f"b-{number}", "BookBought")
    event = {"aggregateType": "Book", "aggregateVersion": 1, "type": "BookBought"}
    history.insert_many(
        {"aggregateId": [f"{at}{letter}", f"z{letter}"], **event} for letter in "abcd"
    )
    try:
        found = list(drive_each(each_stream(store, None, page_size=3)))
    finally:
        rebuild_indexes(history.database)
    assert [one["aggregateId"] for one in found] == [f"b-{n}" for n in range(7)]


def test_a_stream_that_exists_has_no_problem(store, lend):
    lend("b-1", "BookBought")
    assert drive(stream_problem(store, "b-1", None)) is None
    assert drive(stream_problem(store, "b-1", ["Book"])) is None


def test_an_unknown_stream_is_answered_with_the_ids_beside_it(store, lend):
    for letter in "abcdefghi":
        lend(letter, "BookBought")
    assert drive(stream_problem(store, "g1", None)) == (
        "Stream 'g1' does not exist. Ids next to it: c, d, e, f, g, h, i."
    )


def test_an_empty_store_says_so(store):
    assert drive(stream_problem(store, "b-1", None)) == (
        "Stream 'b-1' does not exist. The store is empty."
    )


def test_a_stream_of_another_type_is_a_problem(store):
    EventStore.append_event(
        {"aggregateId": "r", "aggregateType": "Reader", "type": "ReaderJoined"}
    )
    assert drive(stream_problem(store, "r", ["Book", "Shelf"])) == (
        "Stream 'r' is of type 'Reader'; expected Book, Shelf."
    )
