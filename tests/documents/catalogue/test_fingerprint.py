"""What a revision contains of the catalogue: all that changes what is read."""

import functools
import hashlib
import importlib
import linecache
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from ossy_event_store import event, upcaster
from ossy_event_store.documents.catalogue.fingerprint import fingerprint
from ossy_event_store.documents.catalogue.source import source_of
from ossy_event_store.streams.reducers import revision_of

pytestmark = pytest.mark.versions

SOURCE = '''
"""Events."""
from dataclasses import dataclass
from datetime import date, timedelta
from ossy_event_store import event, upcaster

WEEKS = {"Emma": 3}
WEEKS["Persuasion"] = 4
DEFAULT = 2
UNUSED = 5

try:
    import json as coder
except ImportError:
    coder = None

class Unit:
    """A unit."""
    days = 7

def weeks_of(book):
    """Return the weeks."""
    return WEEKS.get(book, DEFAULT)

def unused():
    return UNUSED

@event("Lent", version=2, tags=lambda event: ["x"])
@dataclass
class Lent(Unit):
    book: str

@upcaster("Lent", 1)
def _(payload, event=None):
    """From days to weeks."""
    weeks = weeks_of(payload["book"])  # a comment
    return {**payload, "weeks": weeks, "days": weeks * Unit.days}

@upcaster("Read", 1)
def _(payload):
    return coder.loads(payload["text"])
'''


