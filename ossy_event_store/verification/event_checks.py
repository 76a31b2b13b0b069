"""
Check events one by one: their fields, their ids, and their numbers in their tags.

The server checks the fields, and sends only the events that have something wrong. The
numbers of a tag are 1, 2, 3, …, so an event that was deleted outside of the store
leaves a hole in each of its tags.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from ..conf import get_settings
from ..documents.boundaries.places import places_after
from ..documents.boundaries.tags import EVERYTHING, type_place
from ..documents.bson_types import Document
from ..documents.collections import EVENTS
from ..documents.event_document import STREAM_CLOSED, version_number
from ..mongodb.deadline import in_time
from ..mongodb.indexes import STREAM_VERSIONS, TAG_PLACES, Index
from ..streams.boundaries.heads import read_heads
from ..streams.closing.checks import is_closing
from .report import AFTER_END, EVENT_ID, TAG, Finding
from .rules import BROKEN, SHAPE, UNPLACED, event_findings
from .run import Run

# The server is silent while it finds nothing, and a silent server may be down. So it
# also sends one event in a thousand that has nothing wrong.
HEARTBEAT_INTERVAL = 1000
HEARTBEAT: Document = {"$sampleRate": 1 / HEARTBEAT_INTERVAL}

NAMED_EVENTS = 10  # of a declared type without a place

_IDS = Index(EVENTS, [("_id", 1)], "MongoDB's own.")


async def check_all_fields(run: Run) -> None:
    """Check the fields of every event."""
    await _check_fields(run, {}, _IDS)


async def check_fields_of_streams(run: Run, ids: Sequence[str]) -> None:
    """Check the fields of the events of some streams."""
    query = {"aggregateId": {"$in": list(ids)}}
    await _check_fields(run, query, STREAM_VERSIONS)


async def _check_fields(run: Run, query: Document, index: Index) -> None:
    closing = {"type": STREAM_CLOSED}
    query = {**query, "$or": [HEARTBEAT, BROKEN, UNPLACED, closing]}
    found = run.walk(index, query, SHAPE, run.sizes.heartbeats)
    async with aclosing(found) as batches:
        async for batch in batches:
            for event in batch:
                findings = list(event_findings(event))
                for finding in findings:
                    run.report.add(finding)
                is_heartbeat = not findings and not is_closing(event)
                run.report.reads += HEARTBEAT_INTERVAL if is_heartbeat else 0
            await _check_ends(run, filter(is_closing, batch))
            run.tick()


async def _check_ends(run: Run, closing: Iterable[Document]) -> None:
    """Report what follows the events that closed their streams."""
    closed = {
        event["aggregateId"]: event.get("aggregateVersion")
        for event in closing
        if isinstance(event.get("aggregateId"), str)
    }
    if not closed:
        return
    with in_time():
        heads = (await read_heads(run.store, list(closed), [])).streams
    for aggregate_id, end in closed.items():
        last = heads.get(aggregate_id, {}).get("aggregateVersion")
        if isinstance(end, int) and isinstance(last, int) and last > end:
            run.report.add(
                Finding(
                    AFTER_END,
                    aggregate_id,
                    (end + 1, last),
                    f"version {end}, which closed the stream",
                    "the last one",
                    f"version {last}",
                )
            )


async def check_ids(run: Run) -> None:
    """Find ids that exist on two shards; a single server has each id once."""
    with in_time():
        hello = await run.store.client.command("hello")
    if hello.get("msg") != "isdbgrid":
        return
    last: object = None
    async with aclosing(run.walk(_IDS, {}, {"_id": 1})) as batches:
        async for batch in batches:
            for event in batch:
                if event["_id"] == last:
                    run.report.add(
                        Finding(
                            EVENT_ID,
                            subject=f"event {last}",
                            expected="one of this id",
                            found="another one",
                        )
                    )
                last = event["_id"]
            run.tick()


# --- tags ---------------------------------------------------------------------


async def check_tags(run: Run) -> None:
    """Check the numbers of every tag, and the events of declared types."""
    if run.has(TAG_PLACES):
        await _check_numbers(run)
    for declared in get_settings().TYPE_BOUNDARIES:
        await _check_declared(run, declared)


async def _check_numbers(run: Run) -> None:
    """
    Find tags whose highest number is not how many numbers they have.

    Events are appended meanwhile, so such a tag is a suspect, which is read by itself.
    Losses that an operator accepted leave holes that are not reported.
    """
    pipeline: list[Document] = [
        {"$match": {"places": {"$exists": True}}},
        {"$project": {"_id": 0, "places": 1}},
        {"$unwind": "$places"},
        {
            "$group": {
                "_id": "$places.t",
                "count": {"$sum": 1},
                "head": {"$max": "$places.n"},
            }
        },
        {"$match": {"$expr": {"$ne": ["$count", "$head"]}}},
    ]
    suspects = [one["_id"] async for one in _each(run, pipeline)]
    for name in suspects:
        gaps = [gap async for gap in _each(run, _gaps(name))]
        lost = sum(gap["n"] - gap["before"] - 1 for gap in gaps)
        accepted = {"tags": {"$eq": name}, "lost": {"$exists": True}}
        if lost <= await run.store.positions.count_where(accepted, unbounded=True):
            continue
        for gap in gaps:
            run.report.add(
                Finding(
                    TAG,
                    subject=f"tag {name!r}",
                    expected=f"the number {gap['before'] + 1}",
                    found=f"none before {gap['n']}",
                )
            )


def _gaps(name: str) -> list[Document]:
    """Return the pipeline that finds the numbers of a name after a hole."""
    before = {"$shift": {"output": "$places.n", "by": -1, "default": 0}}
    return [
        {"$match": {"places.t": {"$eq": name}}},
        {"$project": {"_id": 0, "places": 1}},
        {"$unwind": "$places"},
        {"$match": {"places.t": {"$eq": name}, "places.n": {"$type": "number"}}},
        {
            "$setWindowFields": {
                "sortBy": {"places.n": 1},
                "output": {"before": before},
            }
        },
        {"$match": {"$expr": {"$ne": ["$places.n", {"$add": ["$before", 1]}]}}},
        {"$project": {"n": "$places.n", "before": 1}},
    ]


async def _check_declared(run: Run, declared: str) -> None:
    """
    Find events of a declared type without a place, after the first that has one.

    A process without the setting appended them. Those from before are sound.
    """
    place = EVERYTHING if declared == EVERYTHING else type_place(declared)
    with in_time():
        first = await run.store.events.find_one(places_after(place, 0, 1))
    if first is None:
        return
    query: Document = {
        "created": {"$gt": first.get("created")},
        "places.t": {"$ne": place},
        "aggregateVersion": {"$type": "number"},  # else it is no event
    }
    if declared != EVERYTHING:
        query["type"] = {"$eq": declared}
    fields = {"aggregateId": 1, "aggregateVersion": 1}
    found = run.store.events.batches(
        query, NAMED_EVENTS, projection=fields, limit=NAMED_EVENTS, unbounded=True
    )
    async with aclosing(found) as batches:
        async for batch in batches:
            for event in batch:
                version = version_number(event["aggregateVersion"]) or 0
                run.report.add(
                    Finding(
                        TAG,
                        event.get("aggregateId"),
                        (version, version),
                        f"event {event['_id']}",
                        f"a place in {place!r}, as its type is declared",
                        "none: a process without the setting appended it",
                    )
                )
    run.tick()


async def _each(run: Run, pipeline: list[Document]) -> AsyncGenerator[Document, None]:
    """Yield the results of a pipeline over the events that have places."""
    found = run.store.events.aggregate(
        pipeline,
        run.sizes.streams,
        unbounded=True,
        allowDiskUse=True,
        hint=dict(TAG_PLACES.keys),
    )
    async with aclosing(found) as batches:
        async for batch in batches:
            for one in batch:
                yield one
            run.tick()
