"""
Event sourcing for Django on MongoDB.

``Aggregate`` loads streams and appends to them, ``EventStore`` reads and writes raw
events, ``AggregateRebuild`` rebuilds snapshots, ``Mongo`` is the connection.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .exceptions import (
    AggregateNotFound,
    AggregatesNotFound,
    AggregateTypeMismatch,
    BeforeFirstEvent,
    BoundaryConflict,
    BuiltMeanwhile,
    CheckpointMissing,
    ConcurrencyError,
    EventNotFound,
    EventStoreError,
    ForeignCollection,
    IdempotencyConflict,
    IndexConflict,
    IndexMissing,
    InvalidBoundary,
    InvalidEvent,
    InvalidLine,
    InvalidQuery,
    InvalidState,
    InvalidTransaction,
    OutcomeUnknown,
    PastAggregate,
    PositionNotAssigned,
    PositionsBroken,
    RebuildBroken,
    ReducerError,
    StoreUnavailable,
    StreamClosed,
    TransactionAborted,
    TransactionsUnavailable,
    UndecodableEvent,
    UnexpectedState,
    UnknownAggregateType,
    UnknownEventVersion,
    UnknownSubscription,
    UpcasterError,
    VersionNotFound,
)

if _TYPE_CHECKING:
    from .aggregate import Aggregate
    from .aggregate.registry import register_aggregate
    from .documents.boundaries.condition import Condition
    from .documents.boundaries.model import Boundary
    from .documents.boundaries.query import Query, all_events, any_of, item
    from .documents.catalogue.declaration import event, upcaster
    from .documents.catalogue.objects import (
        document_of,
        event_from,
        events_from,
        stored_event,
    )
    from .documents.context.event_context import event_context
    from .documents.diff import Change
    from .event_store import EventStore
    from .event_store.query.lazy_query import EventQuery, EventsPage
    from .mongodb.connection import Mongo
    from .projections.empty import empty_test_database
    from .projections.projection import Projection, register_projection
    from .rebuild.api import AggregateRebuild
    from .rebuild.report import RebuildReport
    from .relational.on_commit import append_on_commit
    from .streams.boundaries.execute import LoadedBoundary
    from .streams.boundaries.reading import AwaitableBoundaryRead, BoundaryRead
    from .streams.context.tree import CauseChain, Trace, TraceNode
    from .streams.transactions.transaction import Transaction
    from .subscriptions.declaration import subscription

__version__ = "0.1.0"

# Each name loads its module on first use, so a project that only appends events
# loads neither projections nor the rebuild.
_MODULE_OF = {
    "Aggregate": "aggregate",
    "AggregateRebuild": "rebuild.api",
    "AwaitableBoundaryRead": "streams.boundaries.reading",
    "Boundary": "documents.boundaries.model",
    "BoundaryRead": "streams.boundaries.reading",
    "CauseChain": "streams.context.tree",
    "Change": "documents.diff",
    "Condition": "documents.boundaries.condition",
    "EventQuery": "event_store.query.lazy_query",
    "EventStore": "event_store",
    "EventsPage": "event_store.query.lazy_query",
    "LoadedBoundary": "streams.boundaries.execute",
    "Mongo": "mongodb.connection",
    "Projection": "projections.projection",
    "Query": "documents.boundaries.query",
    "RebuildReport": "rebuild.report",
    "Trace": "streams.context.tree",
    "TraceNode": "streams.context.tree",
    "Transaction": "streams.transactions.transaction",
    "all_events": "documents.boundaries.query",
    "any_of": "documents.boundaries.query",
    "append_on_commit": "relational.on_commit",
    "document_of": "documents.catalogue.objects",
    "empty_test_database": "projections.empty",
    "event": "documents.catalogue.declaration",
    "event_from": "documents.catalogue.objects",
    "events_from": "documents.catalogue.objects",
    "event_context": "documents.context.event_context",
    "item": "documents.boundaries.query",
    "register_aggregate": "aggregate.registry",
    "register_projection": "projections.projection",
    "stored_event": "documents.catalogue.objects",
    "subscription": "subscriptions.declaration",
    "upcaster": "documents.catalogue.declaration",
}

__all__ = [
    "Aggregate",
    "AggregateNotFound",
    "AggregateRebuild",
    "AggregateTypeMismatch",
    "AggregatesNotFound",
    "AwaitableBoundaryRead",
    "BeforeFirstEvent",
    "Boundary",
    "BoundaryConflict",
    "BoundaryRead",
    "BuiltMeanwhile",
    "CauseChain",
    "Change",
    "CheckpointMissing",
    "ConcurrencyError",
    "Condition",
    "EventNotFound",
    "EventQuery",
    "EventStore",
    "EventStoreError",
    "EventsPage",
    "ForeignCollection",
    "IdempotencyConflict",
    "IndexConflict",
    "IndexMissing",
    "InvalidBoundary",
    "InvalidEvent",
    "InvalidLine",
    "InvalidQuery",
    "InvalidState",
    "InvalidTransaction",
    "LoadedBoundary",
    "Mongo",
    "OutcomeUnknown",
    "PastAggregate",
    "PositionNotAssigned",
    "PositionsBroken",
    "Projection",
    "Query",
    "RebuildBroken",
    "RebuildReport",
    "ReducerError",
    "StoreUnavailable",
    "StreamClosed",
    "Trace",
    "TraceNode",
    "Transaction",
    "TransactionAborted",
    "TransactionsUnavailable",
    "UndecodableEvent",
    "UnexpectedState",
    "UnknownAggregateType",
    "UnknownEventVersion",
    "UnknownSubscription",
    "UpcasterError",
    "VersionNotFound",
    "__version__",
    "all_events",
    "any_of",
    "append_on_commit",
    "document_of",
    "empty_test_database",
    "event",
    "event_context",
    "event_from",
    "events_from",
    "item",
    "register_aggregate",
    "register_projection",
    "stored_event",
    "subscription",
    "upcaster",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