@pytest.fixture
def module(tmp_path, monkeypatch, declarations):
    """Give a function that writes a module of events and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def module(*replaced):
        source = SOURCE
        for before, after in replaced:
            assert before in source
            source = source.replace(before, after)
        (tmp_path / "loans_of_shelves.py").write_text(source, "utf-8")
        importlib.invalidate_caches()
        linecache.clearcache()
        sys.modules.pop("loans_of_shelves", None)
        declarations.types.clear(), declarations.upcasters.clear()
        declarations.edition += 1
        return importlib.import_module("loans_of_shelves")

    yield module
    sys.modules.pop("loans_of_shelves", None)  # or it would hide others of its name


class Reader:
    aggregate_type = "Reader"
    revision = "3"
    event_types = ("Lent",)


class Typed(Reader):
    typed = True


class Everything:
    pass


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("UNUSED = 5", "UNUSED = 6"),
        ("return UNUSED", "return -UNUSED"),
        ("  # a comment", ""),
        ('"""From days to weeks."""', '"""In weeks."""'),
        ('"""Return the weeks."""', ""),
        ('"""A unit."""', '"""Days."""'),
        ('"""Events."""', "# Events, later\n\n\n"),
        ("import date, timedelta", "import date"),
        ("import event, upcaster", "import event, item, upcaster"),
        ('{"Emma": 3}', "{'Emma':   3}"),
        ('["text"]', '["json"]'),
        ("json as coder", "pickle as coder"),
        ("book: str", "book: int"),
        ('["x"]', '["y"]'),
        ('@upcaster("Lent", 1)', '@upcaster("Loan", 1)\n@upcaster("Lent", 1)'),
    ],
)
def test_what_an_upcaster_does_not_use_does_not_count(module, before, after):
    module()
    one = fingerprint(Reader)
    module((before, after))
    assert fingerprint(Reader) == one != ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"Emma": 3}', '{"Emma": 4}'),
        ('["Persuasion"] = 4', '["Persuasion"] = 5'),
        ("DEFAULT = 2", "DEFAULT = 1"),
        ("WEEKS.get(book, DEFAULT)", "WEEKS[book]"),
        ("days = 7", "days = 6"),
        ('"weeks": weeks,', '"week": weeks,'),
        ("(payload, event=None)", "(payload)"),
        ('@upcaster("Lent", 1)', '@upcaster("Lent", 1, into={"Card": 1})'),
        ("version=2", 'version=2, aliases=["lent"]'),
    ],
)
def test_what_an_upcaster_uses_counts(module, before, after):
    module()
    one = fingerprint(Reader)
    module((before, after))
    assert fingerprint(Reader) not in (one, "")


def test_names_of_a_module_that_are_bound_inside_of_a_statement_count(module):
    module()
    one = fingerprint(Everything)
    module(("json as coder", "pickle as coder"))
    assert fingerprint(Everything) != one


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("book: str", "book: int", True),
        ("days = 7", "days = 6", True),
        ('["x"]', '["y"]', False),
        ('["text"]', '["json"]', False),
    ],
)
def test_the_classes_of_events_count_for_readers_that_get_objects(
    module, before, after, counts
):
    module()
    one = fingerprint(Typed)
    assert one not in ("", fingerprint(Reader))
    module((before, after))
    assert (fingerprint(Typed) != one) == counts


def test_a_revision_stays_as_it_is_if_the_catalogue_changes_nothing(declarations):
    assert revision_of(Reader) == "3"
    event("Lent")(dataclass(type("Lent", (), {})))
    upcaster("Other", 1)(lambda payload: payload)
    assert revision_of(Reader) == "3"


def test_a_revision_follows_later_declarations(declarations):
    assert revision_of(Reader) == "3"
    upcaster("Lent", 1)(lambda payload: payload)
    changed = revision_of(Reader)
    assert changed.startswith("3+")
    assert len(changed) == 14
    event("lent", version=1, aliases=["old"])(dataclass(type("Old", (), {})))
    assert revision_of(Reader) == changed


def test_the_sources_of_a_split_count_for_the_types_that_they_lead_into(declarations):
    upcaster("Scanned", 1, into={"Lent": 1})(lambda payload: ("Lent", payload))
    one = fingerprint(Reader)
    upcaster("Raw", 1, into={"Scanned": 1})(lambda payload: ("Scanned", payload))
    assert one != fingerprint(Reader) != ""


def renamed(old, new):
    def rename(payload):
        return {new if name == old else name: one for name, one in payload.items()}

    return rename


def with_field(payload, name, value):
    return {**payload, name: value}


class Rename:
    def __init__(self, names):
        self.names = names

    def __call__(self, payload):
        return {self.names.get(name, name): one for name, one in payload.items()}


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (renamed("who", "reader"), renamed("who", "reader"), renamed("who", "to")),
        (
            functools.partial(with_field, name="weeks", value=3),
            functools.partial(with_field, name="weeks", value=3),
            functools.partial(with_field, name="weeks", value=4),
        ),
        (Rename({"who": "to"}), Rename({"who": "to"}), Rename({"who": "reader"})),
        (renamed("a", {1, 2}), renamed("a", {2, 1}), renamed("a", {1, 3})),
        (renamed("a", len), renamed("a", len), renamed("a", with_field)),
    ],
    ids=["closure", "partial", "object", "set", "function"],
)
def test_values_that_belong_to_a_function_count(one, same, other):
    assert source_of(one) == source_of(same) != source_of(other)
    assert " at 0x" not in source_of(one)


def test_without_source_the_compiled_code_counts():
    def executed(value):
        space = {"__name__": "nowhere"}
        exec(f"def weeks(payload): return {{**payload, 'weeks': {value}}}", space)
        return space["weeks"]

    assert source_of(executed(3)) == source_of(executed(3)) != source_of(executed(4))


def test_each_version_of_python_gives_the_same_source(module):
    shelves = module()
    found = "\0".join(
        source_of(one) for one in (shelves._, shelves.weeks_of, shelves.Lent)
    )
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == "57b07b9d5122444f"


def test_every_process_gives_the_same_fingerprint(tmp_path):
    (tmp_path / "loans_of_shelves.py").write_text(SOURCE, "utf-8")
    code = (
        "import loans_of_shelves as shelves\n"
        "from ossy_event_store.documents.catalogue.fingerprint import fingerprint\n"
        "print(fingerprint(shelves.Lent))"
    )
    seen = set()
    for seed in "12":
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
        seen.add(run.stdout or run.stderr)
    assert len(seen) == 1
    assert len(seen.pop()) == 13
