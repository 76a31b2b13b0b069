"""
Every public callable, with wrong types and values for each of its arguments.

The callables and their arguments are found by their signatures, so a new one is swept
by itself. A new kind of argument has to be added to ``FITTING``, which says so.
"""

import asyncio
import datetime as dt
import inspect
import re
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import ossy_event_store
from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    Boundary,
    EventQuery,
    EventStore,
    EventStoreError,
    Projection,
    conf,
    item,
    register_projection,
)
from ossy_event_store.documents.catalogue import declaration as event_types
from ossy_event_store.projections import projection
from ossy_event_store.push import EventSourceView
from ossy_event_store.subscriptions import declaration
from ossy_event_store.verify import verify_event_store
from tests.library.aggregate import Book
from tests.support.projections import Loans

BOUGHT = {"type": "BookBought", "aggregateId": "b-1", "aggregateType": "Book"}


class Nothing(Boundary):
    """A decision model without parameters."""

    query = item(tags=["course:c1"])
    view = dict


@dataclass
class Declared:
    """What any decorator takes: events, a handler, a function of one argument."""

    event: Any = None

    def handle(self, event):
        """Handle an event."""


async def coroutine():
    """Never awaited."""


SAMPLES = {
    "text": lambda: "x",
    "empty text": lambda: "",
    "half a surrogate": lambda: "\ud800",
    "bytes": lambda: b"x",
    "number": lambda: 7,
    "negative number": lambda: -1,
    "large number": lambda: 2**70,
    "fraction": lambda: 1.5,
    "NaN": lambda: float("nan"),
    "bool": lambda: True,
    "date": lambda: dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "naive date": lambda: dt.datetime(2026, 1, 1),
    "list": lambda: ["x"],
    "list of numbers": lambda: [7],
    "dict": lambda: {"x": 1},
    "object": object,
    "coroutine": coroutine,
    "None": lambda: None,
}

# By annotation: the samples that such an argument may be.
FITTING = {
    "str": {"text"},
    "int": {"number"},
    "float": {"number", "fraction"},
    "ObjectId": set(),
    "str | int": {"text", "empty text", "number", "negative number"},
    "bool": {"bool"},
    "None": {"None"},
    "dt.datetime": {"date"},
    "Sequence[str]": {"list"},
    "Iterable[str]": {"list"},
    "frozenset[str]": {"list"},
    "list[Document]": {"list", "list of numbers"},
    "ObjectId | str": {"text"},
    "str | type[Any]": {"text"},
    "Order": set(),
    "Mapping[str, Any]": {"dict"},
    "Event": {"dict"},
    "Sequence[Event]": set(),
    "Sequence[Mapping[str, Any]]": set(),
    "Tags": {"list"},
    "Sort": set(),
    "tuple[int, int]": set(),
    "tuple[float, float]": set(),
    "Start": {"number"},
    "OnError": set(),
    "View": set(),
    "Progress": set(),
    "ClientSession": set(),
    "AsyncClientSession": set(),
    "Callable[[Transaction], T]": set(),
    "Callable[[Transaction], Coroutine[Any, Any, T]]": set(),
    "Mapping[str, Sequence[Mapping[str, Any]]]": set(),
    "Mapping[str, int]": {"dict"},
    "Callable[[Self], Decision]": set(),
    "Callable[[LoadedBoundary], Decision]": set(),
    "Boundary": set(),
    "Condition": set(),
    "Query": set(),
    "R": set(),
    "P": set(),
}
# Arguments whose annotation is Any.
ANYTHING = {
    "Root": set(),
    "event": {"number"},
    "items": set(),
    "EventStore.position_of event": {"text"},
    "stored_event event": set(SAMPLES),  # a LookupError for any but those given out
}

