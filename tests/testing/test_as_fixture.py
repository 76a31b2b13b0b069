"""Stored events as Python that makes equal ones."""

import dataclasses
import datetime as dt
import enum
import re
import sys
import types
from decimal import Decimal
from typing import NamedTuple

import pytest
from bson import ObjectId
from hypothesis import given as hypothesis_given

from ossy_event_store import Aggregate, document_of
from ossy_event_store import event as event_class
from ossy_event_store.documents.catalogue.as_python.events import source_of_test
from ossy_event_store.documents.catalogue.as_python.values import (
    WIDTH,
    NoSource,
    Source,
    flat,
)
from ossy_event_store.documents.catalogue.codecs.parameters import parameters_of
from ossy_event_store.documents.catalogue.declaration import EventType
from ossy_event_store.documents.event_document import is_same_value
from ossy_event_store.documents.storable import COPY, Unstorable, stored_mapping
from ossy_event_store.testing import as_fixture, given
from tests.library.aggregate import Book
from tests.support import old_loans
from tests.support.bson_values import ANY, VALUES
from tests.support.typed_events import KINDS, declared_only, full_class, made_up


def made(source, name="event"):
    """Return what the Python of a test makes."""
    names = {}
    exec(source, names)
    return names[name]


class Part(NamedTuple):
    left: int
    right: str


class Marks(enum.Flag):
    OLD = 1
    TORN = 2


@event_class("Scanned2", tags=lambda scanned: [f"reader:{scanned.reader}"])
@dataclasses.dataclass(frozen=True)
class Scanned:
    reader: str
    due: dt.date
    fee: Decimal
    part: Part
    marks: Marks
    at: dt.datetime | None = None
    made: str = dataclasses.field(default="", init=False)


SCANNED = Scanned("ann", dt.date(2027, 1, 31), Decimal("1.50"), Part(1, "x"), Marks.OLD)
HEAD = (
    "import datetime as dt\n"
    "from decimal import Decimal\n"
    "from tests.testing.test_as_fixture import Marks, Part, Scanned\n\n"
)


def test_an_event_of_a_class_is_an_object():
    source = as_fixture(document_of(SCANNED), "scanned")
    assert source == (
        f"{HEAD}scanned = Scanned(\n"
        '    reader="ann",\n'
        "    due=dt.date(2027, 1, 31),\n"
        '    fee=Decimal("1.50"),\n'
        '    part=Part(1, "x"),\n'
        "    marks=Marks.OLD,\n"
        "    at=None,\n"
        ")\n"
    )
    assert made(source, "scanned") == SCANNED
    other = {**document_of(SCANNED), "tags": ["x:1"]}
    assert made(as_fixture(other)) == {"payload": SCANNED, "tags": ["x:1"]}
    bare = document_of(SCANNED)
    del bare["tags"]
    assert made(as_fixture(bare)) == {"payload": SCANNED, "tags": []}
    both = dataclasses.replace(SCANNED, marks=Marks.OLD | Marks.TORN)
    assert made(as_fixture(document_of(both))) == both


def test_any_other_event_is_a_dict():
    stored = {
        "_id": ObjectId(),
        "type": "BookLent",
        "payload": {"to": 'an"n\u202e\x1b', "weeks": 3},
        "created": dt.datetime(2027, 1, 31, 9, 30, 0, 5000, tzinfo=dt.UTC),
        "createdBy": "user-1",
        "metadata": {"ip": "127.0.0.1"},
    }
    source = as_fixture(stored)
    assert source == (
        "event = "
        '{"type": "BookLent", "payload": {"to": \'an"n\\u202e\\x1b\', "weeks": 3}}\n'
    )
    assert as_fixture({"type": "A", "payload": {}, "tags": ["t"]}) == (
        'event = {"type": "A", "tags": ["t"]}\n'
    )
    whole = made(as_fixture(stored, context=True))
    assert whole == {"id": stored.pop("_id"), **stored}


