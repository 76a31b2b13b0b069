"""What a change of event types breaks: the checker, and a lock that is changed."""

import dataclasses
import datetime as dt
import enum
import json
from dataclasses import field, make_dataclass
from decimal import Decimal
from itertools import product
from typing import Any, Literal

import pytest

from ossy_event_store.documents.catalogue.codecs.codec import Codec
from ossy_event_store.documents.catalogue.codecs.rules import Undecodable
from ossy_event_store.documents.catalogue.compatibility import lock as lock_file
from ossy_event_store.documents.catalogue.compatibility.accepting import problems_of
from ossy_event_store.documents.catalogue.compatibility.event_types import known_types
from ossy_event_store.documents.catalogue.compatibility.json_schema import (
    schema_of_class,
)
from ossy_event_store.documents.catalogue.compatibility.lock import (
    Lock,
    LockError,
    dumped,
    loaded,
)
from ossy_event_store.documents.catalogue.compatibility.recording import updated
from ossy_event_store.documents.catalogue.compatibility.verdicts import judged
from ossy_event_store.documents.catalogue.declaration import (
    Declarations,
    EventType,
    Upcaster,
)


def declared(*types):
    """Return declarations: of (name, version, fields, aliases) and upcasters."""
    found = Declarations()
    for one in types:
        if isinstance(one, Upcaster):
            found.add(one)
            continue
        name, version, fields, *aliases = one
        cls = make_dataclass("Event", fields)
        cls.__qualname__ = name
        found.add(EventType(name, cls, version, tuple(aliases)))
    return known_types(found)


def up(name, version, **into):
    def function(payload):
        return payload

    function.__name__ = function.__qualname__ = f"{name}_{version}"
    return Upcaster(name, version, function, into)


def recorded(*steps):
    """Return the lock after several releases of the code, as its file says it."""
    found = Lock()
    for step in steps:
        found = loaded(dumped(updated(found, declared(*step))))
    return found


def verdicts(lock, *code):
    return {one.type: one.verdict.value for one in judged(lock, declared(*code))}


def breaks(lock, code):
    return any(one.is_breaking for one in judged(lock, declared(*code)))


BOOK = ("title", str)
PAGES = ("pages", int)
SHELF = ("shelf", str, field(default="A"))
LENT_1 = ("Lent", 1, [BOOK])
LENT_2 = ("Lent", 2, [BOOK, PAGES])
LENT_3 = ("Lent", 3, [BOOK, PAGES, ("to", str)])
STORED_1 = [[LENT_1]]
STORED_3 = [[LENT_1], [LENT_2, up("Lent", 1)], [LENT_3, up("Lent", 1), up("Lent", 2)]]


def of(*fields):
    return [("Lent", 1, list(fields))]


