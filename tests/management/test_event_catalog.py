"""event_catalog: lists event types, keeps a lock, judges changes and what is stored."""

import dataclasses
import datetime as dt
import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import event, upcaster
from ossy_event_store.aggregate import registry
from ossy_event_store.documents.catalogue import declaration
from ossy_event_store.documents.catalogue.compatibility.file_names import file_names
from ossy_event_store.documents.catalogue.declaration import Declarations
from ossy_event_store.subscriptions.declaration import subscription
from tests.library.aggregate import Book
from tests.support.commands import failure, run

DAY = dt.datetime(2026, 3, 15, 10, tzinfo=dt.UTC)


@pytest.fixture
def nothing(monkeypatch):
    """No event type is declared; returns what begins again, as another release."""

    def begin():
        # Appends know none of them: these tests store what the classes refuse.
        monkeypatch.setattr(declaration, "declarations", Declarations())

    begin()
    return begin


def lent(version=2, aliases=("book_lent",), **more):
    @event("BookLent", version=version, aliases=aliases)
    @dataclasses.dataclass
    class BookLent:
        """
        A book was lent | to a <reader>.

        Nobody reads this.
        """

        title: str
        days: int | None = None
        tags: list[str] = dataclasses.field(default_factory=list)

    for number in range(1, version):

        @upcaster("BookLent", number, **more)
        def with_title(payload):
            return {**payload, "title": ""}


@pytest.fixture
def library(nothing, quick, monkeypatch):
    """One event type, which a reducer, a subscription and an alias name."""
    lent(into={"Sold": 1})
    subscription("mails", types=["book_lent", "Other"])(print)
    known = dict(registry._registered)
    monkeypatch.setattr(registry, "_registered", known)
    monkeypatch.setattr(Book, "event_types", ["BookLent"], raising=False)
    return nothing


@pytest.fixture
def stored(history):
    """Store events of some types and versions."""

    def stored(*kinds):
        for number, (kind, version) in enumerate(kinds):
            fields = {} if version == 1 else {"typeVersion": version}
            history.insert_one(
                {
                    "_id": f"e{number}",
                    "aggregateId": f"s{number}",
                    "aggregateVersion": 1,
                    "aggregateType": "Book",
                    "type": kind,
                    "payload": {},
                    "created": DAY + dt.timedelta(days=number),
                    **fields,
                }
            )

    return stored


# --- listing ------------------------------------------------------------------


def test_the_list_says_what_is_declared_and_what_names_it(library):
    module = __name__
    assert run("event_catalog")[0].splitlines() == [
        f"BookLent  version 2  {module}.lent.<locals>.BookLent",
        "  aliases: book_lent",
        "  A book was lent | to a <reader>.",
        "  title  str",
        "  days   int | None = None",
        "  tags   list[str] (optional)",
        "  upcaster from version 1, also into Sold version 1: "
        f"{module}.lent.<locals>.with_title",
        "  reducer: Book",
        "  subscription: mails",
    ]


def test_the_list_as_json_and_markdown(library):
    (one,) = json.loads(run("event_catalog", "--json")[0])["types"]
    assert one["fields"][1] == {
        "name": "days",
        "type": "int | None",
        "required": False,
        "default": "None",
    }
    assert one["upcasters"][0]["into"] == {"Sold": 1}
    assert one["namedBy"] == {"reducer": ["Book"], "subscription": ["mails"]}
    text = run("event_catalog", "--markdown")[0]
    assert text.startswith(
        "# Event types\n\n## `BookLent` version 2\n\nA book was lent"
    )
    assert "to a &lt;reader>." in text
    assert "| `days` | `int \\| None` | no | `None` |" in text


def test_without_event_types_it_says_how_to_declare_them(nothing):
    assert "Decorate their classes with @event" in run("event_catalog")[0]


def test_contradictions_are_listed_and_fail(nothing):
    lent(version=3)
    del declaration.declarations.upcasters[1]
    error = failure("event_catalog")
    assert "no upcaster from version 2" in str(error)
    assert error.returncode == 1


# --- the lock -----------------------------------------------------------------


def test_a_lock_is_written_once_and_checked(nothing, tmp_path):
    lock = str(tmp_path / "events.lock.json")
    lent(1)
    assert run("event_catalog", "--write", lock)[0] == f"{lock} records 1 event type.\n"
    before = (tmp_path / "events.lock.json").stat()
    assert "is up to date" in run("event_catalog", "--write", lock)[0]
    assert (tmp_path / "events.lock.json").stat() == before
    assert (
        run("event_catalog", "--check", lock)[0] == "1 event type: nothing changed.\n"
    )
    assert "BookLent: full" in run("event_catalog", "--check", lock, verbosity=2)[0]
    nothing()
    lent(2)
    out = run("event_catalog", "--check", lock)[0]
    assert out.startswith("BookLent: backward\n  forward: the code of the lock knows")
    assert f"--write {lock}" in out
    run("event_catalog", "--write", lock)
    assert list(
        json.loads(Path(lock).read_text())["types"]["BookLent"]["versions"]
    ) == [
        "1",
        "2",
    ]


def test_a_breaking_change_fails_and_is_not_recorded(nothing, tmp_path):
    lock = tmp_path / "events.lock.json"
    lent(3)
    run("event_catalog", "--write", str(lock))
    text = lock.read_text()
    nothing()
    lent(1, aliases=())
    error = failure("event_catalog", "--check", str(lock), "--json")
    assert (error.returncode, "BookLent" in str(error)) == (1, True)
    error = failure("event_catalog", "--write", str(lock))
    assert (error.returncode, "--accept-breaking" in str(error)) == (1, True)
    assert lock.read_text() == text
    run("event_catalog", "--write", str(lock), "--accept-breaking")
    run("event_catalog", "--check", str(lock))