# What each required argument gets while another is swept.
GOOD = {
    "Root": Book,
    "cls": Loans,
    "aggregate_id": "b-1",
    "aggregate_ids": ["b-1"],
    "old": 1,
    "new": 1,
    "aggregate_type": "Book",
    "subject": "b-1",
    "decide": lambda aggregate: None,
    "work": lambda t: None,
    "streams": {"b-1": [BOUGHT]},
    "successor_id": "b-2",
    "summary": {"type": "BookBought"},
    "boundary": Nothing(),
    "fn": lambda events, saved_state: saved_state,
    "event": BOUGHT,
    "events": [BOUGHT],
    "add event": {"type": "BookBought"},
    "add more": {"type": "BookBought"},
    "wait_for event": 1,
    "of event": {"_id": "e"},
    "correlation_id": "c",
    "event_id": "e",
    "carried": {},
    "query": {},
    "Condition query": item(tags=["course:c1"]),
    "read_boundary query": item(tags=["course:c1"]),
    "item types": "A",
    "items": item(tags=["course:c1"]),
    "pipeline": [],
    "in_batches size": 5,
    "ain_batches size": 5,
    "page size": 5,
    "apage size": 5,
    "moment": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "first": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "end": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    "key": "ann",
    "name": "mail",
    "version": 1,
}
# How a message may call an argument otherwise.
OTHER_NAMES = {
    "subject": "aggregate_id",
    "more": "event",
    "summary": "event",
    "created_by": "createdBy",
    "events": "event",
    "Root": "aggregate class",
    "cls": "Projection",
}

MODULES = (
    "ossy_event_store.health",
    "ossy_event_store.push",
    "ossy_event_store.verify",
)
# Classes that users do not create: results, and views that Django calls.
NOT_CALLED = {
    *("AwaitableBoundaryRead", "BoundaryRead", "EventSourceView", "HealthView"),
    *("Boundary", "LoadedBoundary", "Query", "RebuildReport", "Transaction"),
    *("CauseChain", "Change", "EventsPage", "Trace", "TraceNode"),
}
# Classes whose arguments are swept, as those of a function.
CALLED = {"Condition", "EventFilter"}
# Projects write these two themselves.
WRITTEN_BY_PROJECTS = {"Projection.apply", "Projection.key"}


def of_class(name, cls):
    """Yield the public methods of a class, bound to something that works."""
    subject: Any = Aggregate(Book, "b-1", [{**BOUGHT, "aggregateVersion": 1}])
    if cls is EventQuery:
        subject = EventStore.query()
    bases = reversed([base for base in cls.__mro__ if base is not object])
    members = {k: v for base in bases for k, v in vars(base).items()}
    for member, value in members.items():
        label = f"{name}.{member}"
        if member.startswith("_") or label in WRITTEN_BY_PROJECTS:
            continue
        if isinstance(value, (classmethod, staticmethod)):
            yield label, getattr(Loans if cls is Projection else cls, member)
        elif inspect.isfunction(value):
            of_stream = cls is EventQuery and member == "after_version"
            yield (
                label,
                getattr(subject.stream("b-1") if of_stream else subject, member),
            )


def callables():
    """Yield everything public that can be called, by its name."""
    names = [("ossy_event_store", name) for name in ossy_event_store.__all__]
    names += [(m, name) for m in MODULES for name in import_module(m).__all__]
    for module, name in names:
        value = getattr(import_module(module), name)
        if name in NOT_CALLED or name.startswith("__"):
            continue
        if inspect.isfunction(value) or name in CALLED:
            yield name, value
        elif not issubclass(value, Exception):
            yield from of_class(name, value)


def arguments():
    for label, function in callables():
        for argument in inspect.signature(function).parameters.values():
            yield pytest.param(function, argument, id=f"{label} {argument.name}")


def fitting(label, argument):
    """Return the samples that are right for an argument."""
    annotation = str(argument.annotation)
    if annotation == "Any":
        of_all = ANYTHING[argument.name]
        return of_all | ANYTHING.get(re.sub(r"\.a(?=pos)", ".", label), set())
    if annotation in FITTING:
        return FITTING[annotation]
    return set().union(*(FITTING[one] for one in annotation.split(" | ")))


def call(runner, function, swept, value):
    """Call a function with one argument of its own, and run what it returns."""
    args, named = [], {}
    method = re.sub("^a(?=add|wait)", "", function.__name__)
    for one in inspect.signature(function).parameters.values():
        is_given = one.name == swept.name or one.default is one.empty
        given = GOOD.get(f"{method} {one.name}", GOOD.get(one.name, one.default))
        given = value if one.name == swept.name else given
        if one.kind is one.KEYWORD_ONLY:
            named |= {one.name: given} if is_given else {}
        elif is_given or one.kind is one.POSITIONAL_OR_KEYWORD:
            args.append(given)
    run(runner, function(*args, **named))


def run(runner, result):
    if inspect.isasyncgen(result):
        runner.run(first_of(result))
    elif inspect.isawaitable(result):
        runner.run(result)
    elif inspect.isgenerator(result):
        list(result)
    elif inspect.isfunction(result):  # a decorator
        result(Declared)