# By name: the releases so far, and the next one.
BREAKING = {
    "a new required field": (STORED_1, of(BOOK, PAGES)),
    "a renamed field": (STORED_1, of(("name", str))),
    "a changed type": (STORED_1, of(("title", int))),
    "a narrowed enum": (
        [of(("kind", Literal["a", "b"]))],
        of(("kind", Literal["a"])),
    ),
    "a narrowed union": ([of(("count", int | str))], of(("count", int))),
    "optional became required": ([of(("title", str | None))], of(BOOK)),
    "a deleted middle upcaster": (STORED_3, [LENT_3, up("Lent", 1)]),
    "a deleted first upcaster": (STORED_3, [LENT_3, up("Lent", 2)]),
    "a new version without an upcaster": (STORED_1, [LENT_2]),
    "a lowered version": (STORED_3, [LENT_2, up("Lent", 1)]),
    "a removed type": (STORED_1, []),
    "a renamed type without an alias": (STORED_1, [("Borrowed", 1, [BOOK])]),
    "a removed alias": ([[("Lent", 1, [BOOK], "lent")]], [LENT_1]),
    "an alias of another type": (
        [[("Lent", 1, [BOOK], "lent"), ("Sold", 1, [BOOK])]],
        [LENT_1, ("Sold", 1, [BOOK], "lent")],
    ),
    "a field that comes back with another type": (
        [of(BOOK, ("shelf", int, field(default=1))), of(BOOK)],
        of(BOOK, SHELF),
    ),
    "a default that goes while stored events lack the field": (
        [*STORED_1, of(BOOK, SHELF)],
        of(BOOK, ("shelf", str)),
    ),
    "a nested field that is required now": (
        [of(("lines", list[make_dataclass("Line", [BOOK])]))],
        of(("lines", list[make_dataclass("Line", [BOOK, PAGES])])),
    ),
    "a removed class whose upcasters end before it": (
        [[LENT_2, up("Lent", 1)]],
        [up("Lent", 1)],
    ),
    "an alias that became a type": (
        [[("Lent", 1, [BOOK], "lent")]],
        [LENT_1, ("lent", 1, [BOOK])],
    ),
    "a type that becomes another with other fields": (
        [[LENT_1, ("Sold", 1, [PAGES])]],
        [("Sold", 1, [PAGES], "Lent")],
    ),
    "an alias whose payloads the other type's upcaster does not expect": (
        [[LENT_1, ("Sold", 1, [PAGES])]],
        [("Sold", 2, [BOOK], "Lent"), up("Sold", 1)],
    ),
    "an upcaster into a version that was removed": (
        [[("Sold", 2, [BOOK]), up("Sold", 1), up("Lent", 1, Sold=2)]],
        [("Sold", 1, [BOOK]), up("Lent", 1, Sold=2)],
    ),
}
SAFE = {
    "nothing": (STORED_3, STORED_3[-1]),
    "a new field with a default": (STORED_1, of(BOOK, SHELF)),
    "a removed field": ([of(BOOK, PAGES)], of(BOOK)),
    "a widened enum": ([of(("kind", Literal["a"]))], of(("kind", Literal["a", "b"]))),
    "a widened union": ([of(("count", int))], of(("count", int | str))),
    "required became optional": (STORED_1, of(("title", str | None))),
    "integers became decimals": ([of(("price", int))], of(("price", Decimal))),
    "a union in another order": (
        [of(("price", Decimal | str | None))],
        of(("price", None | str | Decimal)),
    ),
    "a new version with an upcaster": (STORED_1, [LENT_2, up("Lent", 1)]),
    "two new versions at once": (STORED_1, STORED_3[-1]),
    "a renamed type with an alias": (STORED_1, [("Borrowed", 1, [BOOK], "Lent")]),
    "a renamed type of three versions": (
        STORED_3,
        [("Borrowed", *LENT_3[1:], "Lent"), up("Borrowed", 1), up("Borrowed", 2)],
    ),
    "a removed type whose upcaster drops it": (STORED_1, [up("Lent", 1)]),
    "a removed type that became another": (
        STORED_1,
        [up("Lent", 1, Sold=1), ("Sold", 1, [BOOK])],
    ),
    "a new type": (STORED_1, [LENT_1, ("Sold", 1, [BOOK])]),
    "other order of fields": ([of(BOOK, PAGES)], of(PAGES, BOOK)),
}


@pytest.mark.parametrize(("releases", "code"), BREAKING.values(), ids=BREAKING)
def test_each_breaking_change_is_caught(releases, code):
    assert breaks(recorded(*releases), code)


@pytest.mark.parametrize(("releases", "code"), SAFE.values(), ids=SAFE)
def test_no_safe_change_is_refused(releases, code):
    lock = recorded(*releases)
    assert not breaks(lock, code)
    # Nor once it is recorded; and the same code changes the file only once.
    text = dumped(updated(lock, declared(*code)))
    assert not breaks(loaded(text), code)
    assert dumped(updated(loaded(text), declared(*code))) == text


def test_a_checker_that_compares_only_the_last_version_misses_some():
    def last_only(lock):
        return Lock(
            {
                name: dataclasses.replace(
                    one, versions={one.current: one.versions[one.current][-1:]}
                )
                for name, one in lock.types.items()
                if one.current
            }
        )

    missed = {
        name
        for name, (releases, code) in BREAKING.items()
        if not breaks(last_only(recorded(*releases)), code)
    }
    assert missed == {
        "a deleted middle upcaster",
        "a deleted first upcaster",
        "a field that comes back with another type",
    }


# --- verdicts -----------------------------------------------------------------

VERDICTS = [
    ("a new field with a default", {"Lent": "full"}),
    ("a removed field", {"Lent": "backward"}),
    ("a new required field", {"Lent": "forward"}),
    ("a changed type", {"Lent": "none"}),
    ("a widened enum", {"Lent": "backward"}),
    ("a narrowed enum", {"Lent": "forward"}),
    ("optional became required", {"Lent": "forward"}),
    ("a new version with an upcaster", {"Lent": "backward"}),
    ("a new version without an upcaster", {"Lent": "none"}),
    ("a new type", {"Lent": "full", "Sold": "backward"}),
    ("a removed type", {"Lent": "forward"}),
    ("a renamed type with an alias", {"Lent": "full", "Borrowed": "backward"}),
    ("an alias of another type", {"Lent": "forward", "Sold": "full"}),
]


