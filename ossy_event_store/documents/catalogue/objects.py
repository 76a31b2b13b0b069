"""Make objects of stored events, for readers with ``typed = True``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from copy import deepcopy
from typing import Any

from ...exceptions import InvalidEvent, UndecodableEvent
from ..bson_types import Document
from ..event_document import check_event, read_whole_event
from ..storable import NEW, Unstorable, copied, stored_mapping
from .appending import CurrentEvent, as_event, current_form
from .catalogue import current
from .codecs.rules import Undecodable

_Known = dict[int, tuple[Any, Document]]
_active: ContextVar[_Known | None] = ContextVar("stored_events", default=None)


class StoredEvents:
    """
    The stored events of objects, which ``stored_event()`` finds in a ``with`` block.

    By the identity of the objects: they may be dicts, or have slots.
    """

    def __init__(self) -> None:
        # The object as well, so that no other one gets its identity.
        self._known: _Known = {}
        self._tokens: list[Token[_Known | None]] = []

    def add(self, event: Any, document: Document) -> None:
        """Remember the stored event of an object."""
        self._known[id(event)] = event, document

    def has(self, event: Any) -> bool:
        """Whether an object is known."""
        return id(event) in self._known

    def include(self, events: Sequence[Any]) -> None:
        """Remember the stored events of what a reader gets."""
        if isinstance(events, Objects):
            self._known.update(events.stored._known)

    def __enter__(self) -> None:
        self._tokens.append(_active.set(self._known))

    def __exit__(self, *_: object) -> None:
        _active.reset(self._tokens.pop())


class Objects(list[Any]):
    """The events that a typed reader gets: objects, and dicts of types without one."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = StoredEvents()

    def with_own_dicts(self) -> list[Any]:
        """Return a list with copies of the dicts; the objects belong to the reader."""
        return [one if self.stored.has(one) else copied(one) for one in self]


def stored_events(events: Sequence[Any]) -> AbstractContextManager[None]:
    """Let ``stored_event()`` find those of what a reader gets, in a block."""
    return events.stored if isinstance(events, Objects) else nullcontext()


def copy_of(event: Any) -> Any:
    """Return a deep copy of what a reader gets, of the same stored event."""
    copy = deepcopy(event)
    known = _active.get()
    if known is not None and id(event) in known:
        known[id(copy)] = copy, known[id(event)][1]
    return copy


def objects(events: Iterable[Document]) -> Objects:
    """
    Return events as objects of their classes; those of other types stay dicts.

    Args:
        events: at the current versions of their types.

    Raises:
        UndecodableEvent: the class cannot be made of one.
    """
    types = current().types
    found = Objects()
    for event in events:
        declared = types.get(event["type"])
        if declared is None:
            found.append(event)
            continue
        try:
            one = declared.codec.decode(event["payload"])
        except Undecodable as error:
            raise UndecodableEvent(
                event.get("_id"),
                declared.name,
                event.get("typeVersion", 1),
                f"{declared.cls.__module__}.{declared.cls.__qualname__}",
                error.path,
                error.reason,
            ) from error.__cause__
        found.append(one)
        found.stored.add(one, event)
    return found


def stored_event(event: Any) -> Document:
    """
    Return the stored event of an object, in the code that a reader gave it to.

    Args:
        event: an object, or a dict, that a reducer, handler or projection with ``typed
            = True`` got.

    Returns:
        A copy of the document, with ``_id``, ``aggregateId``, ``aggregateVersion``,
        ``created``, ``createdBy``, ``metadata`` and, in handlers and projections,
        ``position``. Its payload is at the current version of its type.

    Raises:
        LookupError: the object is another one, or that code has returned.
    """
    known = (_active.get() or {}).get(id(event))
    if known is not None:
        return dict(copied(known[1]))
    if isinstance(event, Mapping) and "_id" in event and "aggregateId" in event:
        return dict(copied(dict(event)))  # of a type without a class
    raise LookupError(
        f"No stored event is known for this {type(event).__name__}. stored_event() "
        "takes the object that a reducer, handler or projection with typed = True got, "
        "and only while that runs. Keep what you need of the document."
    )


def events_from(document: Mapping[str, Any]) -> list[Any]:
    """
    Return what a stored event means today: objects of the classes of its type.

    Upcasters may make several events of one, or none. Events of types without a class
    are dicts.

    Args:
        document: as ``find_events()``, ``collection`` or ``read()`` return it.

    Raises:
        UndecodableEvent: a class cannot be made of its payload.
        UnknownEventVersion: the code does not know the version of its type.
        UpcasterError: an upcaster failed.
        TypeError: it is not a stored event.
    """
    given: Any = document
    if not isinstance(given, Mapping) or "type" not in given:
        raise TypeError(
            "document must be an event as it is stored, a dict with type and payload, "
            f"not {type(given).__name__}."
        )
    stored = read_whole_event({"_id": None, **document})
    return list(objects(current().upcasted([stored])))


def event_from(document: Mapping[str, Any]) -> Any:
    """
    Return what a stored event means today, an object of its class; see ``events_from``.

    Raises:
        ValueError: upcasters make several events of it, or none.
    """
    found = events_from(document)
    if len(found) != 1:
        raise ValueError(
            f"Event {document.get('_id')!r} of type {document['type']!r} means "
            f"{len(found)} events today. Use events_from(), which returns a list."
        )
    return found[0]


def document_of(event: Any) -> Document:
    """
    Return the fields of the stored event that an object decides.

    Args:
        event: what can be appended: an object of a class with ``@event``, or a dict of
            an event, such as ``{"type": "BookLent", "payload": a TypedDict}``.

    Returns:
        ``type``, ``payload`` and, if it has them, ``tags`` and ``typeVersion``; and
        what else a dict says. ``event_from()`` makes the object again.

    Raises:
        InvalidEvent: the store would refuse it, with path and reason.
    """
    checked = check_event(as_event(event), ("aggregateId", "aggregateType"))
    found = current_form(checked)
    try:
        payload = stored_mapping(found.get("payload") or {}, NEW, depth=1)
    except Unstorable as error:
        raise InvalidEvent(error.inside("payload").path, error.reason) from None
    document = {**found, "payload": payload}
    if isinstance(found, CurrentEvent) and found.check is not None:
        found.check(document)
    return document
