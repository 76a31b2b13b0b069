"""
Event sourcing for Django on MongoDB.

``Aggregate`` loads streams and appends to them, ``EventStore`` is the raw event
I/O below, ``AggregateRebuild`` folds snapshots anew, ``Mongo`` is the connection.
"""

from .aggregate import Aggregate
from .event_store import EventStore
from .exceptions import (
    AggregateNotFound,
    AggregateTypeMismatch,
    CheckpointMissing,
    ConcurrencyError,
    EventNotFound,
    EventStoreError,
    IdempotencyConflict,
    IndexConflict,
    InvalidEvent,
    InvalidLine,
    InvalidQuery,
    InvalidState,
    OutcomeUnknown,
    PositionsBroken,
    RebuildBroken,
    ReducerError,
    StoreUnavailable,
    TransactionsUnavailable,
    UnknownAggregateType,
    UnknownSubscription,
)
from .mongo import Mongo
from .projections import Projection, register_projection
from .rebuild import AggregateRebuild
from .rebuild_report import RebuildReport
from .registry import register_aggregate
from .subscriptions import subscription

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "AggregateNotFound",
    "AggregateRebuild",
    "AggregateTypeMismatch",
    "CheckpointMissing",
    "ConcurrencyError",
    "EventNotFound",
    "EventStore",
    "EventStoreError",
    "IdempotencyConflict",
    "IndexConflict",
    "InvalidEvent",
    "InvalidLine",
    "InvalidQuery",
    "InvalidState",
    "Mongo",
    "OutcomeUnknown",
    "PositionsBroken",
    "Projection",
    "RebuildBroken",
    "RebuildReport",
    "ReducerError",
    "StoreUnavailable",
    "TransactionsUnavailable",
    "UnknownAggregateType",
    "UnknownSubscription",
    "__version__",
    "register_aggregate",
    "register_projection",
    "subscription",
]
