"""
The validator with which MongoDB itself refuses documents that are not events.

Only ``manage.py ensure_event_store --validator`` installs it. It accepts everything
that the store writes, and does not look into ``payload`` and ``metadata``. It does not
stop others from changing an event: only a role without that right does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymongo.errors import ExecutionTimeout

from ..documents.boundaries.tags import MAX_NAME_LENGTH, MAX_TAGS
from ..documents.bson_types import Document
from ..documents.collections import EVENTS
from ..documents.event_document import FIELDS, MAX_ID_LENGTH
from ..documents.storable import COPY
from .connection import Store
from .deadline import explained, in_time

# The title marks a validator of ours, of any version of the store.
TITLE = "An event of ossy_event_store"
MISFIT_IDS = 5  # ids of misfits to return


def _text(longest: int = MAX_ID_LENGTH) -> Document:
    return {
        "minLength": 1,
        "maxLength": longest,  # code points, as Python counts
        # No NUL. A pattern never matches a string that is not UTF-8.
        "pattern": r"^[^\x00]*$",
    }


def _some(item: Document, **more: Any) -> Document:
    return {"bsonType": "array", "minItems": 1, "items": item, **more}


_NAME = {"bsonType": "string", **_text()}
_NUMBER = {"bsonType": ["int", "long"], "minimum": 1}
_PLACE = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["t", "n"],
    "properties": {
        # A tag, or ``type:`` or ``stream:`` and a name.
        "t": {"bsonType": "string", **_text(MAX_NAME_LENGTH)},
        "n": _NUMBER,
    },
}
SCHEMA: Document = {
    "title": TITLE,
    "bsonType": "object",
    "additionalProperties": False,
    # Events that an import copied from the Node package have no metadata.
    "required": [name for name in FIELDS if name != "metadata"],
    "properties": {
        # Imported events may have longer ids than new ones.
        "_id": {"bsonType": ["objectId", "string"], **_text(COPY.id_length)},
        "aggregateId": _NAME,
        "aggregateType": _NAME,
        "aggregateVersion": _NUMBER,
        "type": _NAME,
        "payload": {"bsonType": "object"},
        # The Node package writes a number, so this refuses its events: it does not
        # keep versions unique, and must not write to the same collection.
        "created": {"bsonType": "date"},
        "createdBy": {"bsonType": ["string", "null"], **_text()},
        "metadata": {"bsonType": "object"},
        # No empty lists: two of them collide in the unique index.
        "tags": _some(_NAME, maxItems=MAX_TAGS, uniqueItems=True),
        "places": _some(_PLACE),
        "tick": _NUMBER,
        # Reserved for later versions, whose events this validator must not refuse.
        "typeVersion": _NUMBER,
        "subjects": {"bsonType": "array", "minItems": 1},
    },
}
VALIDATOR: Document = {"$jsonSchema": SCHEMA}
_OPTIONS: Document = {
    "validator": VALIDATOR,
    "validationLevel": "strict",
    "validationAction": "error",
}


class Standing(enum.Enum):
    """Which validator ``eventstore`` has."""

    ABSENT = "none"
    CURRENT = "that of this version"
    OTHER_VERSION = "that of another version of the store, or a relaxed one"
    FOREIGN = "one that the store did not install"


async def standing(store: Store) -> Standing:
    """
    Return which validator ``eventstore`` has.

    Raises:
        OperationFailure: code 13, without the right ``listCollections``.
    """
    with explained():
        answer = await store.events.database_command(
            "listCollections", filter={"name": EVENTS}
        )
    for collection in answer["cursor"]["firstBatch"]:
        return _standing_of(collection.get("options", {}))
    return Standing.ABSENT


def _standing_of(options: Mapping[str, Any]) -> Standing:
    validator = options.get("validator")
    if not validator:
        return Standing.ABSENT
    if validator.get("$jsonSchema", {}).get("title") != TITLE:
        return Standing.FOREIGN
    ours = all(options.get(name) == value for name, value in _OPTIONS.items())
    return Standing.CURRENT if ours else Standing.OTHER_VERSION


async def install(store: Store) -> None:
    """
    Install the validator, in place of any other; ``eventstore`` must exist.

    Raises:
        OperationFailure: code 13, without the right ``collMod``.
    """
    await _modify(store, _OPTIONS)


async def remove(store: Store) -> None:
    """Remove any validator; see ``install()``."""
    await _modify(store, {**_OPTIONS, "validator": {}})


async def _modify(store: Store, options: Document) -> None:
    with explained():
        await store.events.database_command(
            "collMod", EVENTS, **options, writeConcern={"w": "majority"}
        )


NODE_3 = (
    "eventstore holds events of @ossy/event-store 3.x, which have other fields "
    "(resourceId, event, version). Point the event store at a database of its own, and "
    "copy them: manage.py import_events --from-node-3 URL"
)


async def other_shape(store: Store) -> str | None:
    """Return what to do if the first document is an event of the Node package 3.x."""
    with in_time():
        first = await store.events.find_one(
            {}, projection={"resourceId": 1, "aggregateId": 1}
        )
    is_other = first and "resourceId" in first and "aggregateId" not in first
    return NODE_3 if is_other else None


@dataclass(frozen=True)
class Misfits:
    """Stored events that the validator would refuse: the first ids, and whether the
    search was complete."""

    ids: list[Any]
    complete: bool


async def misfits(store: Store, seconds: float) -> Misfits:
    """
    Search the stored events for some that the validator would refuse.

    Args:
        store: one face of the store.
        seconds: how long to search; no index helps, and there may be many events.
    """
    ids: list[Any] = []
    found = store.events.batches(
        {"$nor": [VALIDATOR]},
        1,  # so that the first ids are known when the time is up
        projection={"_id": 1},
        limit=MISFIT_IDS,
        max_time_ms=round(seconds * 1000),
        unbounded=True,
    )
    try:
        async for events in found:
            ids += [event["_id"] for event in events]
    except ExecutionTimeout:
        return Misfits(ids, complete=False)
    return Misfits(ids, complete=True)