def test_the_check_as_json_has_a_verdict_for_each_event(nothing, tmp_path, capsys):
    lock = str(tmp_path / "lock")
    lent(2)
    run("event_catalog", "--write", lock)
    document = json.loads(run("event_catalog", "--check", lock, "--json")[0])
    assert document == {
        "problems": [],
        "events": [
            {
                "type": "BookLent",
                "verdict": "full",
                "breaking": [],
                "forward": [],
                "new": False,
            }
        ],
        "outdated": False,
        "ok": True,
    }


def test_a_deleted_upcaster_is_a_contradiction_and_breaks_an_event(nothing, tmp_path):
    lock = str(tmp_path / "lock")
    lent(3)
    run("event_catalog", "--write", lock)
    del declaration.declarations.upcasters[1]
    error = failure("event_catalog", "--check", lock)
    assert "no upcaster from version 2" in str(error)
    assert "The code cannot read every event of BookLent" in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        (b"\xff", "can't decode"),
        (b"{", "line 1 is not JSON"),
        (b'{"format": 2, "types": {}}', "format 2"),
    ],
)
def test_a_lock_that_cannot_be_read_is_wrong_use(nothing, tmp_path, text, reason):
    lock = tmp_path / "lock"
    if text is not None:
        lock.write_bytes(text)
        assert failure("event_catalog", "--write", str(lock)).returncode == 2
    error = failure("event_catalog", "--check", str(lock))
    assert error.returncode == 2
    assert reason in str(error)
    assert str(lock) in str(error)


@pytest.mark.parametrize(
    "options",
    [
        ["--write", "a", "--check", "a"],
        ["--markdown", "--stored"],
        ["--markdown", "--json"],
        ["--accept-breaking"],
        ["--strict"],
        ["--stored", "--max-time", "0"],
        ["--stored", "--max-time", "nan"],
    ],
)
def test_options_that_do_not_belong_together_are_wrong_use(nothing, options):
    assert failure("event_catalog", *options).returncode == 2


# --- files of JSON Schema -----------------------------------------------------


def test_schemas_are_written_for_each_version_and_never_outside(nothing, tmp_path):
    lock, folder = str(tmp_path / "lock"), tmp_path / "deep" / "schemas"
    lent(1)
    run("event_catalog", "--write", lock)
    nothing()
    lent(2)
    event("../../Away")(dataclasses.make_dataclass("Away", []))
    folder.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (folder / "BookLent.2.json").symlink_to(outside)
    out = run("event_catalog", "--json-schema", str(folder), "--check", lock)[0]
    assert f"Wrote 3 schemas into {folder}." in out
    assert outside.read_text() == "untouched"
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert sorted(found) == [
        "%2E%2E%2F%2E%2E%2FAway.1.json",
        "BookLent.1.json",
        "BookLent.2.json",
    ]
    assert found["BookLent.2.json"]["description"].startswith("A book was lent")
    assert {one["$schema"] for one in found.values()} == {
        "https://json-schema.org/draft/2020-12/schema"
    }
    error = failure("event_catalog", "--json-schema", str(outside))
    assert (error.returncode, str(outside) in str(error)) == (2, True)


def test_file_names_are_safe_and_differ_in_more_than_case():
    names = ["a/b", "..", "Lent", "lent", "CON", "x" * 255, "bücher", "", "a.b", "%2E"]
    found = list(file_names(names).values())
    assert found[:2] == ["a%2Fb", "%2E%2E"]
    assert len({name.lower() for name in found}) == len(names)
    assert all(len(name) <= 110 for name in found)
    assert all(name.replace("~", "_").replace("%", "_").isascii() for name in found)
    assert found[2].startswith("Lent~")
    assert found[4].startswith("CON~")


# --- what is stored -----------------------------------------------------------


def test_what_is_stored_is_counted_beside_the_code(nothing, stored):
    lent(2)
    event("Never")(dataclasses.make_dataclass("Never", []))
    stored(("BookLent", 1), ("book_lent", 1), ("BookLent", 2), ("Odd", 1))
    assert run("event_catalog", "--stored")[0].splitlines() == [
        "BookLent   version 1             1  2026-03-15 10:00:00+00:00  upcasted",
        "BookLent   version 2             1  2026-03-17 10:00:00+00:00  current",
        "Odd        version 1             1  2026-03-18 10:00:00+00:00  unknown",
        "book_lent  version 1             1  2026-03-16 10:00:00+00:00  upcasted",
        "Never stored: Never",
    ]
    error = failure("event_catalog", "--stored", "--strict")
    assert "cannot read it: 'Odd' version 1" in str(error)
    assert error.returncode == 1


def test_a_version_above_that_of_the_code_fails(nothing, stored):
    lent(2)
    stored(("BookLent", 3), ("Odd", 2), ("Sold", 1))
    document = json.loads(failing_output("event_catalog", "--stored", "--json"))
    assert [
        (one["type"], one["version"], one["standing"]) for one in document["stored"]
    ] == [
        ("BookLent", 3, "unreadable"),
        ("Odd", 2, "unreadable"),
        ("Sold", 1, "unknown"),
    ]
    assert document["ok"] is False


def failing_output(*args):
    """Return what a command wrote before it failed."""
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command(*args, stdout=out)
    return out.getvalue()


def test_an_empty_store_has_no_types(nothing, store):
    assert run("event_catalog", "--stored")[0] == "No events are stored.\n"


def test_a_time_that_does_not_suffice_is_said(nothing, stored):
    stored(("A", 1))
    error = failure("event_catalog", "--stored", "--max-time", "0.000001")
    assert "took longer than --max-time 1e-06" in str(error)
