"""
Where the store's MongoDB is, by the settings; nothing connects here.

The first of these that is set wins: ``Mongo.connect(url)``;
``OSSY_EVENT_STORE["URL"]``; ``OSSY_EVENT_STORE["DATABASE"]``, an alias in
``DATABASES``; the environment's ``DB_URL``.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote_plus

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from pymongo import MongoClient
from pymongo.common import VALIDATORS
from pymongo.errors import ConfigurationError, InvalidName
from pymongo.uri_parser import parse_uri

from ..conf import SETTING, Settings, get_settings
from ..conf import is_test_run as is_test_run
from .write_errors import short_reason

DEFAULT_NAME = "event_store"
LONGEST_NAME = 63  # bytes
EMBEDDED = "embedded://"
# What the driver raises for a URL or option that it does not accept.
REFUSED = (ConfigurationError, InvalidName, ValueError, TypeError, OSError)
SCHEMES = ("mongodb://", "mongodb+srv://", EMBEDDED)

_PERCENT_ENCODED = (
    ". User name and password must be percent-encoded: "
    "mongodb://user:p%40ss@host:27017/name"
)
_SECRET = re.compile("password|properties|token|username", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where the store is; ``origin`` names the setting that said so."""

    origin: str
    url: str = field(default="", repr=False)
    alias: str | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def borrows(self) -> bool:
        """Whether the client belongs to django-mongodb-backend."""
        return self.alias is not None and engine_of(self.alias) == "mongodb"


def engine_of(alias: str) -> str | None:
    """Return ``"mongodb"`` or ``"djongo"``, or None for any other engine."""
    engine = str(connections.settings[alias].get("ENGINE", ""))
    last = engine.rpartition(".")[2]
    return {"django_mongodb_backend": "mongodb", "djongo": "djongo"}.get(last)


_real_names: dict[str, str] = {}  # of the databases in DATABASES, by alias


def is_migrated_with(source: Source, alias: str) -> bool:
    """
    Whether ``migrate`` and ``check`` with ``--database alias`` care for a store too.

    A store that a URL leads to belongs to ``default``; if a site has none, to any of
    its databases.
    """
    if source.alias is not None:
        return alias == source.alias
    engine = connections.settings[DEFAULT_DB_ALIAS].get("ENGINE")
    return alias == DEFAULT_DB_ALIAS or engine == "django.db.backends.dummy"


_connected: str | None = None  # the URL passed to Mongo.connect()
_adopted: Source | None = None  # from the process that started this one


def resolve() -> Source:
    """
    Return where the store is, without connecting.

    Raises:
        ImproperlyConfigured: no setting says where, or the setting is wrong.
    """
    global _resolved
    if _adopted is not None:
        return _adopted
    settings = get_settings()
    alias = settings.DATABASE if not (_connected or settings.URL) else None
    # The answer depends on these alone. To parse the URL at every call would cost as
    # much as a query to a server on the same machine.
    key = (
        _connected,
        _connected or settings.URL or os.environ.get("DB_URL"),
        settings.NAME or os.environ.get("DB_NAME"),
        _worker() if is_test_run() else None,
        alias
        and (connections.settings.get(alias, {}).get("NAME"), _real_names.get(alias)),
    )
    held = _resolved
    if held is None or held[0] is not settings or held[1] != key:
        held = _resolved = (settings, key, _resolve(settings))
    return held[2]


_resolved: tuple[Settings, tuple[object, ...], Source] | None = None


def _resolve(settings: Settings) -> Source:
    if _connected:
        return _of_url(_connected, "The URL passed to Mongo.connect()")
    if settings.URL:
        return _of_url(settings.URL, f"{SETTING}['URL']")
    if settings.DATABASE:
        return _of_alias(settings.DATABASE)
    if url := os.environ.get("DB_URL"):
        return _of_url(url, "the environment's DB_URL")
    raise ImproperlyConfigured(
        "The event store's MongoDB is not configured. Set "
        f"{SETTING}['URL'], {SETTING}['DATABASE'] (an alias in DATABASES) or the "
        "environment variable DB_URL, or call Mongo.connect(url)."
    )