async def first_of(generator):
    async for _ in generator:
        break


ALLOWED = (EventStoreError, TypeError, ValueError, ImproperlyConfigured)


def refusal_problem(error, argument):
    """Return what is wrong with a refusal, or None."""
    kind = type(error).__module__.partition(".")[0]
    is_ours = kind in ("builtins", "django", "ossy_event_store")
    if not is_ours or not isinstance(error, ALLOWED) or isinstance(error, UnicodeError):
        return f"raises the foreign {type(error).__name__}: {error}"
    names = {argument.name, OTHER_NAMES.get(argument.name, argument.name)}
    if not any(re.search(rf"\b{name}\b", str(error), re.I) for name in names):
        return f"does not name it: {type(error).__name__}: {error}"
    return None


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize(("function", "argument"), list(arguments()))
def test_a_wrong_argument_is_refused_by_its_name(
    request, store, monkeypatch, runner, function, argument
):
    monkeypatch.setattr(declaration, "_registered", {})
    monkeypatch.setattr(projection, "_registered", {})
    monkeypatch.setattr(event_types, "declarations", event_types.Declarations())
    label = request.node.callspec.id
    problems = []
    for name in SAMPLES.keys() - fitting(label, argument):
        value = SAMPLES[name]()
        try:
            call(runner, function, argument, value)
        except Exception as error:
            problem = refusal_problem(error, argument)
        else:
            problem = "is taken without a word"
        if inspect.iscoroutine(value):
            value.close()
        if problem:
            problems.append(f"{name} {problem}")
    assert not problems, "\n".join(sorted(problems))


def declared_with(**attributes):
    """Declare a projection, of which nothing is kept."""
    return register_projection(type("Strings", (Loans,), {"name": "s", **attributes}))


def view_with(**attributes):
    return EventSourceView.as_view(may_see=lambda request, wanted: True, **attributes)


def setting_with(**changed):
    with override_settings(OSSY_EVENT_STORE={**settings.OSSY_EVENT_STORE, **changed}):
        return conf.get_settings()


def root_with(**attributes):
    kept = {"aggregate_type": "S", "view": staticmethod(dict), **attributes}
    return Aggregate.of(type("Strings", (), kept), {"type": "Begun"})


# The sweep above does so for each argument of a function that is annotated as a list.
@pytest.mark.parametrize(
    "give",
    [
        *(
            pytest.param(partial(give, **{name: "text"}), id=f"{give.__name__} {name}")
            for give, *names in (
                (declared_with, "types", "aggregate_types", "tags"),
                (view_with, "types", "aggregate_types", "tags", "query"),
                (root_with, "event_types"),
                (setting_with, "TYPE_BOUNDARIES"),
                (EventStore.query().tags, "any"),
                (EventStore.read_all, "types", "aggregate_types", "tags"),
                (AggregateRebuild.build_and_save_all, "types", "ids"),
                (verify_event_store, "types", "ids"),
            )
            for name in names
        ),
        partial(EventStore.append_events, "text"),
        partial(EventStore.append_streams, {"b-1": "text"}),
        partial(EventStore.append_event, {**BOUGHT, "tags": "text"}),
        partial(EventStore.find_events, {}, default="text"),
        partial(EventStore.find_events, {}, sort="text"),
        partial(EventStore.aggregate, "text"),
    ],
    ids=lambda give: give.func.__name__,
)
def test_a_string_where_a_list_belongs_is_refused(store, monkeypatch, give):
    monkeypatch.setattr(projection, "_registered", {})
    with pytest.raises(ALLOWED, match=r"must be a list.*, not str"):
        give()


def test_the_sweep_finds_what_users_call():
    found = [label for label, _ in callables()]
    assert {"Aggregate.of", "Aggregate.aof", "EventStore.aread_all"} <= set(found)
    assert {"subscription", "averify_event_store", "Projection.aget"} <= set(found)


def nameless(names):
    raise ValueError("wrong")


def foreign(names):
    raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "names")


@pytest.mark.parametrize("broken", [nameless, foreign])
def test_the_sweep_finds_a_refusal_that_does_not_help(runner, broken):
    (argument,) = inspect.signature(broken).parameters.values()
    with pytest.raises(ValueError, match=r"wrong|codec") as caught:
        call(runner, broken, argument, "x")
    assert refusal_problem(caught.value, argument)
