"""The version that the caller expects, on a line that breaks."""

import pytest
from nanoid import generate

from ossy_event_store import ConcurrencyError, EventStore
from tests.support.faults import SOME, bought, by_url, lent, new_ids, raw, stored

pytestmark = [pytest.mark.faults, by_url]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("losses", ["none", "request answer"])
def test_a_version_beyond_the_end_never_makes_a_hole(set_line, face, count, losses):
    book = bought(face)
    events = [raw(book.id, event) for event in lent(*new_ids(count))]
    set_line.said.clear()
    set_line.lose("find", *losses.split())

    with pytest.raises(ConcurrencyError) as caught:
        face(EventStore.append_events, events, expected_version=2)

    assert (caught.value.expected_version, caught.value.actual_version) == (2, 1)
    assert set_line.to_lose == 0
    assert "insert" not in set_line.said
    assert stored(set_line.member, book.id) == [book.id]


@pytest.mark.parametrize("losses", SOME)
def test_a_stream_is_begun_once(line, face, losses):
    stream = generate()
    first, second = (raw(stream, event) for event in lent(*new_ids(2)))
    line.lose("insert", *losses.split())
    face(EventStore.append_event, first, expected_version=0)
    line.lose("insert", "request")

    with pytest.raises(ConcurrencyError) as caught:
        face(EventStore.append_event, second, expected_version=0)
    again = face(EventStore.append_event, first, expected_version=0)

    assert (caught.value.expected_version, caught.value.actual_version) == (0, 1)
    assert (again["_id"], again["aggregateVersion"]) == (first["id"], 1)
    assert stored(line.member, stream) == [first["id"]]


@pytest.mark.parametrize("losses", SOME)
def test_an_expected_version_that_is_the_end_is_appended_to_once(line, face, losses):
    book = bought(face)
    (event,) = lent(*new_ids())
    line.lose("insert", *losses.split())

    there = face(EventStore.append_event, raw(book.id, event), expected_version=1)

    assert there["aggregateVersion"] == 2
    assert stored(line.member, book.id) == [book.id, event["id"]]