@pytest.mark.parametrize(("name", "expected"), VERDICTS, ids=[v[0] for v in VERDICTS])
def test_the_verdict_says_who_reads_whose_events(name, expected):
    releases, code = {**BREAKING, **SAFE}[name]
    assert verdicts(recorded(*releases), *code) == expected


def test_reasons_say_where_and_what():
    (one,) = judged(
        recorded(of(("title", str | None), ("kind", Literal["a", "b"]))),
        declared(*of(("title", str), ("kind", Literal["a"]), PAGES)),
    )
    assert one.backward == (
        "version 1: title was null, now string",
        'version 1: kind "b" is no longer allowed, only "a"',
        "version 1: pages is required, and events lack it",
    )
    (one,) = judged(recorded(of(BOOK, PAGES)), declared(*of(BOOK, ("size", int))))
    assert one.forward == (
        "pages is required, and events lack it (for the code of the lock)",
    )


def test_a_class_that_refuses_other_fields_cannot_lose_one():
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    written = schema_of_class(make_dataclass("Event", [BOOK]))
    assert problems_of(closed, written) == [
        ("title", "is stored, and the class refuses unknown fields")
    ]
    assert problems_of({**closed, "additionalProperties": True}, written) == []


@dataclasses.dataclass
class Tree:
    name: str
    children: list["Tree"]


@dataclasses.dataclass
class Wood:
    trees: dict[str, Tree]


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def test_classes_that_contain_themselves_are_compared_once():
    schema = schema_of_class(Wood)
    assert problems_of(schema, schema) == []
    other = json.loads(json.dumps(schema).replace('"string"', '"integer"'))
    assert problems_of(other, schema) == [("trees.*.name", "was string, now integer")]


PAIRS = [  # the type that reads, the type that wrote, whether it can
    (float, int, True),
    (int, float, False),
    (Any, int, True),
    (int, Any, False),
    (list[int], tuple[int, int], True),
    (tuple[int, int], list[int], False),
    (tuple[int, int], tuple[int, int, int], False),
    (set[int], list[int], False),
    (list[int], set[int], True),
    (dict[str, int], dict[str, str], False),
    (dict[str, int], make_dataclass("A", [PAGES]), True),
    (make_dataclass("A", [PAGES]), dict[str, int], False),
    (str, Literal["a"], True),
    (Literal["a"], str, False),
    (int | None, Literal[1, None], True),
    (bool, Literal[1], False),
    (make_dataclass("A", [BOOK]) | None, make_dataclass("A", [BOOK]), True),
    (complex, complex, True),
    (complex, bytes, False),
]


@pytest.mark.parametrize(("reader", "writer", "can"), PAIRS)
def test_a_type_reads_what_another_wrote(reader, writer, can):
    reading, writing = (
        schema_of_class(make_dataclass("Event", [("field", one)]))
        for one in (reader, writer)
    )
    assert (problems_of(reading, writing) == []) is can


VALUES = {
    int: [0, 7],
    int | None: [1, None],
    float: [1.5, 2.0],
    float | None: [1.5, None],
    float | str: [1.5, "a"],
    Decimal | None: [Decimal("1.5"), None],
    Decimal: [Decimal("1.5")],
    str: ["", "a"],
    int | str: [1, "a"],
    bool: [True],
    dt.date: [dt.date(2026, 1, 2)],
    Literal["a", "b"]: ["a", "b"],
    Literal["a", 1]: ["a", 1],
    Level: list(Level),
    Decimal | Literal["a"]: ["a", Decimal("1.5")],
    list[int]: [[], [1, 1]],
    list[int | None]: [[None]],
    set[int]: [{1}],
    tuple[int, int]: [(1, 1)],
    tuple[int, ...]: [(), (1,)],
    dict[str, int]: [{}, {"a": 1}],
    Tree: [Tree("a", [Tree("b", [])])],
    Wood: [Wood({"a": Tree("b", [])})],
    Any: [1, "x"],
}


def test_what_the_checker_lets_pass_the_codecs_read():
    codecs, schemas = {}, {}
    for hint in VALUES:
        cls = make_dataclass("Event", [("field", hint)])
        codecs[hint], schemas[hint] = Codec(cls), schema_of_class(cls)
    passed, refused = 0, []
    for reader, writer in product(VALUES, repeat=2):
        codec = codecs[writer]
        stored = [codec.encode(codec.cls(value)) for value in VALUES[writer]]
        if problems_of(schemas[reader], schemas[writer]):
            refused.append(all(can_read(codecs[reader], one) for one in stored))
        else:
            passed += 1
            for one in stored:
                codecs[reader].decode(one)
    # It is of use only if it lets pass much of what can be read.
    assert passed > 3 * sum(refused)
    assert len(refused) > passed


