"""Checks of the declared event types, upcasters, and of the types that code names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.core.checks import CheckMessage

from ..aggregate.registry import registered_aggregates
from ..documents.catalogue import declaration as event_types
from ..documents.catalogue.catalogue import Catalogue
from ..documents.catalogue.problems import Kind, problems
from ..streams.reducers import name_of
from ..subscriptions import declaration
from .messages import error, warning

_ERRORS: Mapping[Kind, str] = {
    "doubled": "E007",
    "alias": "E008",
    "gap": "E009",
    "cycle": "E010",
    "class": "E011",
}


def check_event_types(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that the declarations agree, and that all types are known; no I/O."""
    declared = event_types.declarations
    if found := [error(_ERRORS[one.kind], one) for one in problems(declared)]:
        return found
    names = Catalogue(declared).names
    if not names:  # a project that declares no event types
        return []
    return [
        _unknown(where, name, names)
        for where, types in _users()
        for name in types
        if name not in names and not name.startswith("$")
    ]


def _users() -> Iterator[tuple[str, Iterable[str]]]:
    """Yield what names event types: subscriptions, projections, aggregate classes."""
    for one in declaration.registered_subscriptions().values():
        yield f"The {one.kind} {one.name!r}", one.types or ()
    for Root in registered_aggregates().values():
        where = f"The aggregate class {name_of(Root)}"
        yield where, getattr(Root, "event_types", None) or ()


def _unknown(where: str, name: str, names: Iterable[str]) -> CheckMessage:
    close = difflib.get_close_matches(name, sorted(names), 1)
    return warning(
        "W020",
        f"{where} wants events of type {name!r}, which the project does not declare.",
        f"Did you mean {close[0]!r}?"
        if close
        else f"Correct the name, or declare a class with @event({name!r}).",
    )
