"""Stored events become events at the versions that the code knows."""

from dataclasses import dataclass

import pytest
from bson import Int64

from ossy_event_store import (
    UnknownEventVersion,
    UpcasterError,
    event,
    upcaster,
)
from ossy_event_store.documents.catalogue import upcasting
from ossy_event_store.documents.catalogue.catalogue import current
from tests.support.catalogue import stored

WEEKS = {"Emma": [3]}


@pytest.fixture
def chain(declarations):
    """Three versions: ``who`` is called ``reader``, then loans have weeks."""

    @event("Lent", version=3, aliases=["lent"])
    @dataclass
    class Lent:
        pass

    @upcaster("Lent", 1)
    def renamed(payload):
        return {"book": payload["book"], "reader": payload["who"]}

    @upcaster("Lent", 2)
    def with_weeks(payload, event):
        return {**payload, "weeks": WEEKS["Emma"], "at": event["position"]}


def read(event):
    return [
        (one["type"], one.get("typeVersion"), one["payload"])
        for one in current().of(event)
    ]


@pytest.mark.parametrize(
    ("kind", "version", "payload"),
    [
        ("Lent", None, {"book": "Emma", "who": "ann"}),
        ("lent", 1, {"book": "Emma", "who": "ann"}),
        ("Lent", Int64(1), {"book": "Emma", "who": "ann"}),
        ("Lent", 1.0, {"book": "Emma", "who": "ann"}),
        ("Lent", 2, {"book": "Emma", "reader": "ann"}),
        ("lent", 3, {"book": "Emma", "reader": "ann", "weeks": [3], "at": 7}),
    ],
)
def test_every_stored_version_becomes_the_current_one(chain, kind, version, payload):
    event = stored(kind, version, **payload)
    before = {**event, "payload": {**payload}}
    new = {"book": "Emma", "reader": "ann", "weeks": [3], "at": 7}
    assert read(event) == [("Lent", 3, new)]
    assert event == before


def test_events_as_the_code_knows_them_are_the_same_objects(chain):
    events = [stored("Lent", 3), stored("Other"), stored("$StreamClosed")]
    assert current().upcasted(events) is events
    (old,) = current().upcasted([stored(book="Emma", who="ann")])
    assert (old["_id"], old["position"]) == ("e-1", 7)


def test_a_reader_that_keeps_parts_of_an_event_changes_nothing_else(chain):
    (one,) = current().of(stored(book="Emma", who="ann"))
    one["payload"]["weeks"].append(4)
    assert WEEKS == {"Emma": [3]}


def test_a_type_whose_only_version_is_stored_under_an_alias_has_no_version(
    declarations,
):
    event("Lent", aliases=["lent"])(dataclass(type("Lent", (), {})))
    assert read(stored("lent", book="Emma")) == [("Lent", None, {"book": "Emma"})]


@pytest.fixture
def splits(declarations):
    """A loan was also a card for new readers; renewals are no longer of interest."""

    @upcaster("Lent", 1, into={"CardIssued": 1, "Read": 2})
    def split(payload):
        yield_ = [{"book": payload["book"]}]
        if payload.get("new"):
            yield_ = [("CardIssued", {"to": payload["who"]}), *yield_]
        return [*yield_, ("Read", {"n": 1})]

    upcaster("CardIssued", 1)(lambda payload: [payload, {**payload, "copy": True}])
    upcaster("Read", 1)(lambda payload: {"n": 0})
    upcaster("Renewed", 1)(lambda payload: [])


def test_one_event_becomes_several_in_their_order(splits):
    assert read(stored(book="Emma", who="ann", new=True)) == [
        ("CardIssued", 2, {"to": "ann"}),
        ("CardIssued", 2, {"to": "ann", "copy": True}),
        ("Lent", 2, {"book": "Emma"}),
        ("Read", 2, {"n": 1}),
    ]


def test_one_event_becomes_none(splits):
    assert current().upcasted([stored("Renewed"), stored("Renewed", 2)]) == [
        stored("Renewed", 2)
    ]


def test_one_event_may_become_another(declarations):
    upcaster("Old", 1, into={"New": 1})(lambda payload: ("New", {"a": 1}))
    assert read(stored("Old")) == [("New", None, {"a": 1})]


@pytest.mark.parametrize("version", [4, 0, -1, 1.5, "2", None, 7, [1]])
def test_a_version_that_the_code_does_not_know_is_never_guessed(chain, version):
    event = {**stored("lent"), "typeVersion": version}
    with pytest.raises(UnknownEventVersion) as caught:
        current().of(event)
    error = caught.value
    assert (error.event_id, error.event_type, error.known) == ("e-1", "lent", 3)
    assert error.found == version
    assert "up to version 3" in str(error)


def changed(payload):
    payload["weeks"] = 3
    return payload


def changed_inside(payload):
    payload["books"].append("Emma")
    return {**payload}


def changed_event(payload, event):
    event["type"] = "Other"
    return payload


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


def raises(payload):
    raise Unprintable


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda payload: payload["none"], "KeyError: 'none'"),
        (raises, "Unprintable"),
        (lambda payload: None, "returned NoneType, expected a dict or a list of dicts"),
        (lambda payload: [{}, 7], "returned int, expected a dict"),
        (lambda payload: ({}, {}, {}), "returned tuple"),
        (lambda payload: ("Other", {}), "an event of type 'Other', which it does not"),
        (lambda payload: [([], {})], "an event of type [], which it does not"),
        (lambda payload: ("Card", None), "returned NoneType"),
        (changed, "it changed what it got. Return a new dict"),
        (changed_inside, "it changed what it got"),
        (changed_event, "it changed what it got"),
    ],
)
def test_an_upcaster_that_fails_is_named_with_its_event(declarations, function, said):
    upcaster("Lent", 1, into={"Card": 1})(function)
    with pytest.raises(UpcasterError, match=r"from version 1 failed") as caught:
        current().of(stored(books=[]))
    error = caught.value
    assert (error.event_id, error.event_type, error.version) == ("e-1", "Lent", 1)
    assert error.upcaster == f"{__name__}.{function.__qualname__}"
    assert said in error.reason


def test_in_production_an_upcaster_changes_only_its_own_copy(declarations, monkeypatch):
    monkeypatch.setattr(upcasting, "is_test_run", lambda: False)
    upcaster("Lent", 1)(changed)
    event = stored(book="Emma")
    (new,) = current().upcasted([event])
    assert new["payload"] == {"book": "Emma", "weeks": 3}
    assert event == stored(book="Emma")


def test_what_an_error_says_holds_no_password(declarations):
    def connects(payload):
        raise ValueError("mongodb://user:secret@host/ is away")

    upcaster("Lent", 1)(connects)
    with pytest.raises(UpcasterError) as caught:
        current().of(stored())
    assert "secret" not in str(caught.value)
