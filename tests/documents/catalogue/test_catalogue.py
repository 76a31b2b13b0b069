"""The catalogue: which stored types make which types, and when it is built again."""

from dataclasses import dataclass

import pytest

from ossy_event_store import event, upcaster
from ossy_event_store.documents.catalogue.catalogue import current
from tests.support.catalogue import stored


@pytest.fixture
def known(declarations):
    event("Lent", aliases=["lent", "loan"])(dataclass(type("Lent", (), {})))
    upcaster("Scanned", 1, into={"Lent": 1, "Seen": 1})(
        lambda payload: [("Lent", payload), ("Seen", payload), payload]
    )
    upcaster("Raw", 1, into={"Scanned": 1})(lambda payload: ("Scanned", payload))


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["Other"], {"Other"}),
        (["Lent"], {"Lent", "lent", "loan", "Scanned", "Raw"}),
        (["loan"], {"Lent", "lent", "loan", "Scanned", "Raw"}),
        (["Seen"], {"Seen", "Scanned", "Raw"}),
        (["Raw"], {"Raw"}),
        ([], set()),
    ],
)
def test_the_stored_types_of_a_type_are_its_aliases_and_sources(known, types, expected):
    found = current().stored_types(types)
    assert set(found) == expected
    assert len(found) == len(expected)


def test_without_types_all_are_stored(known):
    assert current().stored_types(None) is None
    assert current().names == {"Lent", "lent", "loan", "Scanned", "Seen", "Raw"}


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["loan"], ["Lent", "Lent"]),
        (["Seen"], ["Seen"]),
        (["Raw", "Other"], ["Other"]),
        ([], []),
    ],
)
def test_of_what_upcasters_make_only_the_wanted_types_are_left(known, types, expected):
    events = [stored("Raw"), stored("lent"), stored("Other")]
    assert [e["type"] for e in current().upcasted(events, types)] == expected


def test_an_unwanted_type_is_not_read_at_all(known):
    unknown = stored("Future", 9)
    assert current().upcasted([unknown, stored("Seen")], ["Seen"]) == [stored("Seen")]


def test_the_catalogue_follows_later_declarations(declarations):
    before = current()
    assert current() is before
    upcaster("Lent", 1)(lambda payload: payload)
    assert current() is not before
    assert current().versions == {"Lent": 2}