def _of_url(url: str, origin: str) -> Source:
    url = url.strip()  # a secret that was made with echo ends with a line break
    if any(character < " " or character == "\x7f" for character in url):
        raise ImproperlyConfigured(
            f"{origin} contains a line break or another control character. Write it in "
            "one line."
        )
    if not url.startswith(SCHEMES):
        raise ImproperlyConfigured(
            f"{origin} must begin with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}."
        )
    settings = get_settings()
    name = None if url.startswith(EMBEDDED) else _name_in(url, origin)
    where = origin if name else f"{SETTING}['NAME'] or DB_NAME"
    name = name or settings.NAME or os.environ.get("DB_NAME") or ""
    name = name.strip() or DEFAULT_NAME
    _check_name(name, where)
    return Source(
        origin,
        url=url,
        name=_test_name(name),
        options=settings.OPTIONS,
    )


def _name_in(url: str, origin: str) -> str | None:
    """Check a URL, and return the name of the database in it."""
    is_srv = not url.startswith("mongodb://")
    start, _, query = url.partition("?")
    try:
        if "@" in start.partition("://")[2].partition("/")[2]:
            raise ValueError  # a password with a slash, parsed as a path
        if "@" in query and "@" not in start:
            raise ValueError  # a password with a question mark, parsed as options
        name = _name_in_srv(url) if is_srv else parse_uri(start)["database"]
    except REFUSED as error:
        # With a password in the URL, the driver's message may contain a part of it.
        raise ImproperlyConfigured(
            f"{origin} is not a valid MongoDB URL"
            + (_PERCENT_ENCODED if "@" in url else _unless_it_quotes(url, error))
        ) from None
    for option in re.split("[&;]", query) if query else ():
        if not (is_srv and option.lower().startswith("srv")):
            _check_options(f"mongodb://localhost/?{option}", origin, option)
    if not is_srv:
        _check_options(url, origin, None)
    return name


def _unless_it_quotes(url: str, error: Exception) -> str:
    # A URL without @ may hold a password as well: the @ is what was forgotten.
    reason = short_reason(error)
    rest = url.partition("://")[2]
    # The driver quotes a part of it as it is, or decoded.
    words = re.findall(r"\w{3,}", f"{rest} {unquote_plus(rest)}")
    return "" if any(word in reason for word in words) else f": {reason}"


def _check_options(url: str, origin: str, option: str | None) -> None:
    try:
        parse_uri(url)
    except REFUSED as error:
        name = option.partition("=")[0] if option else None
        raise ImproperlyConfigured(f"{origin}: {_complaint(error, name)}.") from None


