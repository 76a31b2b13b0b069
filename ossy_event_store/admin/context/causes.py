"""The causes of the events on a page, looked up together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId

from ...documents.bson_types import Document
from ...documents.event_document import read_event
from ...mongodb.connection import Store
from ...mongodb.deadline import in_time
from ...streams.context.tree import cause_of, id_of
from ..event_fields import LISTED_FIELDS

LONGEST_ID = 280  # characters of an event's id; a longer one is no event's


async def causes_of(
    store: Store, events: Sequence[Mapping[str, Any]]
) -> dict[str, Document]:
    """Return the events that some events name as their causes, by id as text."""
    names = {cause for event in events if (cause := cause_of(event)) is not None}
    names = {name for name in names if len(name) <= LONGEST_ID}
    if not names:
        return {}
    ids: list[Any] = [*names, *(ObjectId(n) for n in names if ObjectId.is_valid(n))]
    with in_time():
        found = await store.events.find(
            {"_id": {"$in": ids}}, projection=LISTED_FIELDS, limit=len(ids)
        )
    return {id_of(event): read_event(event) for event in found}
