"""Reducers: what a class needs, what its revision depends on, how it folds."""

import asyncio
import importlib
import linecache
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store.exceptions import ReducerError
from ossy_event_store.streams import reducers
from ossy_event_store.streams.reducers import (
    check_reducer,
    fold,
    name_of,
    reducer_revision,
    revision_of,
)
from tests.library.aggregate import Book, Reader

pytestmark = pytest.mark.versions

SOURCE = """
FINE = {"day": 5}

def of(days):
    return days * FINE["day"]

class Fine:
    aggregate_type = "Fine"

    @staticmethod
    def view(events, saved_state):
        return {"fine": of(len(events))}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module and returns its class ``Fine``."""
    monkeypatch.syspath_prepend(tmp_path)

    def module(source, name="fines"):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source), "utf-8")
        importlib.invalidate_caches()
        linecache.clearcache()
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        loaded = importlib.import_module(name)
        reducer_revision.cache_clear()
        return loaded.Fine

    yield module
    reducer_revision.cache_clear()


def reducer(view, **attributes):
    attributes = {"aggregate_type": "Test", "view": staticmethod(view), **attributes}
    return type("Test", (), attributes)


def events(*types):
    return [
        {"type": kind, "aggregateId": "a", "aggregateVersion": version}
        for version, kind in enumerate(types, 1)
    ]


# What a class needs


@pytest.mark.parametrize("Root", [Book, Reader])
def test_a_class_with_a_type_and_a_view_is_a_reducer(Root):
    assert check_reducer(Root) is Root


@pytest.mark.parametrize("Root", [None, "Book", Book(), lambda events, state: {}])
def test_only_a_class_is_a_reducer(Root):
    with pytest.raises(ImproperlyConfigured, match="is not an aggregate class"):
        check_reducer(Root)


@pytest.mark.parametrize("kind", [None, "", 5, ["Book"], b"Book"])
def test_a_class_without_a_type_is_refused(kind):
    Root = reducer(lambda events, state: {}, aggregate_type=kind)
    with pytest.raises(ImproperlyConfigured) as caught:
        check_reducer(Root)
    assert "test_reducers.Test needs an attribute aggregate_type" in str(caught.value)
    assert f"found {kind!r}" in str(caught.value)


@pytest.mark.parametrize("kind", ["x" * 256, "a\0", "\ud800"])
def test_a_type_that_a_stream_cannot_have_is_refused(kind):
    with pytest.raises(ImproperlyConfigured, match="aggregate_type"):
        check_reducer(reducer(lambda events, state: {}, aggregate_type=kind))


@pytest.mark.parametrize("view", [None, 5, "view"])
def test_a_class_without_a_view_is_refused(view):
    Root = type("Test", (), {"aggregate_type": "Test", "view": view})
    with pytest.raises(ImproperlyConfigured, match=r"needs a static method view"):
        check_reducer(Root)


def test_an_instance_method_is_not_a_view():
    class Shelf:
        aggregate_type = "Shelf"

        def view(self, events, saved_state):
            return {}

    with pytest.raises(ImproperlyConfigured, match=r"Shelf\.view must take") as caught:
        check_reducer(Shelf)
    assert "@staticmethod or @classmethod" in str(caught.value)


@pytest.mark.parametrize(
    "view",
    [dict, lambda events: {}, lambda a, b, c: {}, lambda events, *, state: {}],
)
def test_a_view_with_other_arguments_is_refused(view):
    with pytest.raises(ImproperlyConfigured, match=r"must take \(events, saved_state"):
        check_reducer(reducer(view))


@pytest.mark.parametrize(
    "view", [lambda *args: {}, lambda a, b, c=1: {}, lambda a, b, **more: {}]
)
def test_a_view_may_have_optional_arguments(view):
    assert check_reducer(reducer(view))


@pytest.mark.parametrize("revision", [5, "", 1.5, b"1", ["1"]])
def test_a_revision_is_a_non_empty_string(revision):
    Root = reducer(lambda events, state: {}, revision=revision)
    with pytest.raises(ImproperlyConfigured, match=r"revision must be a non-empty"):
        check_reducer(Root)


def test_a_class_is_named_with_its_module():
    assert name_of(Book) == "tests.library.aggregate.Book"


# The revision


def test_a_class_can_set_its_own_revision():
    assert revision_of(Reader) == "1"


