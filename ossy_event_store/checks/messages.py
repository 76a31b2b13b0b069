"""The ids of the system checks, and messages with these ids."""

from __future__ import annotations

from collections.abc import Mapping

from django.core import checks
from django.core.checks import CheckMessage

from ..conf import SETTING

CATALOGUE: Mapping[str, str] = {
    "E001": f"``{SETTING}`` has an unknown key or a value of the wrong type.",
    "E002": "No setting says where MongoDB is, or its URL, alias or options are wrong.",
    "E003": "A subscription writes to an SQL database without a checkpoint table.",
    "E004": "The unique index is missing without which the store writes nothing.",
    "E005": "Another program has a collection with a name of the store.",
    "E006": "``append_on_commit()`` is imported, but its app is not installed.",
    "E007": "An event type has two classes, or two upcasters from one version.",
    "E008": "The alias of an event type is taken, or used in place of the name.",
    "E009": "A version of an event type has no upcasters that lead to the current one.",
    "E010": "Upcasters form a cycle.",
    "E011": "A class of events has a field without a stored form.",
    "W001": "More than one setting says where MongoDB is.",
    "W002": "The ``djongo`` alias has a ``HOST``, which djongo ignores.",
    "W003": "The server could not be reached, or refused to answer.",
    "W004": "An index is missing; ``migrate`` and ``ensure_event_store`` create it.",
    "W005": "The server is standalone: no transactions, and no second copy.",
    "W006": "``embedded://`` is for development and tests (``check --deploy``).",
    "W007": "The connection to a remote server does not use TLS (``check --deploy``).",
    "W008": "This MongoDB version has a known fault, or gets no more fixes.",
    "W009": "The set has an arbiter: with one data member down, no event is stored.",
    "W010": "The connection sets concerns or a read preference that events ignore.",
    "W011": "The connection sets ``retryWrites=false``.",
    "W012": "The validator is not this version's; ``ensure_event_store`` replaces it.",
    "W013": "``directConnection=true`` ties the connection to one member of a set.",
    "W014": "There are subscriptions, but the server is standalone.",
    "W015": "A collection is sharded by a key that breaks a promise.",
    "W016": "The connection sets an option that hinders the event store.",
    "W017": "The database is one of the Node package ``@ossy/event-store`` 3.x.",
    "W018": "``eventstore`` is sharded, so events cannot have tags.",
    "W019": "An SQL database has no table for ``append_on_commit()``.",
    "W020": "A subscription, projection or aggregate names an undeclared event type.",
}


def error(number: str, message: str, hint: str | None = None) -> CheckMessage:
    """Return an error with an id of the catalogue."""
    return checks.Error(message, hint=hint, id=_id(number))


def warning(number: str, message: str, hint: str | None = None) -> CheckMessage:
    """Return a warning with an id of the catalogue."""
    return checks.Warning(message, hint=hint, id=_id(number))


def _id(number: str) -> str:
    return f"ossy_event_store.{number}"
