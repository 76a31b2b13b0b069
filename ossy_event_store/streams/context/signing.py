"""
Fill in the users of requests, before the first attempt to append.
"""

from __future__ import annotations

from ...documents.context.requests import AskedRequest
from ...mongodb.connection import Store
from ..new_events import NewEvents


async def sign(store: Store, documents: NewEvents) -> None:
    """
    Set ``createdBy`` of the events whose request knows it.

    The user may have to be read from the database, so the awaitable face awaits it.
    Documents are signed once, so an append that is repeated stores the same.

    Args:
        store: one face of the store.
        documents: the new events.

    Raises:
        InvalidEvent: the user's name is too long.
        SynchronousOnlyOperation: the blocking face was called in a coroutine.
    """
    if not documents.unsigned:
        return
    names: dict[AskedRequest, str | None] = {}
    for document, request in documents.unsigned:
        if request not in names:
            names[request] = await store.client.either(request.who, request.awho)
        document["createdBy"] = names[request]
    documents.unsigned = []
