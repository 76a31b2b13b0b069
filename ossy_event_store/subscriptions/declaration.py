"""
Declare a subscription: its handler, the events it wants, what to do when it fails.

Projects declare them in a module ``subscriptions`` of an installed app; ``manage.py
run_subscriptions`` runs them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import autodiscover_modules

from ..documents.arguments import check_all_of, check_flag, check_names, check_number
from ..documents.event_document import check_id
from ..positions.reader import wanted_by
from ..streams.reducers import name_of

MODULE = "subscriptions"
BUILD_KIND = "projection build"  # a generation that is built beside the one in use
BUILD_SIGN = "@"  # between the name of a projection and the number of a build

Start = Literal["beginning", "now"] | int
OnError = Literal["park", "stop"]
H = TypeVar("H", bound=Callable[..., Any])

_registered: dict[str, Subscription] = {}


@dataclass(frozen=True)
class Subscription:
    """One subscription as it was declared; see ``subscription()``."""

    name: str
    #: The function, or the class with a method ``handle``.
    handler: Any
    types: tuple[str, ...] | None = None
    aggregate_types: tuple[str, ...] | None = None
    #: All of these.
    tags: tuple[str, ...] | None = None
    start: Start = "beginning"
    retries: int = 5
    #: Seconds before the first retry, and the longest pause: each pause is twice as
    #: long as the one before.
    backoff: tuple[float, float] = (0.1, 30.0)
    on_error: OnError = "park"
    concurrency: int = 1
    batch: int = 100
    session: bool = False
    using: str | None = None
    #: Whether it gets objects in place of dicts.
    typed: bool = False
    kind: str = field(default="subscription", repr=False)
    #: The class that delivers its events, if that is not chosen by the options.
    delivery: Any = field(default=None, repr=False)
    #: Whether a process that runs it creates its document; else that has to exist.
    creates_document: bool = field(default=True, repr=False)
    #: Returns more fields that its document is created with.
    document_fields: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            for name in ("types", "aggregate_types"):
                names = check_names(getattr(self, name), name)
                object.__setattr__(self, name, names)
            object.__setattr__(self, "tags", check_all_of(self.tags, "tags"))
        except (TypeError, ValueError) as error:
            where = f"Subscription {self.name!r}"
            raise ImproperlyConfigured(f"{where}: {error}") from None

    @property
    def is_async(self) -> bool:
        """Whether the handler is awaited."""
        handler = self.handler
        if isinstance(handler, type):
            handler = getattr(handler, "handle", None)
        return inspect.iscoroutinefunction(handler)

    def handle(self) -> Callable[..., Any]:
        """Return what is called with each event; a class is instantiated each time."""
        if isinstance(self.handler, type):
            handle: Callable[..., Any] = self.handler().handle
            return handle
        called: Callable[..., Any] = self.handler
        return called

    @property
    def event_types(self) -> tuple[str, ...] | None:
        """The types of events that it gets, at the versions that the code knows."""
        return self.types

    def query(self) -> dict[str, Any]:
        """
        Return the filter for the entries of the events it wants, by position.

        Raises:
            ImproperlyConfigured: the declarations of event types contradict each other.
        """
        return wanted_by(self.types, self.aggregate_types, self.tags)


def subscription(
    name: str,
    *,
    types: Sequence[str] | None = None,
    aggregate_types: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    start: Start = "beginning",
    retries: int = 5,
    backoff: tuple[float, float] = (0.1, 30.0),
    on_error: OnError = "park",
    concurrency: int = 1,
    batch: int = 100,
    session: bool = False,
    using: str | None = None,
    typed: bool = False,
) -> Callable[[H], H]:
    """
    Subscribe a function, or a class with a method ``handle``, to events.

    It is called with each event, a dict with its ``position``, at the version of its
    type that the code knows: the events of a stream in order, one at a time. It may be
    a coroutine function.

    Args:
        name: the name of the subscription and of its checkpoint.
        types: the event types it wants, as the code names them; None means all.
        aggregate_types: the types of the streams whose events it wants; None means all.
        tags: it wants only events that have all of these tags; None means all.
        start: where a new subscription starts: at the first event, after the last one
            that exists (``"now"``), or after a position that an event has.
        retries: how often an event is tried again after the handler raised.
        backoff: seconds before the first retry, and the longest pause before any.
        on_error: after the last retry, ``"park"`` the stream: its events wait until an
            operator retries or skips, other streams continue; or ``"stop"`` the whole
            subscription.
        concurrency: how many streams are handled at a time.
        batch: the most events in one transaction, with ``session`` or ``using``.
        session: call it with ``(event, session)``; what it writes to the same MongoDB
            through that session is committed together with the checkpoint, so each
            event takes effect exactly once.
        using: an alias in ``DATABASES``: it is called inside
            ``transaction.atomic(using)``, in which the checkpoint, a row of that
            database, moves as well, so each event takes effect exactly once.
        typed: call it with objects of the classes that ``@event`` declares, in place of
            their events; ``stored_event()`` has the rest of the event.

    Without ``session`` and ``using`` each event is delivered at least once: use its
    ``_id`` as idempotency key.

    Raises:
        ImproperlyConfigured: an argument is wrong, or another subscription has the
            same name.
    """
    options: dict[str, Any] = {
        "types": types,
        "aggregate_types": aggregate_types,
        "tags": tags,
        "start": start,
        "retries": retries,
        "backoff": backoff,
        "on_error": on_error,
        "concurrency": concurrency,
        "batch": batch,
        "session": session,
        "using": using,
        "typed": typed,
    }

    def decorate(handler: H) -> H:
        add(Subscription(name, handler, **options))
        return handler

    return decorate


def add(declared: Subscription) -> None:
    """Register a subscription; registering the same one again is not an error."""
    _check(declared)
    other = _registered.get(declared.name)
    # A module that is imported again defines the function again.
    if other is not None and name_of(other.handler) != name_of(declared.handler):
        raise ImproperlyConfigured(
            f"Two subscriptions are called {declared.name!r}: {name_of(other.handler)} "
            f"and {name_of(declared.handler)}. Rename one of them."
        )
    _registered[declared.name] = declared


def registered_subscriptions() -> dict[str, Subscription]:
    """Return the declared subscriptions by name, in order of their names."""
    return dict(sorted(_registered.items()))


def is_declared(name: str, kind: str) -> bool:
    """Whether the code declares a subscription, or the projection of a build."""
    if kind == BUILD_KIND:
        name = name.rpartition(BUILD_SIGN)[0]
    return name in _registered


def discover() -> None:
    """Import the module ``subscriptions`` of every installed app."""
    autodiscover_modules(MODULE)


# --- what may be declared ---------------------------------------------------


def _check(declared: Subscription) -> None:
    where = f"Subscription {declared.name!r}"
    try:
        check_id(declared.name, "name")
        check_flag(declared.session, "session")
        check_flag(declared.typed, "typed")
        if declared.using is not None:
            check_id(declared.using, "using")
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{where}: {error}") from None
    for problem in _problems(declared):
        raise ImproperlyConfigured(f"{where}: {problem}")


def _problems(declared: Subscription) -> Sequence[str]:
    first, longest = _pair(declared.backoff)
    using, many = declared.using, declared.concurrency
    rules: Mapping[str, bool] = {
        "start must be 'beginning', 'now' or a position from 0, not "
        f"{declared.start!r}.": declared.start in ("beginning", "now")
        or _is_number(declared.start, 0),
        f"retries must be a number from 0, not {declared.retries!r}.": _is_number(
            declared.retries, 0
        ),
        "backoff must be two numbers of seconds, the first above 0 and the second "
        f"at least as large, not {declared.backoff!r}.": 0 < first <= longest,
        f"on_error must be 'park' or 'stop', not {declared.on_error!r}.": (
            declared.on_error in ("park", "stop")
        ),
        f"concurrency must be a number from 1, not {many!r}.": _is_number(many, 1),
        f"batch must be a number from 1, not {declared.batch!r}.": _is_number(
            declared.batch, 1
        ),
        "session and using exclude each other: a transaction is in one database.": (
            not (declared.session and using)
        ),
        f"using={using!r} is not an alias in DATABASES.": (
            using is None or using in connections.settings
        ),
        "with session or using, one checkpoint counts for all streams, so concurrency "
        "must be 1. Raise batch to make it faster.": many == 1
        or not (declared.session or using),
    }
    found = [text for text, holds in rules.items() if not holds]
    return found or _problems_of_handler(declared)


def _problems_of_handler(declared: Subscription) -> Sequence[str]:
    handler = declared.handler
    if declared.delivery is not None:
        return []
    if isinstance(handler, type):
        handler = getattr(handler, "handle", None)
        if not callable(handler):
            name = name_of(declared.handler)
            return [f"the class {name} must have a method handle()."]
        arguments = [None]
    else:
        arguments = []
    takes = "(event, session)" if declared.session else "(event)"
    try:
        inspect.signature(handler).bind(
            *arguments, *([{}, None] if declared.session else [{}])
        )
    except TypeError:
        return [f"{name_of(declared.handler)} must take {takes}."]
    except ValueError:
        pass  # written in C: its signature is unknown
    if declared.using and declared.is_async:
        return [
            "a coroutine function cannot run inside transaction.atomic(). With using, "
            "write a plain function."
        ]
    return []


def _is_number(value: object, lowest: int) -> bool:
    try:
        check_number(value, "", lowest)
    except (TypeError, ValueError):
        return False
    return True


def _pair(value: Any) -> tuple[float, float]:
    try:
        first, second = value
        return float(first), float(second)
    except (TypeError, ValueError):
        return 0.0, 0.0
