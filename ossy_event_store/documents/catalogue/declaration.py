"""
Declare event types and upcasters.

Nothing is checked against other declarations here, since a module that is imported
later may complete them: ``problems.py`` does that for all of them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from ..arguments import check_names, check_number
from ..event_document import check_id
from .codecs.codec import Codec
from .codecs.rules import Undeclarable

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
    #: Names of the function in which the class is defined, for its annotations.
    namespace: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def codec(self) -> Codec:
        """
        How its objects are stored, and made again.

        Raises:
            ImproperlyConfigured: names the class, and the field with no stored form.
        """
        try:
            return self.made_codec()
        except NameError as error:
            raise ImproperlyConfigured(
                f"{where(self.name, self.cls)}: an annotation names what is not "
                f"defined: {error}"
            ) from None

    def made_codec(self) -> Codec:
        """Return ``codec``, or raise NameError if a class is still to be defined."""
        try:
            return Codec(self.cls, self.namespace)
        except Undeclarable as error:
            raise ImproperlyConfigured(
                f"{where(self.name, self.cls)}: {error}."
            ) from None


@dataclass(frozen=True)
class Upcaster:
    """One upcaster as it was declared; see ``upcaster()``."""

    type: str
    version: int
    function: Callable[..., Any]
    #: The other types that its results may have, each with their version.
    into: Mapping[str, int] = field(default_factory=dict)

    @cached_property
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
        cls = declared.cls
        return (declared.name, cls.__module__, cls.__qualname__)
    function: Any = declared.function
    named = getattr(function, "__qualname__", function)
    if getattr(function, "__name__", "") in ("_", "<lambda>"):  # often all of a module
        named = function.__code__.co_firstlineno
    module = getattr(function, "__module__", None)
    return (declared.type, declared.version, module, named)


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
    a ``TypedDict``. Its objects can be appended in place of dicts, and readers with
    ``typed = True`` get them.

    Raises:
        ImproperlyConfigured: an argument is wrong, or a field has no stored form; names
            it and the class.
    """

    def decorate(cls: C) -> C:
        try:
            declared = EventType(
                check_id(name, "name"),
                cls,
                check_number(version, "version", 1),
                _aliases(aliases),
                tags if callable(tags) else check_names(tags, "tags"),
                _namespace_of(cls),
            )
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{where(name, cls)}: {error}") from None
        # A class that is defined later may complete it: then the first use does this.
        with suppress(NameError):
            declared.__dict__["codec"] = declared.made_codec()
        declarations.add(declared)
        return cls

    return decorate


def _aliases(value: Any) -> tuple[str, ...]:
    if value is None:
        raise TypeError("aliases must be a list of strings, not None.")
    return check_names(value, "aliases") or ()


def where(name: str, cls: Any) -> str:
    """Return a declaration, for messages."""
    module = getattr(cls, "__module__", "?")
    return f"@event({name!r}) of {module}.{getattr(cls, '__qualname__', cls)}"


def _namespace_of(cls: Any) -> Mapping[str, Any]:
    """Return the names around a class that is defined in a function."""
    if "<locals>" not in getattr(cls, "__qualname__", ""):
        return {}
    return dict(sys._getframe(2).f_locals)


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


_NEVER_PLAIN = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)


def _check_function(function: Any) -> None:
    if not callable(function) or any(is_one(function) for is_one in _NEVER_PLAIN):
        raise TypeError("must be a plain function that returns its result.")
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise TypeError("must be written in Python, so that it can be read.") from None
    for count in (1, 2):
        with suppress(TypeError):
            signature.bind(*[{}] * count)
            return
    raise TypeError(f"must take (payload) or (payload, event), not {signature}.")


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
