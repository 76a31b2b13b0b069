"""
Decision models: which events a decision needs, and what they mean.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..event_document import check_id
from .query import Item, Query, any_of, check_query, item

_PARAMETER = re.compile(r"\{(\w+)\}")


class Boundary:
    """
    The base of decision models: a query with parameters, and a pure function.

    ``query`` is a query whose tags may have parameters in braces, as
    ``"course:{course}"``; or a function of the parameters that returns a query.
    ``view(events, saved_state)`` folds the events that match it, as a reducer does;
    ``saved_state`` is always ``{}``.

    Args:
        parameters: the values of the parameters: strings, whole numbers or UUIDs. A
            function may take anything.

    Raises:
        TypeError: a parameter is missing, unknown or of another type.
        InvalidBoundary: a tag is wrong with these values.
    """

    query: ClassVar[Any]
    view: ClassVar[Callable[[list[Any], dict[str, Any]], Any]]
    #: Whether ``view`` gets objects of the classes that ``@event`` declares.
    typed: ClassVar[bool] = False

    def __init__(self, **parameters: Any) -> None:
        cls = type(self)
        query = getattr(cls, "query", None)
        for name, value in (("query", query), ("view", getattr(cls, "view", None))):
            if value is None:
                raise TypeError(f"{cls.__name__} needs the attribute {name}.")
        #: The values of the parameters.
        self.parameters = parameters
        #: The query with these values.
        self.bounds = self._bounds(query)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={v!r}" for name, v in self.parameters.items())
        return f"{type(self).__name__}({values})"

    def _bounds(self, query: Any) -> Query:
        name = type(self).__name__
        if callable(query):
            return check_query(query(**self.parameters), f"what {name}.query returns")
        query = check_query(query, f"{name}.query")
        texts = {key: _text(key, value) for key, value in self.parameters.items()}
        wanted = {
            parameter
            for one in query.items
            for tag in one.tags
            for parameter in _PARAMETER.findall(tag)
        }
        if wanted != texts.keys():
            expected = ", ".join(sorted(wanted)) or "none"
            found = ", ".join(sorted(texts)) or "none"
            raise TypeError(f"{name} takes the parameters {expected}, not {found}.")
        return any_of(*(_filled(one, texts) for one in query.items))


def _text(name: str, value: Any) -> str:
    if isinstance(value, (int, uuid.UUID)) and not isinstance(value, bool):
        return str(value)
    return check_id(value, name)


def _filled(one: Item, texts: Mapping[str, str]) -> Query:
    if not one.tags:
        return Query((one,))
    tags = (_PARAMETER.sub(lambda found: texts[found[1]], tag) for tag in one.tags)
    return item(*one.types, tags=list(dict.fromkeys(tags)))


def check_boundary(value: Any, name: str = "boundary") -> Boundary:
    """Return an instance of a decision model."""
    if isinstance(value, type) and issubclass(value, Boundary):
        raise TypeError(f"{name} must be {value.__name__}(…) with its parameters.")
    if not isinstance(value, Boundary):
        kind = type(value).__name__
        raise TypeError(f"{name} must be an instance of a Boundary, not {kind}.")
    return value
