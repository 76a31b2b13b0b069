"""
Reducers: check an aggregate class, name its revision, fold events. Pure.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import signal
import traceback
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..conf import is_test_run
from ..documents.arguments import check_flag, check_names
from ..documents.bson_types import Document
from ..documents.catalogue.catalogue import current
from ..documents.catalogue.fingerprint import fingerprint
from ..documents.catalogue.objects import Objects, stored_events
from ..documents.catalogue.reading import current_events
from ..documents.catalogue.source import is_of_project, source_of_module
from ..documents.event_document import check_id
from ..documents.masking import mask
from ..documents.storable import copied
from ..exceptions import ReducerError


class Reducer(Protocol):
    """
    An aggregate class: a type name and a pure function.

    ``view`` gets the events in ascending order of version and the state to start
    from: ``{}``, or the state of the last snapshot. It returns the new state, a
    dict. It may change ``saved_state``, which is a copy, but never the events. The
    optional attribute ``revision`` (a string) names the revision of the reducer; by
    default, a fingerprint of its source does. The optional attribute ``event_types``
    (names) says which events ``view`` gets; by default, all.
    """

    aggregate_type: str

    def view(
        self, events: list[Document], saved_state: dict[str, Any], /
    ) -> Mapping[str, Any]:
        """Fold ``events`` onto ``saved_state``; a static or class method."""


def name_of(Root: Any) -> str:
    """Return the module and name of a class, for messages."""
    return f"{Root.__module__}.{getattr(Root, '__qualname__', Root)}"


def check_reducer(Root: Any) -> Any:
    """
    Return ``Root`` if it is an aggregate class.

    Raises:
        ImproperlyConfigured: names the class and what it lacks.
    """
    if not isinstance(Root, type):
        raise ImproperlyConfigured(
            f"{Root!r} is not an aggregate class: expected a class with "
            "aggregate_type and view(events, saved_state)."
        )
    kind = getattr(Root, "aggregate_type", None)
    try:
        check_id(kind, "aggregate_type")
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"{name_of(Root)} needs an attribute aggregate_type, a string such as "
            f"{Root.__name__!r}; found {kind!r}: {error}"
        ) from None
    own_revision(Root)
    try:
        check_names(getattr(Root, "event_types", None), "event_types")
        check_flag(getattr(Root, "typed", False), "typed")
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{name_of(Root)}: {error}") from None
    view = getattr(Root, "view", None)
    if not callable(view):
        raise ImproperlyConfigured(
            f"{name_of(Root)} needs a static method view(events, saved_state)."
        )
    if reason := _signature_problem(view):
        raise ImproperlyConfigured(
            f"{name_of(Root)}.view must take (events, saved_state) and be a "
            f"@staticmethod or @classmethod: {reason}."
        )
    return Root


def _signature_problem(view: Any) -> str | None:
    # Called before every load: inspecting a signature takes a tenth of a load.
    if isinstance(view, Hashable):
        return _hashable_signature_problem(view)
    return _hashable_signature_problem.__wrapped__(view)


@functools.lru_cache(maxsize=1000)
def _hashable_signature_problem(view: Any) -> str | None:
    if inspect.iscoroutinefunction(view):
        return "it is a coroutine function, and a reducer is never awaited"
    try:
        inspect.signature(view).bind([], {})
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def own_revision(Root: Any) -> str | None:
    """Return the class's attribute ``revision``, if it has one."""
    own = getattr(Root, "revision", None)
    if own is None or (isinstance(own, str) and own):
        return own
    raise ImproperlyConfigured(
        f"{name_of(Root)}.revision must be a non-empty string, not {own!r}."
    )


def revision_of(Root: Any) -> str:
    """
    Return the revision of the reducer, which is stored with each snapshot.

    It is the class's own attribute ``revision``, or else 16 hex digits of a SHA-256
    over the source of every module of the project that defines the class or one of its
    bases, since the tables and functions that a reducer uses are often in its module.
    Comments, layout and the version of Python do not count, nor do bases of other
    packages, nor what the module imports; set ``revision`` when that matters.

    Where the catalogue of event types changes what the reducer gets, ``+`` and 12 more
    digits stand for that.

    Raises:
        ImproperlyConfigured: the declarations of event types contradict each other.
    """
    own, mark = reducer_revision(Root), fingerprint(Root)
    return f"{own}+{mark}" if mark else own


