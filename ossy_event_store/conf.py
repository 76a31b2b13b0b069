"""
The settings: ``OSSY_EVENT_STORE``, read once into one frozen, typed place.

Nothing is read at import. ``get_settings()`` is cached and follows Django's
``setting_changed``, so that ``override_settings`` works.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

SETTING = "OSSY_EVENT_STORE"


@dataclass(frozen=True)
class Settings:
    """
    The keys of ``OSSY_EVENT_STORE``, with their defaults.

    The metadata of each field is its documentation; the settings page of the
    docs is made from it.
    """

    URL: str | None = field(
        default=None,
        repr=False,
        metadata={
            "doc": "Where MongoDB is: ``mongodb://``, ``mongodb+srv://``, or "
            "``embedded://FOLDER`` for a server of the store's own in development "
            "and tests (``embedded://`` alone: a throw-away folder)."
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
            "doc": "Name of the database, for a ``URL`` without one in its path. "
            "Default: the environment's ``DB_NAME``, else ``event_store``."
        },
    )
    OPTIONS: Mapping[str, Any] = field(
        default_factory=dict,
        repr=False,
        metadata={"doc": "Further keyword arguments for PyMongo's ``MongoClient``."},
    )
    TIMEOUT: float = field(
        default=10.0,
        metadata={
            "doc": "Seconds one operation may take in all, from choosing a server to "
            "the last retry."
        },
    )
    REBUILD_ON_STARTUP: Literal["background", "blocking", False] = field(
        default="background",
        metadata={
            "doc": "Whether a process that starts to serve brings stale snapshots up "
            "to date: in a thread (``'background'``), before the first request if "
            "it can be done at once, else in a thread (``'blocking'``), or not at all "
            "(``False``)."
        },
    )
    MONGOD: str | None = field(
        default=None,
        metadata={
            "doc": "Path of the ``mongod`` binary for ``embedded://``. Default: the "
            "one on ``PATH``, else the one that the extra ``embedded`` installs."
        },
    )


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the setting: ``key`` (may be empty), what, and a hint."""

    key: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0 and math.isfinite(value)


_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
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
}


def problems(value: object) -> Iterator[Problem]:
    """Yield what is wrong with ``value`` as ``OSSY_EVENT_STORE``; never its values."""
    if not isinstance(value, Mapping):
        yield Problem("", f"{SETTING} must be a dict, not {type(value).__name__}.")
        return
    known = [field.name for field in fields(Settings)]
    for key, given in value.items():
        if key not in known:
            close = difflib.get_close_matches(str(key).upper(), known, n=1)
            yield Problem(
                str(key),
                f"{SETTING} has no key {key!r}.",
                f"Did you mean {close[0]!r}?"
                if close
                else f"Known keys: {', '.join(known)}.",
            )
        elif not _EXPECTED[key][1](given):
            yield Problem(
                key,
                f"{SETTING}[{key!r}] must be {_EXPECTED[key][0]}, "
                f"not {type(given).__name__}.",
            )


@functools.cache
def get_settings() -> Settings:
    """
    Return the settings.

    Raises:
        ImproperlyConfigured: a key is unknown or a value of the wrong kind.
    """
    value = getattr(django_settings, SETTING, {})
    for problem in problems(value):
        raise ImproperlyConfigured(str(problem))
    return Settings(**value)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        get_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="ossy_event_store.conf")
