"""Clients get events as the code knows them, and miss none when they reconnect."""

import json

import pytest

from tests.push.conftest import apply, connect, limit_feeds, port, positions  # noqa: F401
from tests.support.old_loans import KINDS, LOANS, store_events
from tests.support.processes import ON_URL
from tests.support.push import positions_of

pytestmark = [ON_URL, pytest.mark.usefixtures("library")]


def blocks(source, count):
    """Return the next messages, with their ids, which some do not have."""
    found = []
    while len(found) < count:
        block = source.block()
        if "data" in block:
            found.append((block.get("id"), block.get("event"), block["data"]))
    return found


def test_only_the_last_result_of_an_event_carries_its_id(connect):  # noqa: F811
    live = connect("all/").begin()
    store_events("Noise", "Scanned", "Lent")
    for source in (live, connect("all/", last=0)):
        found = blocks(source, 4)
        assert [one[0] for one in found] == [None, None, "2", "3"]
        data = [json.loads(one[2]) for one in found]
        assert [(one["position"], one["type"]) for one in data] == [
            (2, "Lent"),
            (2, "Visited"),
            (2, "Scanned"),
            (3, "Lent"),
        ]


@pytest.mark.parametrize("asked", ["Lent", "lent"])
def test_a_client_gets_the_events_that_are_of_its_type_today(connect, asked):  # noqa: F811
    live = connect(f"all/?type={asked}").begin()
    visits = connect("all/?type=Visited").begin()
    store_events(*KINDS)
    missed = connect(f"all/?type={asked}", last=0)
    for source in (live, missed):
        messages = source.take(LOANS)
        assert {message.data["type"] for message in messages} == {"Lent"}
        assert positions_of(messages) == [1, 3, 4, 5, 6]
        assert [int(message.id) for message in messages] == [1, 3, 4, 5, 6]
    (visit,) = visits.take(1)
    assert (visit.id, visit.data["type"]) == ("5", "Visited")


def test_a_client_hears_of_an_event_that_the_code_cannot_read(
    connect,  # noqa: F811
    caplog,
):
    live = connect("all/?type=Lent").begin()
    store_events(("Lent", 9), "Lent")
    for source in (live, connect("all/?type=Lent", last=0)):
        skipped, loan = source.take(2)
        assert (skipped.name, skipped.id) == ("skipped", "1")
        assert skipped.data == {
            "position": 1,
            "aggregateId": "a",
            "aggregateType": "Shelf",
            "aggregateVersion": 1,
            "type": "Lent",
        }
        assert (loan.name, loan.id) == ("message", "2")
    assert "Event feed cannot read position 1" in caplog.text
