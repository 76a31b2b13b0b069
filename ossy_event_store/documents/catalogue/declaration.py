"""
Declare event types and upcasters.

Nothing is checked against other declarations here, since a module that is imported
later may complete them: ``problems.py`` does that for all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from ..arguments import check_names, check_number
from ..event_document import check_id

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

Tags = Sequence[str] | Callable[[Any], Sequence[str]]


@dataclass(frozen=True)
class EventType:
    """One class of events as it was declared; see ``event()``."""

    name: str
    #: A dataclass, or a class of pydantic, msgspec, attrs or TypedDict.
    cls: Any
    version: int = 1
    aliases: tuple[str, ...] = ()
    #: The tags of each event, or a function of the event that returns them.
    tags: Tags | None = None


@dataclass(frozen=True)
class Upcaster:
    """One upcaster as it was declared; see ``upcaster()``."""

    type: str
    version: int
    function: Callable[..., Any]
    #: The other types that its results may have, each with their version.
    into: Mapping[str, int] = field(default_factory=dict)

    @property
    def takes_event(self) -> bool:
        """Whether the function takes the event as its second argument."""
        try:
            inspect.signature(self.function).bind({}, {})
        except (TypeError, ValueError):
            return False
        return True


class Declarations:
    """What a project has declared so far, in the order of its imports."""

    def __init__(self) -> None:
        self.types: list[EventType] = []
        self.upcasters: list[Upcaster] = []
        #: Changes with each declaration.
        self.edition = 0

    def add(self, declared: EventType | Upcaster) -> None:
        """Add a declaration; a module that is imported again replaces its own."""
        known: list[Any] = (
            self.types if isinstance(declared, EventType) else self.upcasters
        )
        known[:] = [one for one in known if _place(one) != _place(declared)]
        known.append(declared)
        self.edition += 1


def _place(declared: EventType | Upcaster) -> tuple[Any, ...]:
    """Return what stays the same when a module is imported again."""
    if isinstance(declared, EventType):
        code = declared.cls
        return (declared.name, code.__module__, code.__qualname__)
    code = declared.function
    line = getattr(getattr(code, "__code__", None), "co_firstlineno", None)
    # Upcasters are often all called _ in one module.
    named = code.__qualname__ if code.__name__ != "_" else line
    return (declared.type, declared.version, code.__module__, named)


declarations = Declarations()


def event(
    name: str,
    *,
    version: int = 1,
    aliases: Sequence[str] = (),
    tags: Tags | None = None,
) -> Callable[[C], C]:
    """
    Declare a class of events; a decorator.

    Args:
        name: the event's ``type`` in the store. Renaming the class changes nothing.
        version: that of the class's fields. Raise it when stored events no longer fit
            them, and declare an ``upcaster()`` from each earlier version.
        aliases: earlier names of the type, under which events are stored.
        tags: the tags of each event, or a function of the event that returns them.

    The class is a dataclass, a pydantic model, a msgspec ``Struct``, an attrs class or
    a ``TypedDict``. Its objects can be appended in place of dicts.

    Raises:
        ImproperlyConfigured: an argument is wrong; names it and the class.
    """

    def decorate(cls: C) -> C:
        where = f"@event({name!r}) of {cls.__module__}.{cls.__qualname__}"
        try:
            declared = EventType(
                check_id(name, "name"),
                cls,
                check_number(version, "version", 1),
                check_names(aliases, "aliases") or (),
                tags if callable(tags) else check_names(tags, "tags"),
            )
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{where}: {error}") from None
        declarations.add(declared)
        return cls

    return decorate


def upcaster(
    name: str, version: int, *, into: Mapping[str, int] | None = None
) -> Callable[[F], F]:
    """
    Declare how payloads of an earlier version become payloads of the next; a decorator.

    The function gets the payload, and the stored event too if it has a second
    parameter. It returns the payload of the next version, a dict; or a list of
    payloads, to split one event into several; or ``[]``, to drop it. With ``into``, an
    item of the list may be ``(type, payload)``, an event of another type.

    It must be pure: no clock, no database, no chance. Each fold calls it again.

    Args:
        name: the event type.
        version: the version from which it leads to the next one.
        into: other types that it returns, each with the version of their payloads.

    Raises:
        ImproperlyConfigured: an argument is wrong; names it and the function.
    """

    def decorate(function: F) -> F:
        where = f"@upcaster({name!r}, {version!r}) of {name_of_function(function)}"
        try:
            _check_function(function)
            declared = Upcaster(
                check_id(name, "name"),
                check_number(version, "version", 1),
                function,
                _check_into(into),
            )
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{where}: {error}") from None
        declarations.add(declared)
        return function

    return decorate


def _check_function(function: Any) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError("must be a plain function that returns its result.")
    try:
        inspect.signature(function).bind({})
    except TypeError:
        inspect.signature(function).bind({}, {})


def _check_into(into: Any) -> dict[str, int]:
    if into is None:
        return {}
    if not isinstance(into, Mapping):
        raise TypeError(
            "into must be a dict such as {'CardIssued': 1}, the version of each type's "
            f"payloads, not {type(into).__name__}."
        )
    return {
        check_id(kind, "each type of into"): check_number(version, f"into[{kind!r}]", 1)
        for kind, version in into.items()
    }


def name_of_function(function: Any) -> str:
    """Return module and name of a function, for messages."""
    name = getattr(function, "__qualname__", repr(function))
    return f"{getattr(function, '__module__', '?')}.{name}"
