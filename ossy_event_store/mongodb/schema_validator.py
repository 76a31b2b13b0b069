"""
The validator: MongoDB itself refuses what is no event, whoever writes it.

Nothing installs it but ``manage.py ensure_event_store --validator``. It lets pass all
that the store writes. What is inside of ``payload`` and ``metadata`` is open to it, and
it does not keep an event from being changed: a role without that right does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymongo.errors import ExecutionTimeout

from ..documents.bson_types import Document
from ..documents.collections import EVENTS
from ..documents.event_document import FIELDS, MAX_ID_LENGTH
from ..documents.storable import COPY
from .connection import Store
from .deadline import in_time

# By its title a validator of ours is known, whichever version of the store made it.
TITLE = "An event of ossy_event_store"
SHOWN = 5  # ids of misfits


def _text(longest: int = MAX_ID_LENGTH) -> Document:
    return {
        "minLength": 1,
        "maxLength": longest,  # code points, as Python counts
        # No NUL; and a pattern never matches what is not UTF-8.
        "pattern": r"^[^\x00]*$",
    }


_NAME = {"bsonType": "string", **_text()}
SCHEMA: Document = {
    "title": TITLE,
    "bsonType": "object",
    "additionalProperties": False,
    # Events that an import copied from the Node package have no metadata.
    "required": [name for name in FIELDS if name != "metadata"],
    "properties": {
        # An import brings longer ids than a new event may have.
        "_id": {"bsonType": ["objectId", "string"], **_text(COPY.id_length)},
        "aggregateId": _NAME,
        "aggregateType": _NAME,
        "aggregateVersion": {"bsonType": ["int", "long"], "minimum": 1},
        "type": _NAME,
        "payload": {"bsonType": "object"},
        # The Node package writes a number here, and so is kept out: it knows no
        # unique version, and must not write beside the store.
        "created": {"bsonType": "date"},
        "createdBy": {"bsonType": ["string", "null"], **_text()},
        "metadata": {"bsonType": "object"},
    },
}
VALIDATOR: Document = {"$jsonSchema": SCHEMA}
_OPTIONS: Document = {
    "validator": VALIDATOR,
    "validationLevel": "strict",
    "validationAction": "error",
}


class Standing(enum.Enum):
    """What validator ``eventstore`` has."""

    ABSENT = "none"
    CURRENT = "the one of this version"
    OTHER_VERSION = "one of another version of the store, or a relaxed one"
    FOREIGN = "one that is not of the store"


async def standing(store: Store) -> Standing:
    """
    Return what validator ``eventstore`` has.

    Raises:
        OperationFailure: code 13, without the right ``listCollections``.
    """
    with in_time():
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
    Install the validator, in place of any other; ``eventstore`` must be there.

    Raises:
        OperationFailure: code 13, without the right ``collMod``.
    """
    await _modify(store, _OPTIONS)


async def remove(store: Store) -> None:
    """Take off whatever validator is there; see ``install()``."""
    await _modify(store, {**_OPTIONS, "validator": {}})


async def _modify(store: Store, options: Document) -> None:
    with in_time():
        await store.events.database_command(
            "collMod", EVENTS, **options, writeConcern={"w": "majority"}
        )


@dataclass(frozen=True)
class Misfits:
    """Events that the validator would refuse: the first ids, and if all were seen."""

    ids: list[Any]
    complete: bool


async def misfits(store: Store, seconds: float) -> Misfits:
    """
    Look among the events that are there for such as the validator would refuse.

    Args:
        store: one face of the store.
        seconds: how long to look; there may be many events, and no index helps.
    """
    ids: list[Any] = []
    found = store.events.batches(
        {"$nor": [VALIDATOR]},
        1,  # so that the first ones are known when the time is up
        projection={"_id": 1},
        limit=SHOWN,
        max_time_ms=round(seconds * 1000),
        unbounded=True,
    )
    try:
        async for events in found:
            ids += [event["_id"] for event in events]
    except ExecutionTimeout:
        return Misfits(ids, complete=False)
    return Misfits(ids, complete=True)