def _complaint(error: Exception, option: str | None) -> str:
    """Return what is wrong, without what may be a part of a password."""
    if option is None:
        return f"its URL and options do not go together: {_reason(error)}"
    if option.lower() not in VALIDATORS:
        # A password that is not percent-encoded may be taken for an option.
        close = difflib.get_close_matches(option.lower(), VALIDATORS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"PyMongo does not know one of its options{hint}"
    if _SECRET.search(option):
        return f"the option {option} has a value that PyMongo does not accept"
    return f"correct or remove the option {option}: {_reason(error)}"


def _reason(error: Exception) -> str:
    return short_reason(error).rstrip(".")


def check_options(source: Source) -> None:
    """
    Check each option on its own, without connecting.

    Raises:
        ImproperlyConfigured: the driver does not accept one of them.
    """
    for name, value in source.options.items():
        if name.lower().startswith(("auth", "user", "password")):
            continue  # none of these means anything without the others
        given = {"tls": True} if name.lower().startswith("tls") else {}
        try:
            MongoClient(**{**given, name: value, "connect": False}).close()
        except REFUSED as error:
            raise refused(source, error, name) from None


def refused(
    source: Source, error: Exception, option: str | None = None
) -> ImproperlyConfigured:
    """Return the error for a source, or one of its options, that cannot be used."""
    where = f"{source.origin} with {SETTING}['OPTIONS']"
    return ImproperlyConfigured(f"{where}: {_complaint(error, option)}.")


def _name_in_srv(url: str) -> str | None:
    """Check the syntax of an SRV URL, without the DNS look-up for its options."""
    rest = url.removeprefix("mongodb+srv://").partition("?")[0]
    authority, _, name = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if "." not in host.strip(".") or set(host) & set(",:") or set(name) & set("/@"):
        raise ValueError
    if at and ("@" in user or user.count(":") > 1):
        raise ValueError
    return name or None


def _check_name(name: str, origin: str) -> None:
    if re.search(r'[\s."$/\\\0]', name) or len(name.encode()) > LONGEST_NAME:
        raise ImproperlyConfigured(
            f"{origin}: a database name may have at most {LONGEST_NAME} bytes, and "
            'must not contain a space or any of . " $ / \\'
        )


def _of_alias(alias: str) -> Source:
    origin = f"{SETTING}['DATABASE'] = {alias!r}"
    if alias not in connections.settings:
        known = ", ".join(sorted(connections.settings))
        raise ImproperlyConfigured(
            f"{origin}: DATABASES has no such alias, only {known}."
        )
    engine = engine_of(alias)
    if engine is None:
        raise ImproperlyConfigured(
            f"{origin}: its ENGINE must be django_mongodb_backend or djongo."
        )
    if engine == "mongodb":
        _check_test_name(alias, origin)
        return Source(origin, alias=alias)
    # djongo closes its client, which all threads share, at the end of a request. So it
    # is neither imported nor borrowed: we build our own client from its settings.
    client = dict(connections.settings[alias].get("CLIENT") or {})
    url = str(client.pop("host", "mongodb://localhost:27017")).strip()
    if url.startswith("mongodb"):
        _name_in(url, origin)
    return Source(
        origin,
        url=url,
        alias=alias,
        # Whether Django has renamed the alias for the tests or not: the same name.
        name=_test_name(
            _real_names.get(alias)
            or str(connections.settings[alias]["NAME"] or "djongo_test")
        ),
        options={**client, **get_settings().OPTIONS},
    )


def _test_name(name: str) -> str:
    """
    Return the name of the database, in a test run that of a test database.

    Django renames the databases in ``DATABASES`` for a test run, but does not know
    the store's URL: without this, tests would append to the real store. That may be
    called test_shop, so the prefix is always added.
    """
    if not is_test_run():
        return name
    worker = _worker()
    suffix = f"_{worker}" if worker else ""
    whole = f"test_{name}{suffix}".encode()
    if len(whole) > LONGEST_NAME:
        suffix = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}{suffix}"
        whole = whole[: LONGEST_NAME - len(suffix)] + suffix.encode()
    return whole.decode(errors="ignore")  # half a character at the cut


def _worker() -> str:
    """Return which of several processes of a test run this is; "" if it is alone."""
    runner = sys.modules.get("django.test.runner")  # manage.py test --parallel
    number: int = getattr(runner, "_worker_id", 0)
    return os.environ.get("PYTEST_XDIST_WORKER") or (str(number) if number else "")


def remember_real_names() -> None:
    """Note the names of the databases before Django renames them for a test run."""
    for alias, database in django_settings.DATABASES.items():
        # A test that overrides INSTALLED_APPS lets Django call ``ready()`` once more.
        _real_names.setdefault(alias, str(database.get("NAME") or ""))


def _check_test_name(alias: str, origin: str) -> None:
    """Refuse a test the real database, which Django has not renamed for it."""
    database = connections.settings[alias]
    name = str(database.get("NAME") or "")
    of_tests = (database.get("TEST") or {}).get("NAME")
    real = _real_names.get(alias, name)
    if is_test_run() and name in (real, "") and name != of_tests:
        raise ImproperlyConfigured(
            f"{origin}: this test would use the real database {name!r}. Request the "
            "test database: inherit from django.test.TestCase, or mark the test with "
            "pytest.mark.django_db."
        )


def use(url: str | None) -> str | None:
    """
    Use ``url`` in this process, or the settings again if it is None.

    Returns:
        The URL that was used before, None for the settings.
    """
    global _connected
    if url is not None:
        if not isinstance(url, str):
            raise TypeError(f"url must be a string, not {type(url).__name__}.")
        _of_url(url, "The URL passed to Mongo.connect()")
    before, _connected = _connected, url
    return before


def adopt(url: str | None, name: str) -> None:
    """
    Use the store of the process that started this one.

    The settings may lead elsewhere: to another throw-away server, or to the real
    database if the other process runs tests.

    Args:
        url: where the server is; None if ``DATABASES`` says so.
        name: the database.
    """
    global _adopted
    use(url)
    source = resolve()
    if source.borrows:
        connections.settings[str(source.alias)]["NAME"] = name
    _adopted = replace(source, name=name)
