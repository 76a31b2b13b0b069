"""Turn what callers append into events of the current versions. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

from ...exceptions import EventStoreError, InvalidEvent
from ..bson_types import Document
from ..event_document import FIELDS, TYPE_VERSION, differences
from ..storable import NEW, Unstorable, stored_mapping
from .catalogue import Catalogue, current
from .codecs.rules import Undecodable
from .declaration import EventType

#: Refuses the document of an event that would not come back equal.
Check = Callable[[Document], None]

_PLAIN = (dict, type(None))


class CurrentEvent(dict[str, Any]):
    """An event in its stored form, as the catalogue completed it."""

    #: Refuses its document, once it is built.
    check: Check | None = None
    #: Whether its tags are those of the declaration.
    has_declared_tags = False

    def with_stream(self, missing: Mapping[str, Any]) -> Self:
        """Return it with the fields that name its stream."""
        found = type(self)({**self, **missing})
        found.check, found.has_declared_tags = self.check, self.has_declared_tags
        return found


def as_event(event: Any) -> Any:
    """
    Return what a caller appends as a dict; an object is the payload of one.

    Raises:
        InvalidEvent: the type that the caller gave is not the object's.
    """
    if type(event) is dict and type(event.get("payload")) in _PLAIN:
        return event
    types = current().of_class
    if declared := types.get(type(event)):
        return {"type": declared.name, "payload": event}
    if not isinstance(event, Mapping):
        return event  # check_event() refuses it
    declared = types.get(type(event.get("payload")))
    if declared is None:
        return event
    given = event.get("type")
    if given is not None and given != declared.name:
        raise InvalidEvent(
            "type",
            f"is {given!r}, but the payload is an object of "
            f"{declared.cls.__qualname__}, of type {declared.name!r}; leave it out",
        )
    return {**event, "type": declared.name}


def is_event(value: object) -> bool:
    """Whether a value is one event, rather than several."""
    return isinstance(value, Mapping) or type(value) in current().of_class


def current_form(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Return a checked event in the form in which it is stored.

    The payload is encoded, ``typeVersion`` and the tags of the declaration are set.

    Raises:
        InvalidEvent: the class would not understand it, with path and reason.
    """
    catalogue = current()
    if not catalogue.versions:
        return event
    name = event["type"]
    version = catalogue.versions.get(name)
    if version is None:
        _refuse_alias(catalogue, name)
        return event
    found = CurrentEvent(event)
    if declared := catalogue.types.get(name):
        _encode(declared, found)
    if version > 1:
        found[TYPE_VERSION] = version
    return found


def _refuse_alias(catalogue: Catalogue, name: Any) -> None:
    if name in catalogue.aliases:
        raise InvalidEvent(
            "type",
            f"{name!r} is an earlier name of {catalogue.aliases[name]!r}, for reading "
            "only; append events under the current name",
        )


def _encode(declared: EventType, event: CurrentEvent) -> None:
    codec, payload = declared.codec, event.get("payload")
    try:
        if not codec.is_typed_dict and isinstance(payload, codec.cls):
            sent, stored = payload, codec.encode(payload)
            event.check = _checker(declared, sent)
        else:
            stored = _stored_form(declared, {} if payload is None else payload)
            sent = codec.decode(stored)
    except Unstorable as error:
        raise _refused(declared, error) from None
    except RecursionError:
        raise InvalidEvent("payload", "nested too deeply, or contains itself") from None
    event["payload"] = stored
    if declared.tags is not None and event.get("tags") is None:
        event["tags"] = _tags(declared, sent)
        event.has_declared_tags = True


def _stored_form(declared: EventType, payload: Any) -> dict[str, Any]:
    """Return a payload that is a dict in its stored form."""
    codec = declared.codec
    if not isinstance(payload, Mapping):
        raise InvalidEvent(
            "payload",
            f"must be an object of {declared.cls.__qualname__}, or a dict as it is "
            f"stored, not {type(payload).__name__}",
        )
    if not codec.is_typed_dict:
        return stored_mapping(payload, NEW, depth=1)
    try:
        # With the values that the class declares, such as a date.
        stored = codec.encode(payload)
    except Unstorable as error:
        try:
            stored = stored_mapping(payload, NEW, depth=1)
            codec.decode(stored)
        except Unstorable:
            raise error from None
        return stored
    codec.check(stored, payload)
    return stored


def _checker(declared: EventType, sent: Any) -> Check:
    def check(document: Document) -> None:
        try:
            declared.codec.check(document["payload"], sent)
        except Unstorable as error:
            raise _refused(declared, error) from None

    return check


def _refused(declared: EventType, error: Unstorable) -> InvalidEvent:
    reason = error.reason
    if isinstance(error, Undecodable):
        reason = f"{declared.cls.__qualname__} cannot be made of it: {reason}"
    return InvalidEvent(error.inside("payload").path, reason)


def _tags(declared: EventType, sent: Any) -> Any:
    if not callable(declared.tags):
        return list(declared.tags or ())
    try:
        found = declared.tags(sent)
    except Exception as error:
        raise InvalidEvent(
            "tags",
            f"the tags of @event({declared.name!r}) raised {type(error).__name__}: "
            f"{error}",
        ) from error
    return found if isinstance(found, str) or not _is_sequence(found) else list(found)


def _is_sequence(value: object) -> bool:
    return isinstance(value, (Sequence, set, frozenset))


def changes(
    stored: Document, sent: Document, given: Collection[str] = FIELDS
) -> list[str]:
    """
    Return the fields in which two events of one id differ; see ``differences()``.

    An event that was stored at an earlier version of its type, or under an alias, is
    the same if it means today what was sent.
    """
    found = differences(stored, sent, given)
    if not found:
        return found
    catalogue = current()
    declared = catalogue.types.get(sent["type"])
    if "tags" not in given and declared is not None and declared.tags is not None:
        found = [name for name in found if name != "tags"]  # the declaration gave them
    if not {"type", "payload"}.isdisjoint(found):
        still = differences(as_known_now(stored), sent, given)
        found = [name for name in found if name in still]
    return found


def as_known_now(stored: Document) -> Document:
    """Return a stored event at the current version of its type, if it is one event."""
    try:
        (event,) = current().of(stored)
    except (EventStoreError, ValueError):  # it is several events, or none
        return stored
    return event
