"""
The errors of the store, in one tree.

::

    EventStoreError
    ├── AggregateNotFound        no stream has this id (ObjectDoesNotExist)
    │   ├── AggregatesNotFound   of several streams, these do not exist
    │   └── BeforeFirstEvent     the stream began after the moment that was asked for
    ├── AggregateTypeMismatch    the stream is of another type
    ├── BoundaryConflict         an event matches that the decision did not know
    ├── BuiltMeanwhile           another process has rebuilt the projection
    ├── CheckpointMissing        an SQL database lost the checkpoint of a subscription
    ├── ConcurrencyError         another writer was faster; load again and decide again
    ├── EventNotFound            no event matches the query (ObjectDoesNotExist)
    ├── ForeignCollection        another program has a collection with the store's name
    ├── IdempotencyConflict      this event id is stored with other content
    ├── IndexConflict            existing indexes or documents prevent an index
    ├── IndexMissing             nothing may be written without this index
    ├── InvalidBoundary          a query, condition or token is wrong (ValueError)
    ├── InvalidEvent             the event was refused, nothing was sent (ValueError)
    ├── InvalidLine              a line of an import file is wrong (ValueError)
    ├── InvalidQuery             the store refuses to run the query (ValueError)
    ├── InvalidState             a reducer's state cannot be stored (ValueError)
    ├── InvalidTransaction       a session or transaction is used wrongly (ValueError)
    ├── OutcomeUnknown           stored or not; append again with the same event ids
    ├── PastAggregate            it was loaded as of the past, so it is read-only
    ├── PositionNotAssigned      no event has this position yet
    ├── PositionsBroken          a position refers to an event that no longer exists
    ├── RebuildBroken            a worker process of a rebuild ended too early
    ├── ReducerError             a reducer raised on an event
    ├── StoreUnavailable         MongoDB did not answer in time; nothing was stored
    │   └── TransactionAborted   it conflicted with another one; run all of it again
    ├── StreamClosed             the stream has ended; nothing can be appended to it
    ├── TransactionsUnavailable  several events or streams at once need a replica set
    ├── UndecodableEvent         a class cannot be made of a stored event
    ├── UnexpectedState          the server or a thread did what it never should
    ├── UnknownAggregateType     no class is registered under this type (LookupError)
    ├── UnknownEventVersion      the code does not know this version of the type
    ├── UnknownSubscription      no subscription has this name (LookupError)
    ├── UpcasterError            an upcaster failed on an event
    └── VersionNotFound          the stream has no event at this version

Each carries its facts as attributes and can be pickled. Wrong settings raise Django's
``ImproperlyConfigured``; an id that is not a string raises ``TypeError``, as any wrong
argument does.
"""

from .boundaries import BoundaryConflict, InvalidBoundary
from .catalogue import UndecodableEvent, UnknownEventVersion, UpcasterError
from .errors import (
    AggregateNotFound,
    AggregateTypeMismatch,
    BuiltMeanwhile,
    CheckpointMissing,
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
    UnexpectedState,
    UnknownAggregateType,
    UnknownSubscription,
)
from .past import (
    AggregatesNotFound,
    BeforeFirstEvent,
    PastAggregate,
    PositionNotAssigned,
    VersionNotFound,
)
from .transactions import (
    ConcurrencyError,
    InvalidTransaction,
    StreamClosed,
    TransactionAborted,
    TransactionsUnavailable,
)

__all__ = [
    "AggregateNotFound",
    "AggregateTypeMismatch",
    "AggregatesNotFound",
    "BeforeFirstEvent",
    "BoundaryConflict",
    "BuiltMeanwhile",
    "CheckpointMissing",
    "ConcurrencyError",
    "EventNotFound",
    "EventStoreError",
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
    "OutcomeUnknown",
    "PastAggregate",
    "PositionNotAssigned",
    "PositionsBroken",
    "RebuildBroken",
    "ReducerError",
    "StoreUnavailable",
    "StreamClosed",
    "TransactionAborted",
    "TransactionsUnavailable",
    "UndecodableEvent",
    "UnexpectedState",
    "UnknownAggregateType",
    "UnknownEventVersion",
    "UnknownSubscription",
    "UpcasterError",
    "VersionNotFound",
]
