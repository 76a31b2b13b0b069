"""
Read where streams and names end: one round trip, one key of an index for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from ...documents.boundaries.places import Heads, number_in, places_after
from ...documents.bson_types import Document
from ...documents.collections import EVENTS
from ...mongodb.connection import Store
from ...mongodb.indexes import TAG_PLACES, look

_OF_STREAM = ("aggregateId", "aggregateVersion", "aggregateType", "type")
MOST_SOURCES = 100  # of one pipeline; the server allows 1,000 stages


async def read_heads(
    store: Store, streams: Sequence[str], names: Sequence[str]
) -> Heads:
    """
    Return where streams and names end, as a majority has it.

    They are read one after the other, not at one instant: an append with the next
    numbers finds out by the unique index whether one of them was taken meanwhile.

    Args:
        store: one face of the store; in a transaction, that of its session.
        streams: ids of streams.
        names: names of places.

    Raises:
        IndexMissing: the index does not exist without which none may be taken.
        InvalidEvent: it cannot exist, since the events are sharded.
    """
    if names:
        await look(store, TAG_PLACES)
    found: dict[str, Document] = {}
    numbers: dict[str, int] = {}
    tick = 0
    for pipeline in _pipelines(streams, names, store.outside is not None):
        async for batch in store.events.aggregate(pipeline, 2 * MOST_SOURCES):
            for head in chain(*(one.get("heads", [one]) for one in batch)):
                kind, name = head["_id"]
                tick = max(tick, head.get("tick") or 0)
                if kind == "stream":
                    found[name] = head
                else:
                    numbers[name] = number_in(head, name)
    return Heads(found, numbers, tick)


def _pipelines(
    streams: Sequence[str], names: Sequence[str], is_in_transaction: bool
) -> Iterator[list[Document]]:
    if is_in_transaction and not names:
        if streams:
            yield _ends_of(streams)
        return
    sources = _sources(streams, names)
    build = _looked_up if is_in_transaction else _united
    while part := list(islice(sources, MOST_SOURCES)):
        yield build(part)


def _ends_of(streams: Sequence[str]) -> list[Document]:
    """Return one pipeline for streams alone: it works on a sharded cluster as well."""
    return [
        {"$match": {"aggregateId": {"$in": list(streams)}}},
        {"$sort": {"aggregateId": -1, "aggregateVersion": -1}},
        {
            "$group": {
                "_id": "$aggregateId",
                **{field: {"$first": f"${field}"} for field in (*_OF_STREAM, "tick")},
            }
        },
        {"$set": {"_id": ["stream", "$_id"]}},
    ]


async def read_head_of_both(store: Store, name: str) -> Heads | None:
    """
    Return where a tag and the stream that is named after it end, by one look-up.

    They are expected to end with the same event. An event of the stream without the
    tag is not seen: its version is found to be taken. None if the last event of the
    tag is of another stream.
    """
    await look(store, TAG_PLACES)
    fields = ["places", "tick", *_OF_STREAM]
    head = await store.events.find_one(places_after(name, 0), projection=fields)
    if head is None:
        return Heads()
    if head["aggregateId"] != name:
        return None
    number = number_in(head, name)
    return Heads({name: head}, {name: number}, head.get("tick") or 0)


def _sources(streams: Sequence[str], names: Sequence[str]) -> Iterator[list[Document]]:
    for aggregate_id in dict.fromkeys(streams):
        yield [
            {"$match": {"aggregateId": {"$eq": aggregate_id}}},
            {"$sort": {"aggregateVersion": -1}},
            {"$limit": 1},
            _only("stream", aggregate_id, *_OF_STREAM),
        ]
    for name in dict.fromkeys(names):
        # Without a sort, the index gives the highest number first. If it ever did not,
        # the insert would be refused and the append begin again: late, not wrong.
        yield [
            {"$match": places_after(name, 0)},
            {"$limit": 1},
            _only("place", name, "places"),
        ]


def _only(kind: str, name: str, *fields: str) -> Document:
    return {
        "$project": {
            "_id": {"$literal": [kind, name]},
            "tick": 1,
            **dict.fromkeys(fields, 1),
        }
    }


def _looked_up(sources: list[list[Document]]) -> list[Document]:
    """Return a pipeline for a transaction, in which ``$unionWith`` is not allowed."""
    # It begins with any event: without one, there are no heads either.
    fields = [f"heads{index}" for index, _ in enumerate(sources)]
    return [
        {"$limit": 1},
        {"$project": {"_id": 1}},
        *(
            {"$lookup": {"from": EVENTS, "pipeline": source, "as": field}}
            for field, source in zip(fields, sources, strict=True)
        ),
        {"$project": {"heads": {"$concatArrays": [f"${field}" for field in fields]}}},
    ]


def _united(sources: list[list[Document]]) -> list[Document]:
    first, *others = sources
    return [
        *first,
        *({"$unionWith": {"coll": EVENTS, "pipeline": other}} for other in others),
    ]