@functools.cache
def reducer_revision(Root: Any) -> str:
    """Return the part of a revision that the class itself decides."""
    if own := own_revision(Root):
        return own
    bases = [cls for cls in Root.__mro__ if is_of_project(cls, Root)]
    text = "\0".join(map(source_of_module, bases))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fold(
    Root: Any,
    events: list[Document],
    state: dict[str, Any],
    aggregate_id: str = "",
    version: int = 0,
) -> Mapping[str, Any]:
    """
    Return the reducer's state after ``events``.

    Args:
        Root: the aggregate class.
        events: the stored events, ascending. The reducer gets what they are at the
            versions that the code knows, and cannot change this list.
        state: the state before them; the reducer gets a copy, which it may change.
        aggregate_id: the stream, for an error while there are no events.
        version: its version, likewise.

    Raises:
        ReducerError: names the first event that it cannot fold, or changes; or that an
            upcaster cannot read.
        ImproperlyConfigured: the declarations of event types contradict each other.
    """
    current()  # no event is to blame for contradicting declarations
    nowhere: Document = {"aggregateId": aggregate_id, "aggregateVersion": version}
    try:
        own = copied(state)
    except BaseException as error:
        pass_on_what_ends(error)
        raise error_at(Root, (events or [nowhere])[0], error) from error
    try:
        return _state(Root, events, own)
    except BaseException as error:
        pass_on_what_ends(error)
        failing = events[-1] if events else nowhere
        raise _reducer_error(Root, events, state, failing, error) from error


def _state(Root: Any, events: list[Document], state: Any) -> Mapping[str, Any]:
    result = call(Root.view, current_events(Root, events), state)
    if not isinstance(result, Mapping):
        hint = ": has it a return?" if result is None else ""
        raise TypeError(
            f"{name_of(Root)}.view must return a dict, not "
            f"{type(result).__name__}{hint}"
        )
    return result


def call(function: Any, events: list[Any], state: Any) -> Any:
    """
    Return what a pure function of events and a state returns.

    It gets a list of its own. With DEBUG and in tests it gets events of its own too,
    and is refused if it changes them: later calls would get other events.

    Raises:
        TypeError: it changed the events, or returned a coroutine.
    """
    is_checked = settings.DEBUG or is_test_run()
    if isinstance(events, Objects):
        own = events.with_own_dicts()
    else:
        own = copied(events) if is_checked else list(events)
    with stored_events(events):
        result = function(own, state)
    name = getattr(function, "__qualname__", repr(function))
    if inspect.iscoroutine(result):
        result.close()  # it never runs, so Python should not warn of that too
        raise TypeError(f"{name} must be a plain function: it is called, not awaited")
    if is_checked and own != events:
        raise TypeError(
            f"{name} changed the events that it got; it must leave them as they are, "
            "and copy what it changes"
        )
    return result


def _reducer_error(
    Root: Any,
    events: list[Document],
    state: Any,
    failing: Document,
    error: BaseException,
) -> ReducerError:
    """Fold event by event to find the one that ``Root`` cannot fold."""
    state = copied(state)
    for event in events:
        try:
            state = _state(Root, [event], state)
        except BaseException as first:
            pass_on_what_ends(first)
            failing, error = event, first
            break
    return error_at(Root, failing, error)


def error_at(Root: Any, event: Document, error: BaseException) -> ReducerError:
    """Return the error that names the event at which a reducer failed."""
    return ReducerError(
        Root.aggregate_type,
        event["aggregateId"],
        event["aggregateVersion"],
        error_text(error),
        event.get("type"),
    )


def error_text(error: BaseException) -> str:
    """Return an error of the project's code as text of at most 500 characters."""
    try:
        text = mask(f"{type(error).__name__}: {error}")
    except Exception:
        text = type(error).__name__  # even printing it fails
    return text[:500]


# --- what the project's code raises -----------------------------------------


def pass_on_what_ends(error: BaseException) -> None:
    """
    Raise ``error`` again if it ends the process or task on purpose.

    Anything else is a failure of the project's code that raised it, even if it is not
    an ``Exception``: the panic of an extension, a time-out of gevent, ``sys.exit()``.
    """
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        raise error
    if isinstance(error, SystemExit) and _is_raised_by_signal(error):
        raise error
    if isinstance(error, asyncio.CancelledError) and _is_task_cancelled():
        raise error


def _is_raised_by_signal(error: BaseException) -> bool:
    """Whether the handler of a signal raised it, as servers do to end a worker."""
    handlers = map(signal.getsignal, signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    return any(
        frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _is_task_cancelled() -> bool:
    """Whether our own task was cancelled, and not one that it awaits."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return False
    return task is not None and task.cancelling() > 0