def can_read(codec, stored):
    try:
        codec.decode(stored)
    except Undecodable:
        return False
    return True


LIMITS = [
    ({"minimum": 1}, {"minimum": 0}, False),
    ({"minimum": 0}, {"minimum": 1}, True),
    ({"maximum": 9}, {}, False),
    ({}, {"maximum": 9}, True),
    ({"multipleOf": 2}, {}, False),
]


@pytest.mark.parametrize(("reader", "writer", "can"), LIMITS)
def test_a_limit_that_narrows_is_breaking(reader, writer, can):
    one = {"type": "integer"}
    assert (problems_of(one | reader, one | writer) == []) is can
    assert (problems_of(one | reader, {"enum": [1, 10]}) == []) is (
        set(reader) <= {"minimum"}
    )


# --- the lock -----------------------------------------------------------------


def test_a_lock_keeps_every_version_and_every_shape():
    lock = recorded(*STORED_3, [*STORED_3[-1], ("Sold", 1, [BOOK], "sold")])
    lent = lock.types["Lent"]
    assert (lent.current, list(lent.versions)) == (3, [1, 2, 3])
    assert [list(one[0]["properties"]) for one in lent.versions.values()] == [
        ["title"],
        ["pages", "title"],
        ["pages", "title", "to"],
    ]
    shapes = recorded(*STORED_1, of(BOOK, SHELF), STORED_1[0]).types["Lent"]
    assert [list(one["properties"]) for one in shapes.versions[1]] == [
        ["shelf", "title"],
        ["title"],
    ]
    # Of a version that was past when the file began, only its number is known.
    late = recorded(STORED_3[-1]).types["Lent"]
    assert late.versions[1] == () != late.versions[3]


def test_a_type_that_was_renamed_or_dropped_stays_in_the_lock():
    lock = recorded(*STORED_1, [("Borrowed", 1, [BOOK], "Lent")])
    assert lock.types["Lent"].current is None
    assert not breaks(lock, [("Borrowed", 1, [BOOK], "Lent")])
    assert breaks(lock, [("Borrowed", 1, [BOOK])])
    assert breaks(lock, [("Borrowed", 1, [BOOK, PAGES], "Lent")])


def test_what_was_accepted_is_asked_no_more():
    for name, (releases, code) in BREAKING.items():
        if "upcaster" not in name:  # a gap is never accepted
            assert not breaks(updated(recorded(*releases), declared(*code)), code), name


def test_the_file_is_sorted_and_only_what_changed_changes():
    types = [("Zoo", 1, [BOOK]), ("Ant", 1, [PAGES, BOOK], "z", "a")]
    text = dumped(recorded(types))
    assert text == dumped(recorded(types[::-1])) == dumped(loaded(text))
    assert text.index('"Ant"') < text.index('"Zoo"')
    assert text.endswith("}\n")
    other = dumped(recorded(types, [types[1], ("Zoo", 1, [BOOK, SHELF])]))
    changed = set(other.splitlines()) - set(text.splitlines())
    assert len([line for line in changed if "digest" in line]) == 1


TEXT = dumped(recorded(*STORED_3))
UNREADABLE = {
    "<<<<<<< HEAD\n{}": "line 1 is not JSON.*merge conflict",
    "": "line 1 is not JSON",
    "[]": "no lock file",
    '{"format": "1"}': "no lock file",
    TEXT.replace('"format": 1', '"format": 2'): "format 2.*up to 1",
    TEXT.replace('"format": 1', '"format": 0'): "the file was changed by hand",
    TEXT.replace('"current": 3', '"current": 2'): "'Lent' was changed by hand",
    TEXT.replace('"string"', '"integer"', 1): "'Lent' was changed by hand",
    TEXT.replace('"aliases": [],', ""): "'Lent' was changed by hand",
    TEXT.replace('"Lent"', '"Sold"'): "'Sold' was changed by hand",
    '{"format": 1, "format": 1}': "has 'format' twice",
    '{"format": 1, "types": []}': "the file was changed by hand",
    "[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize(("text", "reason"), UNREADABLE.items(), ids=range(13))
def test_a_lock_that_cannot_be_trusted_is_refused(text, reason):
    with pytest.raises(LockError, match=reason):
        loaded(text)


def test_a_forged_digest_is_no_traceback():
    entry = {"aliases": 1, "current": 1, "upcasters": {}, "versions": {"x": []}}
    forged = {**entry, "digest": lock_file._digest("A", entry)}
    with pytest.raises(LockError, match="changed by hand"):
        loaded(json.dumps({"format": 1, "types": {"A": forged}}))
