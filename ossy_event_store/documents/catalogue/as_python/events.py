"""Stored events as the Python of a test. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ....exceptions import InvalidEvent
from ...bson_types import Document
from ...event_document import TYPE_VERSION, is_same_value
from ...storable import Unstorable
from ..catalogue import current
from ..objects import document_of
from .values import Expression, Group, Source, laid_out

# What says where an event came from, and not what happened.
CONTEXT = ("created", "createdBy", "metadata")
_STEP = 4


def source_of_event(
    event: Mapping[str, Any], name: str = "event", *, context: bool = False
) -> str:
    """
    Return the Python that makes a stored event again; see ``as_fixture()``.

    Args:
        event: as stored.
        name: the variable.
        context: whether to include ``id``, ``created``, ``createdBy``, ``metadata``.
    """
    source = Source(name)
    front = f"{name} = "
    made = laid_out(_event(source, event, context=context), before=len(front))
    return _module(source, f"{front}{made}\n")


def source_of_test(Root: Any, events: Sequence[Document]) -> str:
    """
    Return a test that gives some stored events to an aggregate class.

    Args:
        Root: the class.
        events: from the first one of a stream, as stored.
    """
    source = Source()
    source.name("given", "ossy_event_store.testing")
    name = source.cls(Root)
    indent = 2 * _STEP
    lines = [
        f"{' ' * indent}{laid_out(_event(source, one), indent, 1)},\n" for one in events
    ]
    body = f"    given(\n{' ' * indent}{name},\n{''.join(lines)}    ).fold_in_parts()\n"
    test = Root.__name__.lower()
    return _module(source, f"\ndef test_{test}():\n{body}")


def _module(source: Source, body: str) -> str:
    imports = "".join(f"{line}\n" for line in source.imports())
    return f"{imports}\n{body}" if imports else body.lstrip("\n")


def _event(
    source: Source, event: Mapping[str, Any], *, context: bool = False
) -> Expression:
    """Return the expression of an event: an object if its class can make it."""
    payload = event.get("payload") or {}
    made = _object(event, payload)
    expression = None if made is None else source.attempt(made)
    more = _more(event, payload, is_object=made is not None, context=context)
    if expression is not None and not more:
        return expression
    fields: dict[str, Any] = {}
    if expression is None:
        expression = source.value(payload)
        fields["type"] = event["type"]
    items = [] if made is None and not payload else [('"payload": ', expression)]
    front = source.dict(fields).items
    return Group("{", (*front, *items, *source.dict(more).items), "}")


def _object(event: Mapping[str, Any], payload: Any) -> Any:
    """Return the object that an event is today, if it would be stored just so."""
    catalogue = current()
    declared = catalogue.types.get(event["type"])
    if declared is None or declared.codec.is_typed_dict:
        return None
    if event.get(TYPE_VERSION, 1) != catalogue.versions.get(declared.name, 1):
        return None
    try:
        found = declared.codec.decode(payload)
        is_same = is_same_value(declared.codec.encode(found), payload)
    except Unstorable:
        return None
    return found if is_same else None


def _more(
    event: Mapping[str, Any], payload: Any, *, is_object: bool, context: bool
) -> dict[str, Any]:
    """Return the fields of an event that its type and payload do not imply."""
    more: dict[str, Any] = {}
    implied: Sequence[str] = ()
    if is_object or not _is_as_stored(event):
        with suppress(InvalidEvent):
            form = document_of({"type": event["type"], "payload": payload})
            implied = form.get("tags") or ()
    else:
        more[TYPE_VERSION] = event.get(TYPE_VERSION, 1)
    tags = event.get("tags")
    tags = tags if isinstance(tags, list) else []
    if tags != list(implied):
        more["tags"] = tags
    if context:
        some = {"id": event.get("_id"), **{key: event.get(key) for key in CONTEXT}}
        more |= {key: one for key, one in some.items() if one not in (None, {})}
    return more


def _is_as_stored(event: Mapping[str, Any]) -> bool:
    """Whether an append of today would not store such an event."""
    catalogue, name = current(), event["type"]
    if name in catalogue.aliases:
        return True
    version = event.get(TYPE_VERSION, 1)
    if version != catalogue.versions.get(name, 1):
        return True
    declared = catalogue.types.get(name)
    if declared is None:
        return False
    try:
        declared.codec.decode(event.get("payload") or {})
    except Unstorable:
        return True
    return False
