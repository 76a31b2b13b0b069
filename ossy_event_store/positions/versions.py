"""
Find the version that a stream had at a position.
"""

from __future__ import annotations

from typing import Any

from ..documents.bson_types import Document
from ..exceptions import PositionNotAssigned
from ..mongodb.connection import Store
from ..mongodb.indexes import ENTRY_VERSIONS
from .reader import head_position


async def last_entry(
    store: Store, aggregate_id: str, position: int, session: Any
) -> Document | None:
    """
    Return the entry of a stream's last event up to a position, or None.

    Within a stream, positions rise with the versions. So it looks at the entries of the
    stream from the last one backwards; losses that were accepted are left out.

    Raises:
        PositionNotAssigned: no event has the position yet.
    """
    head = await head_position(store, session)
    if position > head:
        raise PositionNotAssigned(position, head)
    return await store.positions.find_one(
        {
            "aggregateId": {"$eq": aggregate_id},
            "aggregateVersion": {"$gt": 0},
            "_id": {"$lte": position},
            "lost": None,
        },
        projection=["aggregateVersion", "eventId"],
        sort=[("aggregateVersion", -1)],
        # Else the server may walk through the entries of all streams.
        hint=list(ENTRY_VERSIONS.keys),
        session=session,
    )
