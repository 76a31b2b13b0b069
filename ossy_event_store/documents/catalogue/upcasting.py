"""Turn a stored event into what the code knows today. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings

from ...conf import is_test_run
from ...exceptions import UnknownEventVersion, UpcasterError
from ..bson_types import Document
from ..storable import copied
from .declaration import Upcaster, name_of_function

Step = tuple[str, int, Any]  # a type, a version and a payload


def upcast(
    event: Document,
    aliases: Mapping[str, str],
    versions: Mapping[str, int],
    upcasters: Mapping[tuple[str, int], Upcaster],
) -> list[Document]:
    """
    Return the events that a stored event means, at the versions that the code knows.

    Raises:
        UnknownEventVersion: its version is no number from 1, or above what is known.
        UpcasterError: an upcaster failed.
    """
    stored = event["type"]
    name = aliases.get(stored, stored)
    version = event.get("typeVersion", 1)
    if not _is_version(version) or version > versions.get(name, 1):
        raise UnknownEventVersion(event["_id"], stored, version, versions.get(name, 1))
    found: list[Document] = []
    # Its copy is the chain's own, so nothing that upcasters do reaches the event.
    work: list[Step] = [(name, int(version), copied(event["payload"]))]
    while work:
        name, version, payload = work.pop()
        if version == versions.get(name, 1):
            found.append(_with(event, name, version, payload))
            continue
        results = list(_results(upcasters[name, version], event, payload))
        work += reversed(results)
    return found


def _is_version(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value >= 1
        and value % 1 == 0
    )


def _with(event: Document, name: str, version: int, payload: Any) -> Document:
    found = {**event, "type": name, "payload": payload}
    if version > 1:
        found["typeVersion"] = version
    else:
        found.pop("typeVersion", None)
    return found


def _results(one: Upcaster, event: Document, payload: Any) -> Iterator[Step]:
    """Yield what an upcaster makes of a payload."""
    before = copied(payload) if settings.DEBUG or is_test_run() else None
    try:
        result = (
            one.function(payload, event) if one.takes_event else one.function(payload)
        )
    except Exception as error:
        raise _failed(one, event, f"{type(error).__name__}: {error}") from error
    if before is not None and before != payload:
        raise _failed(
            one,
            event,
            "it changed the payload that it got. Return a new dict, as "
            "{**payload, 'field': value}.",
        )
    items: Iterable[Any] = result if isinstance(result, list) else (result,)
    for item in items:
        if isinstance(item, tuple) and len(item) == 2 and item[0] in one.into:
            step = (item[0], one.into[item[0]], item[1])
        else:
            step = (one.type, one.version + 1, item)
        if not isinstance(step[2], dict):
            raise _failed(one, event, _no_payload(one, item))
        yield step


def _no_payload(one: Upcaster, item: Any) -> str:
    if isinstance(item, tuple) and len(item) == 2:
        return (
            f"it returned an event of type {item[0]!r}, which it does not declare. Add "
            "that type to its into."
        )
    hint = " Has it a return?" if item is None else ""
    return (
        f"it returned {type(item).__name__}, expected a dict or a list of dicts.{hint}"
    )


def _failed(one: Upcaster, event: Document, reason: str) -> UpcasterError:
    name = name_of_function(one.function)
    return UpcasterError(event["_id"], one.type, one.version, name, reason)
