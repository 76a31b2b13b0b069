"""
System checks. Ids and hints are listed in the docs, from ``CATALOGUE``.

The static ones read settings only. Whatever reaches MongoDB is tagged
``database`` and runs where Django runs such checks: ``check --database ALIAS`` and
``migrate``. Nothing that ``migrate`` itself mends is an error, or it could never
run.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from . import indexes, mongo
from .conf import SETTING, get_settings, problems
from .exceptions import EventStoreError
from .faces import drive
from .faults import short_reason
from .mongo import in_time
from .sources import EMBEDDED, Source, engine_of, resolve

CATALOGUE: Mapping[str, str] = {
    "E001": f"``{SETTING}`` has an unknown key or a value of the wrong kind.",
    "E002": "Nothing says where MongoDB is, or what does is wrong.",
    "W001": "More than one setting says where MongoDB is.",
    "W002": "The ``djongo`` alias has a ``HOST``, which djongo ignores.",
    "W003": "The server could not be reached or refused to answer.",
    "W004": "An index is missing; ``migrate`` and ``ensure_event_store`` make it.",
    "W005": "The server is standalone: no transactions, and no second copy.",
    "W006": "``embedded://`` is for development and tests (``check --deploy``).",
    "W007": "A remote server is reached without TLS (``check --deploy``).",
}


def register() -> None:
    """Register the checks with Django; called by ``ready()``."""
    checks.register(check_settings)
    checks.register(check_server, checks.Tags.database)
    checks.register(check_deployment, checks.Tags.security, deploy=True)


def _id(number: str) -> str:
    return f"ossy_event_store.{number}"


def _error(number: str, message: str, hint: str | None = None) -> CheckMessage:
    return checks.Error(message, hint=hint, id=_id(number))


def _warning(number: str, message: str, hint: str | None = None) -> CheckMessage:
    return checks.Warning(message, hint=hint, id=_id(number))


# --- static -----------------------------------------------------------------


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check ``OSSY_EVENT_STORE`` and where it says MongoDB is; no I/O."""
    found = list(problems(getattr(django_settings, SETTING, {})))
    if found:
        return [_error("E001", problem.message, problem.hint) for problem in found]
    try:
        source = resolve()
    except ImproperlyConfigured as error:
        return [_error("E002", str(error))]
    return list(_doubts(source))


def _doubts(source: Source) -> Iterator[CheckMessage]:
    settings = get_settings()
    if settings.URL and settings.DATABASE:
        yield _warning(
            "W001",
            f"{SETTING} has both URL and DATABASE; URL is used.",
            "Remove one of them.",
        )
    if source.alias and engine_of(source.alias) == "djongo":
        database = connections.settings[source.alias]
        if database.get("HOST") and not (database.get("CLIENT") or {}).get("host"):
            yield _warning(
                "W002",
                f"DATABASES[{source.alias!r}] has a HOST, which djongo ignores: it "
                "and the event store connect to localhost.",
                "Write 'CLIENT': {'host': …} instead.",
            )


# --- deployment -------------------------------------------------------------


def check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check what a development set-up may have and a deployed one may not."""
    try:
        source = resolve()
    except ImproperlyConfigured:
        return []  # E002 says so
    if source.url.startswith(EMBEDDED):
        return [
            _warning(
                "W006",
                "The event store runs on embedded://, a single server without "
                "authentication that ends with its last user.",
                "Give the URL of a replica set.",
            )
        ]
    remote = [host for host in _hosts_without_tls(source) if not _is_loopback(host)]
    if remote:
        return [
            _warning(
                "W007",
                f"Events travel to {', '.join(remote)} without encryption.",
                "Add tls=true to the URL.",
            )
        ]
    return []


def _hosts_without_tls(source: Source) -> list[str]:
    """Return the hosts that the source names, unless it asks for TLS."""
    url, options = source.url, {k.lower(): v for k, v in source.options.items()}
    if source.alias and source.borrows:
        database = connections.settings[source.alias]
        url = str(database.get("HOST") or "localhost")
        options = {k.lower(): v for k, v in (database.get("OPTIONS") or {}).items()}
    given = options.get("tls", options.get("ssl"))  # beats what the URL says
    if given:
        return []
    if url.startswith("mongodb+srv://"):
        # TLS unless it is switched off; the hosts are only in the DNS.
        off = given is False or re.search(r"[?&](tls|ssl)=false", url, re.IGNORECASE)
        return [url.partition("://")[2].rpartition("@")[2].split("/")[0]] if off else []
    try:
        parsed = parse_uri(url if "://" in url else f"mongodb://{url}")
    except (PyMongoError, ValueError):
        return []
    if given is None and parsed["options"].get("tls"):
        return []
    return [host for host, _ in parsed["nodelist"]]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- the server -------------------------------------------------------------


def check_server(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Ask the server what it is and which indexes it has."""
    try:
        source = resolve()
    except ImproperlyConfigured:
        return []  # E002 says so
    if (source.alias or DEFAULT_DB_ALIAS) not in (databases or ()):
        return []
    try:
        return list(_shortcomings())
    except (EventStoreError, PyMongoError, ImproperlyConfigured) as error:
        return [
            _warning(
                "W003",
                f"The event store's server did not answer: {short_reason(error)}",
                f"It is given by {source.origin}.",
            )
        ]


def _shortcomings() -> Iterator[CheckMessage]:
    store = mongo.blocking()
    with in_time():
        hello = drive(store.client.command("hello"))
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        yield _warning(
            "W005",
            "The event store's server is standalone: several events at once are "
            "refused, and there is no second copy of any event.",
            "Run it as a replica set, if only of one: mongod --replSet NAME.",
        )
    try:
        missing = drive(indexes.missing(store))
    except OperationFailure as error:
        yield _warning("W003", f"The indexes cannot be listed: {short_reason(error)}")
        return
    if sys.argv[1:2] == ["migrate"]:
        return  # it is about to make them
    for index in missing:
        yield _warning(
            "W004",
            f"Index {index.name} on {index.collection} is missing. {index.reason}",
            "Run manage.py ensure_event_store.",
        )