def test_the_revision_is_16_hex_digits(module):
    assert set(revision_of(module(SOURCE))) <= set("0123456789abcdef")
    assert len(revision_of(module(SOURCE))) == 16


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FINE =", "# Since 1907.\nFINE ="),
        ("return days", "return  days"),
        ('{"day": 5}', "{'day': (5)}"),
        ("\n", "\n\n"),
        ("of(days):\n    return", "of(days):\n        return"),
        ('FINE["day"]', '(\n        FINE["day"]\n    )'),
        ("= {", "= \\\n    {"),
    ],
)
def test_comments_and_layout_do_not_count(module, before, after):
    revision = revision_of(module(SOURCE))
    assert revision_of(module(SOURCE.replace(before, after))) == revision


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"day": 5', '"day": 6'),
        ("* FINE", "+ FINE"),
        ('"fine": of', '"fines": of'),
        ("len(events)", "len(events) + 1"),
        ("class Fine:", "class Fine(dict):"),
    ],
)
def test_a_changed_table_or_function_counts(module, before, after):
    revision = revision_of(module(SOURCE))
    assert revision_of(module(SOURCE.replace(before, after))) != revision


BASED = """
from basis import Fine as Basis

class Fine(Basis):
    aggregate_type = "Fine"
"""


def test_a_changed_base_class_in_another_module_counts(module):
    module(SOURCE, "basis")
    revision = revision_of(module(BASED))
    module(SOURCE.replace("5", "6"), "basis")
    assert revision_of(module(BASED)) != revision


def test_a_base_of_another_package_does_not_count(module, monkeypatch):
    source = "import abc\nfrom django.views import View\n" + SOURCE
    Root = module(source.replace("class Fine:", "class Fine(View, abc.ABC):"))
    parts = [cls for cls in Root.__mro__ if reducers.is_of_project(cls, Root)]
    assert parts == [Root]


OF_EACH_PYTHON = (
    SOURCE
    + """
def text(name, width, many):
    return f"{name!r:>{width}} of {many['a']}, {width=}" "\\U0001FAE8"
"""
)


def test_the_revision_is_the_same_on_every_python(module):
    # CI runs this on each of them; it was computed by 3.11.
    assert revision_of(module(OF_EACH_PYTHON)) == "a1797fb739147d31"


def test_two_classes_of_one_module_may_share_a_revision(module):
    other = SOURCE.replace("class Fine", "class Other") + "\n\nclass Fine(Other): pass"
    assert revision_of(module(other))


WITHOUT_SOURCE = """
class Test:
    aggregate_type = "Test"

    @staticmethod
    def view(events, saved_state):
        return {{"a": {result}}}
"""


def executed(result, **names):
    space = dict(names)
    exec(WITHOUT_SOURCE.format(result=result), space)
    return space["Test"]


@pytest.mark.parametrize(
    "names", [{"__name__": "nowhere"}, {}], ids=["named", "nameless"]
)
def test_without_source_the_compiled_code_counts(names):
    one, same, other = (revision_of(executed(n, **names)) for n in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    "result",
    ["1 + len(events)", "[e for e in events]", "(lambda e: e)(1)", "max(1, 2)"],
)
def test_without_source_other_code_gives_another_revision(result):
    one = revision_of(executed(0, __name__="nowhere"))
    assert revision_of(executed(result, __name__="nowhere")) != one


SHELL = f"""
source = {WITHOUT_SOURCE!r}.format(result='events[0]["type"] in {{"a", "b", "c", "d"}}')
space = {{"__name__": "nowhere"}}
exec(source, space)
from ossy_event_store.streams.reducers import revision_of
print(revision_of(space["Test"]))
"""


def test_without_source_every_process_computes_the_same_revision():
    seen = set()
    for seed in "1234":
        env = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", SHELL], env=env, capture_output=True, text=True
        )
        seen.add(run.stdout)
    assert len(seen) == 1
    assert len(seen.pop()) == 17


# Folding


def test_a_fold_passes_events_and_state_to_the_view():
    Root = reducer(lambda events, state: {**state, "n": len(events)})
    assert fold(Root, events("a", "b"), {"old": 1}) == {"old": 1, "n": 2}


def test_a_view_may_be_a_class_method():
    assert fold(Reader, events("a", "b"), {}) == {"events": 2}


def test_an_error_names_the_first_version_that_cannot_be_folded():
    error = ReducerError("Book", "a", 2, "KeyError: 'payload'", "BookLent")
    with pytest.raises(ReducerError) as caught:
        fold(Book, events("Other", "BookLent", "BookLent"), {})
    assert vars(caught.value) == vars(error)


