"""
Count the events of a query by what they have in common, on the server.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

import pymongo
from pymongo.errors import OperationFailure

from ...documents.bson_types import Document
from ...mongodb import connection
from ...mongodb.connection import Store
from ...mongodb.deadline import explained
from ...mongodb.ports import drive
from .lazy_query import EventQuery, plan_of
from .plan import Plan
from .reading import IS_EVENT
from .rows import documents_of, raise_if_missing

By = Literal["type", "aggregate-type", "user", "day"]
_FIELDS = {
    "type": "$type",
    "aggregate-type": "$aggregateType",
    "user": "$createdBy",
}
_BATCH = 1000


class Counted(NamedTuple):
    """How many events have a value in common."""

    value: Any
    events: int


def counts(
    query: EventQuery, by: By, *, seconds: float, zone: str = "UTC"
) -> list[Counted]:
    """
    Return how many events of a query have each value, the most frequent first.

    Days are in order of time, the last one first.

    Args:
        query: without conditions on positions, and without an order.
        by: what to count by.
        seconds: the most time that it may take.
        zone: the time zone of days, by its name in the tz database.

    Raises:
        InvalidQuery: no index answers the query.
        StoreUnavailable: the time was over.
    """
    query = query.order("created")
    wanted = plan_of(query, "created")
    with explained(), pymongo.timeout(seconds):
        found = drive(_counts(connection.blocking(), wanted, _key(by, zone)))
    counted = [Counted(value, events) for value, events in found.items()]
    counted.sort(key=lambda one: str(one.value), reverse=by == "day")
    return counted if by == "day" else sorted(counted, key=lambda one: -one.events)


async def _counts(store: Store, wanted: Plan, key: Any) -> Counter[Any]:
    found: Counter[Any] = Counter()
    rest = wanted.conditions.filter(wanted.left)
    for source in wanted.sources:
        query = {"$and": [source.everything, IS_EVENT, rest]}
        group = {"_id": key, "events": {"$sum": 1}}
        pipeline: list[Document] = [{"$match": query}, {"$group": group}]
        groups = documents_of(store, source).aggregate(
            pipeline, _BATCH, unbounded=True, hint=dict(source.keys)
        )
        try:
            async for batch in groups:
                for one in batch:
                    found[one["_id"]] += one["events"]
        except OperationFailure as error:
            await raise_if_missing(store, source, error)
    return found


def _key(by: By, zone: str) -> Any:
    if by in _FIELDS:
        return _FIELDS[by]
    date = {"$toDate": "$created"}  # a number, if the Node package stored it
    return {"$dateToString": {"date": date, "format": "%Y-%m-%d", "timezone": zone}}
