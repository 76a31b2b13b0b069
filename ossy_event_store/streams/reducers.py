"""
Reducers: check an aggregate class, name its revision, fold events. Pure.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import inspect
import sys
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..exceptions import ReducerError


class Reducer(Protocol):
    """
    An aggregate class: a type name and a pure function.

    ``view`` gets the events in ascending order of version and the state to start
    from: ``{}``, or the state of the last snapshot. It returns the new state, a
    dict, and changes neither argument. The optional attribute ``revision`` (a
    string) names the revision of the reducer; by default, a fingerprint of its
    source does.
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


@functools.cache
def revision_of(Root: Any) -> str:
    """
    Return the revision of the reducer, which is stored with each snapshot.

    It is the class's own attribute ``revision``, or else 16 hex digits of a SHA-256
    over the source of every module of the project that defines the class or one of its
    bases, since the tables and functions that a reducer uses are often in its module.
    Comments, layout and the version of Python do not count, nor do bases of other
    packages, nor what the module imports; set ``revision`` when that matters.
    """
    if own := own_revision(Root):
        return own
    parts = [_source(cls) for cls in Root.__mro__ if _is_of_project(cls, Root)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _is_of_project(cls: type, Root: type) -> bool:
    """Whether a base of an aggregate class is not of Python or another package."""
    package = cls.__module__.partition(".")[0]
    if package == Root.__module__.partition(".")[0]:
        return True  # wherever it is installed
    if package in (*sys.stdlib_module_names, __name__.partition(".")[0]):
        return False
    path = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & {*Path(path).parts}


def _source(cls: type) -> str:
    try:
        source = inspect.getsource(sys.modules[cls.__module__])
        return _canonical(ast.parse(source))
    except (OSError, TypeError, KeyError, SyntaxError):
        # Typed into a shell, or frozen: take the compiled code instead.
        return "".join(_shape(function.__code__) for function in _functions(cls))


# How source is written, not what it does.
_LAYOUT = {"ctx", "kind", "type_comment", "type_ignores"}


def _canonical(node: object) -> str:
    """
    Return a syntax tree as text that each version of Python gives the same.

    ``ast.unparse()`` does not: 3.12 writes other quotes into f-strings. Fields that are
    empty are left out, as a new version may add some.
    """
    if isinstance(node, ast.JoinedStr):  # 3.12 adds empty texts
        node.values = [one for one in node.values if getattr(one, "value", one) != ""]
    if isinstance(node, ast.AST):
        fields = ",".join(
            f"{name}={_canonical(value)}"
            for name, value in sorted(ast.iter_fields(node))
            if name not in _LAYOUT and value is not None and value != []
        )
        return f"{type(node).__name__}({fields})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return ascii(node)  # as repr() depends on the version of Unicode


def _functions(cls: type) -> Iterable[Any]:
    for value in vars(cls).values():
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function):
            yield function


def _shape(code: CodeType) -> str:
    constants = [_constant(constant) for constant in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return _shape(value)
    if isinstance(value, frozenset):  # its order differs between processes
        return repr(sorted(map(repr, value)))
    return repr(value)


def fold(Root: Any, events: list[Document], state: dict[str, Any]) -> Mapping[str, Any]:
    """
    Return the reducer's state after ``events``.

    Raises:
        ReducerError: names the version of the first event that it cannot fold.
    """
    try:
        before = copy.deepcopy(state)  # to find the failing event, if one fails
    except Exception as error:
        raise _error_at(Root, events[0], error) from error
    try:
        result: Mapping[str, Any] = Root.view(events, state)
        return result
    except Exception as error:
        raise _reducer_error(Root, events, before, error) from error


def _reducer_error(
    Root: Any, events: list[Document], state: Any, error: Exception
) -> ReducerError:
    """Fold event by event to find the one that ``Root`` cannot fold."""
    failing = events[-1]
    for event in events:
        try:
            state = Root.view([event], state)
        except Exception as first:
            failing, error = event, first
            break
    return _error_at(Root, failing, error)


def _error_at(Root: Any, event: Document, error: Exception) -> ReducerError:
    return ReducerError(
        Root.aggregate_type,
        event["aggregateId"],
        event["aggregateVersion"],
        error_text(error),
    )


def error_text(error: Exception) -> str:
    """Return an error of the project's code as text of at most 500 characters."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__  # even printing it fails
    return text[:500]
