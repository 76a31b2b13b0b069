"""
Check events one by one: their fields, and that no id occurs twice.

The server checks the fields, and sends only the events that have something wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from ..documents.bson_types import Document
from ..documents.collections import EVENTS
from ..mongodb.deadline import in_time
from ..mongodb.indexes import STREAM_VERSIONS, Index
from .report import EVENT_ID, Finding
from .rules import BROKEN, SHAPE, event_findings
from .run import Run

# The server is silent while it finds nothing, and a silent server may be down. So it
# also sends one event in a thousand that has nothing wrong.
HEARTBEAT_INTERVAL = 1000
HEARTBEAT: Document = {"$sampleRate": 1 / HEARTBEAT_INTERVAL}

_IDS = Index(EVENTS, [("_id", 1)], "MongoDB's own.")


async def check_all_fields(run: Run) -> None:
    """Check the fields of every event."""
    await _check_fields(run, {}, _IDS)


async def check_fields_of_streams(run: Run, ids: Sequence[str]) -> None:
    """Check the fields of the events of some streams."""
    query = {"aggregateId": {"$in": list(ids)}}
    await _check_fields(run, query, STREAM_VERSIONS)


async def _check_fields(run: Run, query: Document, index: Index) -> None:
    query = {**query, "$or": [HEARTBEAT, BROKEN]}
    found = run.walk(index, query, SHAPE, run.sizes.heartbeats)
    async with aclosing(found) as batches:
        async for batch in batches:
            for event in batch:
                findings = list(event_findings(event))
                for finding in findings:
                    run.report.add(finding)
                run.report.reads += 0 if findings else HEARTBEAT_INTERVAL
            run.tick()


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
