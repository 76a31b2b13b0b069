"""
Follow what a query finds, from one position to the next.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from ...documents.bson_types import Document
from ...mongodb import connection
from ...mongodb.connection import Store
from ...mongodb.ports import drive_each
from ...positions.head_watcher import watcher
from ...positions.reader import head_position
from .lazy_query import EventQuery, plan_of
from .reading import each_event


class Following:
    """
    Reads the events of a query after a position, and those that are appended later.

    Args:
        query: in order of position, without a bound of its own. It may filter by
            anything: it reads no more than what is new.
        position: after which the events are.
    """

    def __init__(self, query: EventQuery, position: int) -> None:
        self.query = query.order("position").scan()
        #: Up to where it has read; an error in between changes nothing.
        self.position = position

    def new(self) -> Iterator[Document]:
        """Iterate over the events up to the last position that is assigned now."""
        return drive_each(self._new(connection.blocking()))

    def wait(self, seconds: float) -> bool:
        """Wait for a later position, and return whether there seems to be one."""
        return watcher.wait(self.position, seconds) > self.position

    async def _new(self, store: Store) -> AsyncGenerator[Document, None]:
        # In one session: a new primary that does not know what the old one has shown
        # could seem to have no events between here and the head.
        async with store.client.session() as session:
            head = await head_position(store, session)
            if head <= self.position:
                return
            query = self.query.after(self.position).until_position(head)
            wanted = plan_of(query, "position")
            events = each_event(store, wanted, session=session)
            async with aclosing(events) as found:
                async for event, _, _ in found:
                    self.position = event["position"]
                    yield event
            self.position = head
