"""
Continue a stream in a new one.
"""

from __future__ import annotations

from ...documents.bson_types import Document
from ...exceptions import TransactionAborted
from ...mongodb.connection import Store
from ..append import append
from ..closing.checks import raise_if_closed
from ..load import A, check_is_stored, extend, note_doubt
from ..new_events import NewEvents
from ..races.ends import stream_head
from .repeating import until_committed
from .unit_of_work import open_unit


async def append_known(store: Store, documents: NewEvents) -> list[Document]:
    """
    Store the documents, all or none, and return them as stored.

    Args:
        store: one face of the store; inside of a transaction, they become part of it.
        documents: of several streams, each in order; their versions follow versions
            that the caller knows to exist.

    Raises:
        ConcurrencyError: other events have some of the versions.
    """
    if store.outside is not None:
        return await append(store, documents)

    async def once() -> list[Document]:
        async with open_unit(store) as unit:
            return await unit.append(documents)

    return await until_committed(
        store, once, is_lost=lambda error: isinstance(error, TransactionAborted)
    )


async def continue_in(store: Store, aggregate: A, documents: NewEvents) -> A:
    """
    Close the stream of an aggregate, and return the one that continues it.

    Args:
        store: one face of the store; the caller bounds the time.
        aggregate: it is unchanged if this fails.
        documents: the event that closes it, and the first ones of the new stream.

    Raises:
        StreamClosed: the stream has ended already.
        ConcurrencyError: another writer has appended, or the new stream exists.
    """
    closing, first = documents[0], documents[1]
    if aggregate.is_closed:
        await raise_if_closed(store, await stream_head(store, closing["aggregateId"]))
    await check_is_stored(store, aggregate, closing["aggregateId"])
    stored = await append_known(store, documents)
    extend(aggregate, stored[:1])
    successor = type(aggregate)(aggregate.Root, first["aggregateId"], stored[1:])
    note_doubt(store, aggregate)
    note_doubt(store, successor)
    return successor
