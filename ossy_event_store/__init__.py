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
    AggregateTypeMismatch,
    BuiltMeanwhile,
    CheckpointMissing,
    ConcurrencyError,
    EventNotFound,
    EventStoreError,
    ForeignCollection,
    IdempotencyConflict,
    IndexConflict,
    IndexMissing,
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
    UnexpectedState,
    UnknownAggregateType,
    UnknownSubscription,
)

if _TYPE_CHECKING:
    from .aggregate import Aggregate
    from .event_store import EventStore
    from .mongodb.connection import Mongo
    from .projections.empty import empty_test_database
    from .projections.projection import Projection, register_projection
    from .rebuild.api import AggregateRebuild
    from .rebuild.report import RebuildReport
    from .registry import register_aggregate
    from .relational.on_commit import append_on_commit
    from .subscriptions.declaration import subscription

__version__ = "0.1.0"

# Each name loads its module on first use, so a project that only appends events
# loads neither projections nor the rebuild.
_MODULE_OF = {
    "Aggregate": "aggregate",
    "AggregateRebuild": "rebuild.api",
    "EventStore": "event_store",
    "Mongo": "mongodb.connection",
    "Projection": "projections.projection",
    "RebuildReport": "rebuild.report",
    "append_on_commit": "relational.on_commit",
    "empty_test_database": "projections.empty",
    "register_aggregate": "registry",
    "register_projection": "projections.projection",
    "subscription": "subscriptions.declaration",
}

__all__ = [
    "Aggregate",
    "AggregateNotFound",
    "AggregateRebuild",
    "AggregateTypeMismatch",
    "BuiltMeanwhile",
    "CheckpointMissing",
    "ConcurrencyError",
    "EventNotFound",
    "EventStore",
    "EventStoreError",
    "ForeignCollection",
    "IdempotencyConflict",
    "IndexConflict",
    "IndexMissing",
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
    "UnexpectedState",
    "UnknownAggregateType",
    "UnknownSubscription",
    "__version__",
    "append_on_commit",
    "empty_test_database",
    "register_aggregate",
    "register_projection",
    "subscription",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
