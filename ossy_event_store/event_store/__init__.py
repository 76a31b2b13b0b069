"""
Raw event I/O: append events, read streams, find events.

Most code uses ``Aggregate``, which is built on this. Every method is blocking and
has an awaitable twin with an ``a`` in front of its name.
"""

from __future__ import annotations

from django.utils.functional import classproperty
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from ..documents.bson_types import Document
from ..mongodb import connection
from .appending import Appending
from .boundaries import Boundaries
from .global_order import GlobalOrder
from .queries import Queries
from .streams import Streams
from .tracing import Tracing
from .transactions import Transactions


class EventStore(
    Appending, Streams, Boundaries, Transactions, Queries, GlobalOrder, Tracing
):
    """The ``eventstore`` collection: all events ever appended, none ever changed."""

    @classproperty
    def collection(cls) -> Collection[Document]:  # noqa: N805
        """The PyMongo collection itself, with majority concerns set."""
        return connection.raw(connection.blocking().events)

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        return connection.async_raw((await connection.awaitable()).events)
