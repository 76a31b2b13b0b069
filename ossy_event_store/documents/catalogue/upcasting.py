"""Turn a stored event into what the code knows today. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings

from ...conf import is_test_run
from ...exceptions import UnknownEventVersion, UpcasterError
from ..bson_types import Document
from ..masking import mask
from ..storable import copied
from .declaration import Upcaster, name_of_function

Step = tuple[str, int, Any]  # a type, a version and a payload
REASON_CHARACTERS = 500


class Ran(NamedTuple):
    """One call of an upcaster."""

    upcaster: Upcaster
    payload: Any
    result: Any


def is_checked() -> bool:
    """Whether upcasters are checked that thoroughly: it takes longer."""
    return settings.DEBUG or is_test_run()


def upcast(
    event: Document,
    aliases: Mapping[str, str],
    versions: Mapping[str, int],
    upcasters: Mapping[tuple[str, int], Upcaster],
    *,
    checked: bool,
    ran: list[Ran] | None = None,
) -> list[Document]:
    """
    Return the events that a stored event means, at the versions that the code knows.

    Args:
        event: as stored; it is not changed.
        aliases: the name of the type that an alias stands for.
        versions: the current version of each type that has more than one.
        upcasters: by type and version.
        checked: whether upcasters are refused that change what is nested in a payload.
        ran: gets each call of an upcaster.

    Raises:
        UnknownEventVersion: its version is no number from 1, or above what is known.
        UpcasterError: an upcaster failed.
    """
    stored = event["type"]
    name = aliases.get(stored, stored)
    version = event.get("typeVersion", 1)
    current = versions.get(name, 1)
    if not _is_version(version) or version > current:
        raise UnknownEventVersion(event["_id"], stored, version, current)
    payload, version = event["payload"], int(version)
    if type(payload) is dict:
        payload = payload.copy()
    call = _checked_result if checked else _result
    found: list[Document] = []
    work: list[Step] = []
    while True:
        while version < current:
            one = upcasters[name, version]
            result = call(one, payload, event)
            if ran is not None:
                ran.append(Ran(one, payload, result))
            version += 1
            if type(result) is dict:
                payload = result
                continue
            work += reversed(list(_steps(one, event, result)))
            break
        else:
            found.append(_with(event, name, version, payload))
        if not work:
            return found
        name, version, payload = work.pop()
        current = versions.get(name, 1)


def _is_version(value: object) -> bool:
    if type(value) is int:
        return value >= 1
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value >= 1
        and value % 1 == 0
    )


def _with(event: Document, name: str, version: int, payload: Any) -> Document:
    # A copy again: a reader may keep parts of the payload in its state and change
    # them there, which must change no table of an upcaster and no other result.
    found = event.copy()
    found["type"], found["payload"] = name, copied(payload)
    if version > 1:
        found["typeVersion"] = version
    else:
        found.pop("typeVersion", None)
    return found


def _result(one: Upcaster, payload: Any, event: Document) -> Any:
    """Return what an upcaster makes of a payload."""
    try:
        if one.takes_event:
            return one.function(payload, event)
        return one.function(payload)
    except Exception as error:
        raise failed(one, event, _text(error)) from error


def _checked_result(one: Upcaster, payload: Any, event: Document) -> Any:
    """
    Return what an upcaster makes of a payload, if it changes nothing.

    Else a change of the payload does no harm, as it is a copy, but one of what is
    nested in it changes the event.
    """
    given, its_event = copied(payload), copied(event)
    try:
        result = one.function(*((given, its_event) if one.takes_event else (given,)))
    except Exception as error:
        raise failed(one, event, _text(error)) from error
    if given != payload or its_event != event:
        hint = "Return a new dict, as {**payload, 'field': value}."
        raise failed(one, event, f"it changed what it got. {hint}")
    return result


def _text(error: Exception) -> str:
    try:
        return mask(f"{type(error).__name__}: {error}")[:REASON_CHARACTERS]
    except Exception:
        return type(error).__name__  # even printing it fails


def _steps(one: Upcaster, event: Document, result: Any) -> Iterator[Step]:
    """Yield the steps that follow from what an upcaster returned."""
    items: Sequence[Any] = result if isinstance(result, list) else (result,)
    for item in items:
        name, version, payload = one.type, one.version + 1, item
        if isinstance(item, tuple) and len(item) == 2:
            name, payload = item
            if not isinstance(name, str) or name not in one.into:
                raise failed(
                    one,
                    event,
                    f"it returned an event of type {name!r}, which it does not "
                    "declare. Add that type to its into.",
                )
            version = one.into[name]
        if not isinstance(payload, dict):
            hint = " Has it a return?" if payload is None else ""
            raise failed(
                one,
                event,
                f"it returned {type(payload).__name__}, expected a dict or a list of "
                f"dicts.{hint}",
            )
        yield name, version, payload


def failed(one: Upcaster, event: Document, reason: str) -> UpcasterError:
    """Return the error of an upcaster at a stored event."""
    name = name_of_function(one.function)
    return UpcasterError(event["_id"], one.type, one.version, name, reason)
