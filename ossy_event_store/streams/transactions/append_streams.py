"""
Append to several streams in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...documents.arguments import check_items, check_number
from ...documents.bson_types import Document
from ...documents.catalogue.appending import as_event
from ...documents.event_document import check_id
from ...exceptions import (
    ConcurrencyError,
    InvalidEvent,
    StoreUnavailable,
)
from ...mongodb.connection import Store
from ..append import check_ids, find_stored
from ..boundaries.heads import read_heads
from ..closing.checks import check_end
from ..new_events import NewEvents, raw_events
from .repeating import until_committed
from .unit_of_work import UnitOfWork, open_unit


class StreamsAppend:
    """
    One call of ``append_streams()``: its checked arguments.

    Args:
        streams: the events of each stream.
        expected: the version that a stream has to be at, of those that get events.
        unchanged: the same of others.

    Raises:
        InvalidEvent: with path and reason.
        TypeError, ValueError: another argument is wrong.
    """

    def __init__(self, streams: Any, expected: Any, unchanged: Any) -> None:
        if not isinstance(streams, Mapping):
            raise TypeError(
                "streams must be a dict of aggregate ids and lists of events, not "
                f"{type(streams).__name__}."
            )
        if not streams:
            raise ValueError("streams is empty; give events of at least one stream.")
        self.unchanged = _versions(unchanged, "unchanged")
        versions = _versions(expected, "expected")
        for name, wrong in (
            ("expected", versions.keys() - streams.keys()),
            ("unchanged", self.unchanged.keys() & streams.keys()),
        ):
            if wrong:
                raise ValueError(
                    f"{name} has {min(wrong)!r}. Streams that get events belong in "
                    "expected, others in unchanged."
                )
        self.documents = NewEvents()
        #: The expected version of each stream; None for any.
        self.expected: dict[str, int | None] = {}
        for stream, events in streams.items():
            check_id(stream, "each key of streams")
            own, version = _events_of(stream, events, versions.get(stream))
            self.documents.include(own)
            self.expected[stream] = version
        check_ids(self.documents)

    async def run(self, store: Store) -> dict[str, list[Document]]:
        """Return the stored events of each stream."""
        try:
            stored = await until_committed(
                store, lambda: self._once(store), is_lost=self._may_win
            )
        except ConcurrencyError:
            # The same call may have stored them meanwhile, in another process.
            found = None
            if self.documents.have_own_ids:
                found = await find_stored(store, self.documents)
            if found is None:
                raise
            stored = found
        result: dict[str, list[Document]] = {stream: [] for stream in self.expected}
        for event in stored:
            result[event["aggregateId"]].append(event)
        return result

    def _may_win(self, error: StoreUnavailable | ConcurrencyError) -> bool:
        """Whether another attempt may succeed: no stream with a condition has moved."""
        if isinstance(error, StoreUnavailable):
            return True
        return all(self._is_free(stream) for stream, _, _ in error.conflicts)

    def _is_free(self, stream: str) -> bool:
        return stream in self.expected and self.expected[stream] is None

    async def _once(self, store: Store) -> list[Document]:
        async with open_unit(store) as unit:
            has_ids = self.documents.have_own_ids
            if has_ids and (found := await unit.find(self.documents)):
                return found
            await self._number(unit)
            unit.unchanged.update(self.unchanged)
            return await unit.append(self.documents)

    async def _number(self, unit: UnitOfWork) -> None:
        """Set the versions of the events, and let the expected ones be checked."""
        free = [stream for stream in self.expected if self._is_free(stream)]
        ends = (await read_heads(unit.sent, free, [])).streams if free else {}
        versions: dict[str, int] = {}
        for stream, expected in self.expected.items():
            if expected is None:
                end = ends.get(stream)
                versions[stream] = end["aggregateVersion"] if end else 0
            else:
                versions[stream] = unit.unchanged[stream] = expected
        for event in self.documents:
            await check_end(unit.sent, event, ends.get(event["aggregateId"]))
            versions[event["aggregateId"]] += 1
            event["aggregateVersion"] = versions[event["aggregateId"]]


def _versions(value: Any, name: str) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a dict of aggregate ids and versions, not "
            f"{type(value).__name__}."
        )
    return {
        check_id(stream, f"each key of {name}"): check_number(
            version, f"{name}[{stream!r}]"
        )
        for stream, version in value.items()
    }


def _events_of(
    stream: str, events: Any, expected: int | None
) -> tuple[NewEvents, int | None]:
    """Return the documents of a stream's events, and the version before them."""
    where = f"streams[{stream!r}]"
    own: Sequence[Any] = [
        {"aggregateId": stream, **event} if isinstance(event, Mapping) else event
        for event in map(as_event, check_items(events, where, "events"))
    ]
    try:
        documents, version = raw_events(own, expected)
    except InvalidEvent as error:
        path = ".".join(filter(None, (where, error.path)))
        raise InvalidEvent(path, error.reason) from None
    if documents[0]["aggregateId"] != stream:
        raise InvalidEvent(
            f"{where}.aggregateId",
            f"is {documents[0]['aggregateId']!r}; leave it out",
        )
    return documents, version
