"""The checks of the declared event types, and of the types that code names."""

import dataclasses

import pytest

from ossy_event_store import event, upcaster
from ossy_event_store.aggregate import registry
from ossy_event_store.checks import check_event_types
from tests.support.catalogue import declarations, event_class  # noqa: F401
from tests.support.checks import ids

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("declarations")]


def same(payload):
    return payload


def other(payload):
    return payload


def test_no_declarations_pass(subscribe):
    subscribe("loans", types=["Lnet"])
    assert check_event_types(None) == []


def test_e007_two_upcasters_from_one_version():
    upcaster("Lent", 1)(same)
    upcaster("Lent", 1)(other)
    (message,) = check_event_types(None)
    assert ids([message]) == ["E007"]
    assert "2 upcasters from version 1" in message.msg


def test_e008_an_alias_that_is_taken():
    event("Lent")(event_class("Lent"))
    event("Loan", aliases=["Lent"])(event_class("Loan"))
    assert ids(check_event_types(None)) == ["E008"]


def test_e009_a_gap():
    event("Lent", version=2)(event_class("Lent"))
    assert ids(check_event_types(None)) == ["E009"]


def test_e010_a_cycle_with_all_other_problems_at_once(subscribe):
    subscribe("loans", types=["Lnet"])  # no warning beside errors
    event("Lent", version=3)(event_class("Lent"))
    upcaster("Card", 1, into={"Card": 1})(same)
    assert ids(check_event_types(None)) == ["E009", "E009", "E010"]


def test_e011_a_class_with_a_field_without_a_stored_form():
    cls = dataclasses.make_dataclass("Lent", [("book", "DefinedNowhere")])
    event("Lent")(cls)
    (message,) = check_event_types(None)
    assert ids([message]) == ["E011"]
    assert "DefinedNowhere" in message.msg


def test_w020_an_unknown_type_with_the_nearest_name(subscribe, monkeypatch):
    event("BookLent", aliases=["book_lent"])(event_class("BookLent"))
    upcaster("Scanned", 1, into={"Visited": 1})(same)
    known = ["BookLent", "book_lent", "Scanned", "Visited", "$StreamClosed"]
    subscribe("loans", types=["BookLnet", *known])
    subscribe("others")
    Root = type("Shelf", (), {"aggregate_type": "Shelf", "event_types": ["Xyz"]})
    monkeypatch.setattr(registry, "_registered", {"Shelf": Root})
    first, second = check_event_types(None)
    assert ids([first, second]) == ["W020", "W020"]
    assert first.msg == (
        "The subscription 'loans' wants events of type 'BookLnet', which the project "
        "does not declare."
    )
    assert first.hint == "Did you mean 'BookLent'?"
    assert "Shelf" in second.msg
    assert second.hint == "Correct the name, or declare a class with @event('Xyz')."