def test_an_error_names_the_last_version_where_single_events_can_be_folded():
    def view(events, state):
        if len(events) > 1:
            raise ValueError("too many")
        return state

    with pytest.raises(ReducerError) as caught:
        fold(reducer(view), events("a", "b", "c"), {})
    assert (caught.value.version, caught.value.error) == (3, "ValueError: too many")


def test_the_error_of_the_reducer_is_the_cause():
    with pytest.raises(ReducerError) as caught:
        fold(Book, events("BookLent"), {})
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_search_for_the_failing_event_begins_with_the_old_state():
    def view(events, state):
        for event in events:
            state["seen"] = state.get("seen", 0) + 1
            if state["seen"] == 3:
                raise ValueError(event["type"])
        return state

    with pytest.raises(ReducerError) as caught:
        fold(reducer(view), events("a", "b", "c", "d"), {})
    assert (caught.value.version, caught.value.error) == (3, "ValueError: c")


def test_a_long_message_of_a_reducer_is_truncated():
    def view(events, state):
        raise ValueError("x" * 10_000)

    with pytest.raises(ReducerError) as caught:
        fold(reducer(view), events("a"), {})
    assert len(caught.value.error) == 500


def test_an_error_that_cannot_be_printed_is_a_reducer_error():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("not printable")

    def view(events, state):
        raise Silent

    with pytest.raises(ReducerError, match="Silent"):
        fold(reducer(view), events("a"), {})


def test_a_state_that_cannot_be_copied_is_a_reducer_error():
    with pytest.raises(ReducerError):
        fold(reducer(lambda events, state: {}), events("a"), {"lock": threading.Lock()})


class Panic(BaseException):
    """As an extension in Rust raises it."""


@pytest.mark.parametrize("raised", [Panic, SystemExit, asyncio.CancelledError])
def test_whatever_a_reducer_raises_is_a_reducer_error(raised):
    def view(events, state):
        raise raised

    with pytest.raises(ReducerError):
        fold(reducer(view), events("a"), {})


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_process_on_purpose_is_not_a_reducer_error(stop):
    def view(events, state):
        raise stop

    with pytest.raises(stop):
        fold(reducer(view), events("a"), {})


def without_return(events, state):
    state["n"] = len(events)


async def awaited(events, state):
    return state


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (without_return, "must return a dict, not NoneType: has it a return"),
        (lambda events, state: [], "must return a dict, not list"),
        (lambda events, state: awaited(events, state), "called, not awaited"),
    ],
)
def test_a_reducer_that_returns_no_state_is_named(view, reason):
    with pytest.raises(ReducerError, match=reason) as caught:
        fold(reducer(view), events("a", "b"), {})
    assert (caught.value.version, caught.value.event_type) == (1, "a")


def test_a_reducer_is_no_coroutine_function():
    with pytest.raises(ImproperlyConfigured, match="coroutine function"):
        check_reducer(reducer(awaited))


def pops(events, state):
    while events:
        state = {"last": events.pop()["type"]}
    return state


def changes_the_second(events, state):
    for event in events:
        if event["type"] == "b":
            event["type"] = "c"
    return {}


@pytest.mark.parametrize(("view", "version"), [(pops, 1), (changes_the_second, 2)])
def test_a_reducer_that_changes_events_is_refused_in_tests(view, version):
    given = events("a", "b")
    with pytest.raises(ReducerError, match="changed the events that it got") as caught:
        fold(reducer(view), given, {})
    assert caught.value.version == version
    assert given == events("a", "b")


def test_a_reducer_that_changes_events_is_refused_with_debug(monkeypatch, settings):
    monkeypatch.setattr(reducers, "is_test_run", lambda: False)
    settings.DEBUG = True
    with pytest.raises(ReducerError, match="changed the events"):
        fold(reducer(pops), events("a"), {})


def test_in_production_a_reducer_gets_a_list_of_its_own(monkeypatch):
    monkeypatch.setattr(reducers, "is_test_run", lambda: False)
    given = events("a", "b")
    assert fold(reducer(pops), given, {}) == {"last": "a"}
    assert given == events("a", "b")


def test_an_error_without_events_names_the_stream():
    with pytest.raises(ReducerError) as caught:
        fold(reducer(without_return), [], {}, "b-1", 7)
    assert (caught.value.aggregate_id, caught.value.version) == ("b-1", 7)


def test_the_handler_of_a_signal_ends_the_process_during_a_fold():
    def view(events, state):
        signal.raise_signal(signal.SIGUSR1)
        raise AssertionError("the handler comes first")

    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit):
            fold(reducer(view), events("a"), {})
    finally:
        signal.signal(signal.SIGUSR1, before)
