"""
Find events by a query of MongoDB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ..documents.bson_types import Document
from ..documents.query_guard import check_pipeline
from ..exceptions import EventNotFound
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..streams import lookup
from ..streams.lookup import Sort
from ..streams.transactions.joining import awaitable_store, blocking_store
from .query.lazy_query import EventQuery


class Queries:
    """The methods of ``EventStore`` that run queries."""

    @classmethod
    def query(cls) -> EventQuery:
        """
        Return a lazy query for all events, which its methods narrow.

        Nothing connects until it is read; see ``EventQuery``.
        """
        return EventQuery()

    @classmethod
    def find_event(
        cls,
        query: Mapping[str, Any],
        *,
        sort: Sort | None = None,
        session: ClientSession | None = None,
    ) -> Document:
        """
        Return the first event that matches a MongoDB query.

        Write values from outside as ``{"$eq": value}``. Operators that run code are
        refused.

        Raises:
            EventNotFound: no event matches.
            InvalidQuery: the query runs code.
        """
        return cls.find_events(query, sort=sort, limit=1, session=session)[0]

    @classmethod
    async def afind_event(
        cls,
        query: Mapping[str, Any],
        *,
        sort: Sort | None = None,
        session: AsyncClientSession | None = None,
    ) -> Document:
        """See ``find_event()``."""
        return (await cls.afind_events(query, sort=sort, limit=1, session=session))[0]

    @classmethod
    def find_events(
        cls,
        query: Mapping[str, Any],
        *,
        sort: Sort | None = None,
        limit: int = 0,
        default: list[Document] | None = None,
        session: ClientSession | None = None,
    ) -> list[Document]:
        """
        Return the events that match a MongoDB query; see ``find_event()``.

        Args:
            query: a filter on the event documents. A datetime for ``created`` also
                finds events of the Node package, which store a number.
            sort: pairs of field and 1 or -1.
            limit: the most to return; 0 means all, which are held in memory.
            default: what to return if no event matches, as ``[]``; None raises.
            session: of an open transaction in which to look, such as ``t.session``.

        Raises:
            EventNotFound: no event matches, and there is no ``default``.
            InvalidQuery: the query runs code, or is malformed.
        """
        lookup.check_search(query, sort, limit, default)
        with in_time():
            found = drive(
                lookup.find_events(blocking_store(session), query, sort, limit)
            )
        return _found(found, query, default)

    @classmethod
    async def afind_events(
        cls,
        query: Mapping[str, Any],
        *,
        sort: Sort | None = None,
        limit: int = 0,
        default: list[Document] | None = None,
        session: AsyncClientSession | None = None,
    ) -> list[Document]:
        """See ``find_events()``."""
        lookup.check_search(query, sort, limit, default)
        with in_time():
            store = await awaitable_store(session)
            found = await lookup.find_events(store, query, sort, limit)
        return _found(found, query, default)

    @classmethod
    def aggregate(
        cls,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: ClientSession | None = None,
    ) -> list[Document]:
        """
        Run a MongoDB aggregation pipeline over the events and return its results.

        Only stages that read are allowed. Others, even nested ones, raise
        ``InvalidQuery``.
        """
        pipeline = check_pipeline(pipeline)
        with in_time():
            return drive(lookup.run_pipeline(blocking_store(session), pipeline))

    @classmethod
    async def aaggregate(
        cls,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        session: AsyncClientSession | None = None,
    ) -> list[Document]:
        """See ``aggregate()``."""
        pipeline = check_pipeline(pipeline)
        with in_time():
            return await lookup.run_pipeline(await awaitable_store(session), pipeline)


def _found(
    events: list[Document], query: Mapping[str, Any], default: list[Document] | None
) -> list[Document]:
    if not events and default is None:
        raise EventNotFound(query)
    return events or list(default or ())
