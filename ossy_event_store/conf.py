"""
The settings: ``OSSY_EVENT_STORE`` as a frozen, typed object.

Nothing is read at import. ``get_settings()`` is cached and follows Django's
``setting_changed`` signal, so that ``override_settings`` works.
"""

from __future__ import annotations

import difflib
import functools
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

SETTING = "OSSY_EVENT_STORE"


@dataclass(frozen=True)
class HealthLimits:
    """The keys of ``HEALTH``: the limits beyond which the store is unhealthy."""

    LAG: int | None = field(
        default=None,
        metadata={"doc": "The most events that a subscription may lag behind."},
    )
    LAG_SECONDS: float | None = field(
        default=60.0,
        metadata={
            "doc": "The most seconds that an event may wait for a subscription that "
            "handles its type, by the event's ``created``; or in an outbox."
        },
    )
    PARKED: int | None = field(
        default=0,
        metadata={
            "doc": "The most parked streams that a subscription or outbox may have."
        },
    )
    POSITION_SECONDS: float | None = field(
        default=30.0,
        metadata={
            "doc": "The most seconds that an event may wait for its position, by its "
            "``created``."
        },
    )
    RUNNING: bool | None = field(
        default=True,
        metadata={
            "doc": "Whether each declared subscription must run in some process, and a "
            "process must assign positions."
        },
    )
    TIMEOUT: float = field(
        default=2.0,
        metadata={"doc": "Seconds within which the store must answer; never ``None``."},
    )


@dataclass(frozen=True)
class ContextOptions:
    """The keys of ``CONTEXT``: what is filled in where an event does not say it."""

    USER: str | None = field(
        default="username",
        metadata={
            "doc": "What ``createdBy`` says of the user of a request: ``'username'`` "
            "(what ``get_username()`` returns), ``'pk'``, another attribute of your "
            "users, or ``None`` for nothing."
        },
    )
    TRUST_HEADERS: bool = field(
        default=True,
        metadata={
            "doc": "Whether the headers ``X-Correlation-ID``, ``traceparent`` and "
            "``X-Request-ID`` of a request count. What they hold is bounded and "
            "checked."
        },
    )
    REQUEST_ID: bool = field(
        default=False,
        metadata={"doc": "Whether ``metadata.requestId`` holds ``X-Request-ID``."},
    )
    ADDRESS: bool = field(
        default=False,
        metadata={
            "doc": "Whether ``metadata.ip`` holds the network of ``REMOTE_ADDR``: "
            "``/24``, or ``/48`` for IPv6. It is personal data all the same."
        },
    )


@dataclass(frozen=True)
class Settings:
    """
    The keys of ``OSSY_EVENT_STORE``, with their defaults.

    The metadata of each field is its documentation, from which the settings page of
    the docs is generated.
    """

    URL: str | None = field(
        default=None,
        repr=False,
        metadata={
            "doc": "Where MongoDB is: ``mongodb://``, ``mongodb+srv://``, or "
            "``embedded://FOLDER`` for a server that the store starts in development "
            "and tests (``embedded://`` alone: in a throw-away folder)."
        },
    )
    DATABASE: str | None = field(
        default=None,
        metadata={
            "doc": "An alias in ``DATABASES`` whose engine is "
            "``django_mongodb_backend`` or ``djongo``, used when ``URL`` is not set."
        },
    )
    NAME: str | None = field(
        default=None,
        metadata={
            "doc": "Name of the database, if ``URL`` has none in its path. "
            "Default: the environment's ``DB_NAME``, else ``event_store``."
        },
    )
    OPTIONS: Mapping[str, Any] = field(
        default_factory=dict,
        repr=False,
        metadata={"doc": "More keyword arguments for PyMongo's ``MongoClient``."},
    )
    TIMEOUT: float = field(
        default=10.0,
        metadata={
            "doc": "Seconds that one operation may take in total, from the selection "
            "of a server to the last retry."
        },
    )
    REBUILD_ON_STARTUP: Literal["background", "blocking", False] = field(
        default="background",
        metadata={
            "doc": "Whether a web process rebuilds stale snapshots when it starts to "
            "serve: in a thread (``'background'``), in a thread whose first attempt "
            "requests wait for (``'blocking'``), or not at all (``False``)."
        },
    )
    MONGOD: str | None = field(
        default=None,
        metadata={
            "doc": "Path of the ``mongod`` binary for ``embedded://``. Default: the "
            "one on ``PATH``, else the one that the extra ``embedded`` installs."
        },
    )
    ADMIN_INDEXES: bool = field(
        default=True,
        metadata={
            "doc": "Whether to create the indexes that only the admin's pages of "
            "events, traces and ``event_catalog --stored`` use. Without them these are "
            "slow in a large store, ``trace()`` and ``effects()`` raise "
            "``IndexMissing``, and each append has up to seven indexes fewer to write."
        },
    )
    TYPE_BOUNDARIES: Collection[str] = field(
        default=(),
        metadata={
            "doc": "Event types that the conditions of boundaries may name without a "
            "tag, and ``'*'`` for conditions on all events. All appends of such a type "
            "take turns. Deploy a new entry everywhere before a condition uses it: "
            "see :doc:`/howto/boundaries`."
        },
    )
    CONTEXT: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "doc": "What requests fill in to the events that they append, see "
            ":doc:`/howto/who-did-it`, a dict of the keys below."
        },
    )
    HEALTH: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "doc": "Limits for :doc:`/howto/monitoring`, a dict of the keys below; "
            "``None`` turns a limit off."
        },
    )