@ANY
@hypothesis_given(VALUES)
def test_any_value_comes_back_equal(value):
    try:
        payload = stored_mapping({"v": value, "w": [value]}, COPY)
    except Unstorable:
        return
    source = as_fixture({"type": "A", "payload": payload})
    found = stored_mapping(made(source)["payload"], COPY)
    assert is_same_value(found, payload) or "nan" in source.lower()
    assert source.isprintable() or all(
        line.isprintable() for line in source.split("\n")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_every_kind_of_class_come_back_equal(kind, monkeypatch):
    cls, of = full_class(kind)
    module = types.ModuleType("made_up_events")
    part = next(one.type for one in parameters_of(cls, {}) if one.name == "part")
    module.Everything, module.Part = cls, part
    cls.__module__ = part.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with declared_only(EventType("Everything", cls)):
        for values in made_up(40):
            event = {"type": "Everything", "payload": of(values)}
            stored = document_of(event)
            found = made(as_fixture(stored))
            if kind == "TypedDict":
                assert document_of(found) == stored
            else:
                assert found == of(values)


ZONE = dt.timezone(-dt.timedelta(hours=2, minutes=30))


@pytest.mark.parametrize(
    "value",
    [
        dt.time(9, 30, 0, 5, tzinfo=ZONE),
        dt.datetime(2027, 1, 31, 9, fold=1, tzinfo=ZONE),
        re.compile("a.b", re.IGNORECASE),
        frozenset(),
        {1},
        ("one",),
    ],
)
def test_values_that_only_objects_have_come_back_equal(value):
    source = Source()
    made_value = flat(source.value(value))
    lines = "\n".join([*source.imports(), f"value = {made_value}"])
    assert made(lines, "value") == value


def test_a_name_that_stands_for_two_things_is_none():
    source = Source("Scanned")
    assert source.attempt(SCANNED) is None
    assert source.imports() == []
    with pytest.raises(NoSource, match="object has no expression"):
        source.value(object())


def test_an_event_that_its_class_would_not_store_like_this_is_a_dict():
    extra = document_of(SCANNED)
    extra["payload"]["more"] = 1
    assert made(as_fixture(extra))["type"] == "Scanned2"

    @event_class("Local")
    @dataclasses.dataclass
    class Local:
        to: str

    with declared_only(EventType("Local", Local)):
        source = as_fixture(document_of(Local("ann")))
        assert made(source) == {"type": "Local", "payload": {"to": "ann"}}
        # What no class can read any more says that it is what was stored.
        source = as_fixture({"type": "Local", "payload": {"to": 3}})
        assert made(source)["typeVersion"] == 1


def test_events_of_earlier_versions_stay_what_they_were(history, store):
    with declared_only():
        old_loans.declare()
        events = old_loans.store_events(*old_loans.KINDS)
        found = [made(as_fixture(one)) for one in events]
        versions = [one.get("typeVersion") for one in found]
        assert versions == [1, 1, 2, 1, 1, None, None]
        assert given(old_loans.Shelf, *found).state == old_loans.STATE


def test_a_stream_becomes_a_test(history, store):
    book = Aggregate.of(Book, {"type": "BookBought", "payload": {"title": "Emma"}})
    book.add({"type": "BookLent", "payload": {"to": "ann" * 30, "weeks": 3}}).close()
    source = source_of_test(Book, book.events)
    assert source == (
        "from ossy_event_store.testing import given\n"
        "from tests.library.aggregate import Book\n\n\n"
        "def test_book():\n"
        "    given(\n"
        "        Book,\n"
        '        {"type": "BookBought", "payload": {"title": "Emma"}},\n'
        "        {\n"
        '            "type": "BookLent",\n'
        '            "payload": {\n'
        f'                "to": "{"ann" * 30}",\n'
        '                "weeks": 3,\n'
        "            },\n"
        "        },\n"
        '        {"type": "$StreamClosed", "payload": {"reason": None}},\n'
        "    ).fold_in_parts()\n"
    )
    made(source, "test_book")()
    short = [line for line in source.split("\n") if "ann" not in line]
    assert max(map(len, short)) <= WIDTH


def test_what_is_no_event_or_name_is_refused():
    with pytest.raises(TypeError, match="must be an event as it is stored"):
        as_fixture(SCANNED)
    with pytest.raises(ValueError, match="a name in Python"):
        as_fixture({"type": "A"}, "the event")
