"""The fields of an event that a list reads: payloads only if they are short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bson

from ..documents.bson_types import Document
from ..documents.event_document import version_number
from ..mongodb.connection import Store

SHORT_PAYLOAD_BYTES = 4096  # a list shows no larger payload

LISTED_FIELDS = {
    "aggregateId": 1,
    "aggregateType": 1,
    "aggregateVersion": 1,
    "type": 1,
    "created": 1,
    "createdBy": 1,
    "tags": 1,
}

# No version is larger, and each of these is a number that Python can compare.
VERSIONS: Document = {"$gte": 1, "$lte": 2**53}

_IS_OBJECT = {"$eq": [{"$type": "$payload"}, "object"]}
_IS_SHORT = {"$lte": [{"$bsonSize": "$payload"}, SHORT_PAYLOAD_BYTES]}
SHORT_PAYLOAD: Document = {
    "bytes": {"$cond": [_IS_OBJECT, {"$bsonSize": "$payload"}, None]},
    "payload": {
        "$cond": [{"$and": [_IS_OBJECT, _IS_SHORT]}, "$payload", "$$REMOVE"],
    },
}


def is_in_stream(document: Document) -> bool:
    """Whether a document has a place in a stream: its page shows it."""
    version = version_number(document.get("aggregateVersion"))
    return type(document.get("aggregateId")) is str and version is not None


def value_at(event: Document, path: str) -> Any:
    """Return the value under a dotted path, or None."""
    value: Any = event
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def tags_of(event: Document) -> list[str]:
    """Return the tags of an event; another program may store anything there."""
    tags = event.get("tags")
    return [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else []


def text_in_metadata(event: Document, key: str) -> str | None:
    """Return the string under a key of an event's metadata, or None."""
    value = value_at(event, f"metadata.{key}")
    return value if isinstance(value, str) and value else None


async def collect(store: Store, pipeline: Sequence[Document]) -> list[Document]:
    """Return all results of an aggregation over the events."""
    found: list[Document] = []
    async for batch in store.events.aggregate(pipeline, 1000):
        found += batch
    return found


async def add_payloads(store: Store, events: Sequence[Document]) -> None:
    """Add to each event the size of its payload in bytes, and a short payload."""
    ids = [event["_id"] for event in events]
    payloads = {
        _bytes_of(found["_id"]): found
        for found in await collect(
            store, [{"$match": {"_id": {"$in": ids}}}, {"$project": SHORT_PAYLOAD}]
        )
    }
    for event in events:
        found = payloads.get(_bytes_of(event["_id"]), {})
        event["bytes"] = found.get("bytes")
        if "payload" in found:
            event["payload"] = found["payload"]


def _bytes_of(event_id: Any) -> bytes:
    """Return a key for an id: another program may use anything, even a document."""
    return bson.encode({"": event_id})