@dataclass(frozen=True)
class Problem:
    """One problem of the setting: its key (may be empty), what is wrong, and a hint."""

    key: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0 and math.isfinite(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and all(
        isinstance(name, str) and 1 <= len(name) <= 255 for name in value
    )


_Expected = Mapping[str, tuple[str, Callable[[Any], bool]]]

_EXPECTED: _Expected = {
    "URL": ("a string", lambda v: v is None or isinstance(v, str)),
    "DATABASE": ("a string", lambda v: v is None or isinstance(v, str)),
    "NAME": ("a string", lambda v: v is None or isinstance(v, str)),
    "OPTIONS": ("a dict", lambda v: isinstance(v, Mapping)),
    "TIMEOUT": ("a number of seconds above 0", _is_seconds),
    "REBUILD_ON_STARTUP": (
        "'background', 'blocking' or False",
        lambda v: v is False or v in ("background", "blocking"),
    ),
    "MONGOD": ("a string", lambda v: v is None or isinstance(v, str)),
    "ADMIN_INDEXES": ("True or False", lambda v: isinstance(v, bool)),
    "TYPE_BOUNDARIES": ("a list of event types", _is_names),
    "CONTEXT": ("a dict", lambda v: isinstance(v, Mapping)),
    "HEALTH": ("a dict", lambda v: isinstance(v, Mapping)),
}
_NUMBER = ("a number from 0, or None", lambda v: v is None or _is_number(v))
_SECONDS = ("seconds above 0, or None", lambda v: v is None or _is_seconds(v))
_EXPECTED_OF_HEALTH: _Expected = {
    "LAG": _NUMBER,
    "LAG_SECONDS": _SECONDS,
    "PARKED": _NUMBER,
    "POSITION_SECONDS": _SECONDS,
    "RUNNING": ("True, False or None", lambda v: v is None or isinstance(v, bool)),
    "TIMEOUT": ("a number of seconds above 0", _is_seconds),
}
_FLAG = ("True or False", lambda v: isinstance(v, bool))
_EXPECTED_OF_CONTEXT: _Expected = {
    "USER": (
        "'username', 'pk', another attribute of the user, or None",
        lambda v: v is None or (isinstance(v, str) and v.isidentifier()),
    ),
    "TRUST_HEADERS": _FLAG,
    "REQUEST_ID": _FLAG,
    "ADDRESS": _FLAG,
}


def problems(value: object) -> Iterator[Problem]:
    """Yield the problems of ``value`` as ``OSSY_EVENT_STORE``, without its values."""
    if not isinstance(value, Mapping):
        yield Problem("", f"{SETTING} must be a dict, not {type(value).__name__}.")
        return
    yield from _problems(SETTING, value, _EXPECTED)
    inner = {"CONTEXT": _EXPECTED_OF_CONTEXT, "HEALTH": _EXPECTED_OF_HEALTH}
    for key, expected in inner.items():
        if isinstance(found := value.get(key), Mapping):
            yield from _problems(f"{SETTING}[{key!r}]", found, expected)


def _problems(
    where: str, value: Mapping[Any, Any], expected: _Expected
) -> Iterator[Problem]:
    for key, found in value.items():
        if key not in expected:
            close = difflib.get_close_matches(str(key).upper(), expected, n=1)
            yield Problem(
                str(key),
                f"{where} has no key {key!r}.",
                f"Did you mean {close[0]!r}?"
                if close
                else f"Known keys: {', '.join(expected)}.",
            )
        elif not expected[key][1](found):
            yield Problem(
                key,
                f"{where}[{key!r}] must be {expected[key][0]}, "
                f"not {type(found).__name__}.",
            )


@functools.cache
def get_settings() -> Settings:
    """
    Return the settings.

    Raises:
        ImproperlyConfigured: a key is unknown, or a value has the wrong type.
    """
    value = getattr(django_settings, SETTING, {})
    for problem in problems(value):
        raise ImproperlyConfigured(str(problem))
    return Settings(**value)


@functools.cache
def context_options() -> ContextOptions:
    """Return the keys of ``CONTEXT``; see ``get_settings()``."""
    return ContextOptions(**get_settings().CONTEXT)


def is_test_run() -> bool:
    """Whether Django runs tests in this process."""
    # setup_test_environment() sets it, which Django's runner and pytest-django call.
    # A process that has not imported the module runs no tests.
    test_utils = sys.modules.get("django.test.utils")
    return test_utils is not None and hasattr(test_utils._TestState, "saved_data")


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        get_settings.cache_clear()
        context_options.cache_clear()


setting_changed.connect(_forget, dispatch_uid="ossy_event_store.conf")
