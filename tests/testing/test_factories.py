"""Objects of event classes, with fixed values and with Hypothesis."""

import datetime as dt
import typing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossy_event_store import document_of, event_from
from ossy_event_store import event as event_class
from ossy_event_store.documents.catalogue.declaration import EventType
from ossy_event_store.testing import event_factory, events_of
from tests.support.typed_events import KINDS, Genre, declared_only, full_class

QUICK = settings(
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Pair(NamedTuple):
    left: str
    right: int


@dataclass
class Node:
    name: str
    children: list["Node"]
    parent: "Node | None"


@event_class("EverythingMade")
@dataclass(frozen=True)
class Everything:
    reader: str
    weeks: int
    due: dt.date
    fee: Decimal
    genre: Genre
    mode: typing.Literal["new", "used"]
    either: int | str | None
    node: Node
    pair: Pair
    both: tuple[int, str]
    more: tuple[int, ...]
    names: dict[str, Decimal]
    words: frozenset[str]
    any: typing.Any
    note: typing.Annotated[str, "a note"] = "none"
    made: list[int] = field(default_factory=lambda: [7])


def test_fields_get_fixed_values_or_their_defaults():
    made = event_factory(Everything, weeks=2)(reader="ann")
    assert made == event_factory(Everything, weeks=2)(reader="ann")
    assert (made.reader, made.weeks, made.note, made.made) == ("ann", 2, "none", [7])
    assert (made.fee, made.genre, made.mode) == (Decimal("1.00"), Genre.NOVEL, "new")
    assert made.node == Node("name", [], None)
    assert (made.pair, made.both, made.more) == (Pair("left", 1), (1, "text"), ())
    assert event_from(document_of(made)) == made


@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_every_kind_of_class_can_be_stored(kind):
    cls, _ = full_class(kind)
    with declared_only(EventType("Everything", cls)):

        def stored(made):
            return document_of({"type": "Everything", "payload": made})

        first = stored(event_factory(cls)())
        assert first["payload"]["text"] == "text"

        @QUICK
        @given(events_of(cls, count=st.just(4)))
        def check(made):
            assert stored(made)["payload"]["count"] == 4

        check()


def test_a_class_that_contains_itself_and_every_default_is_varied():
    found = []

    @QUICK
    @given(events_of(Everything))
    def collect(made):
        assert event_from(document_of(made)) == made
        found.append(made)

    collect()
    assert {one.note for one in found} != {"none"}


def test_a_class_of_no_event_and_a_type_without_a_value_are_refused():
    with pytest.raises(TypeError, match="no class with @event"):
        event_factory(Pair)
    with pytest.raises(TypeError, match="no class with @event"):
        events_of(dict)
    with pytest.raises(TypeError, match="unexpected keyword"):
        event_factory(Everything)(wrong=1)
