"""
Append events to a stream: all or none, and exactly once.

Ids and ``created`` are fixed before the first attempt, so that each further attempt
is the same write. If an outcome is unclear, a read that waits for all writes of the
primary finds out whether an earlier attempt succeeded. The unique index on stream
and version decides races between writers; the unique ``_id`` recognizes repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from pymongo.errors import (
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from ..documents.bson_types import Document
from ..documents.event_document import differences, read_event
from ..exceptions import (
    AggregateTypeMismatch,
    BoundaryConflict,
    ConcurrencyError,
    IdempotencyConflict,
    InvalidEvent,
    InvalidTransaction,
    OutcomeUnknown,
    StreamClosed,
    TransactionAborted,
    TransactionsUnavailable,
)
from ..mongodb.connection import Store
from ..mongodb.deadline import time_is_up, transaction_of_block
from ..mongodb.indexes import STREAM_VERSIONS, look
from ..mongodb.write_errors import (
    WRITE_CONFLICT,
    Fault,
    classify,
    foreign_index,
    key_pattern,
    key_value,
    lacks_transactions,
)
from .boundaries.placing import Placing
from .boundaries.turns import TagTurn
from .closing.checks import is_closing, raise_if_closed
from .context.signing import sign
from .new_events import NewEvents
from .races.repeating import attempts, pause_before, until_won

_VERSION = {"aggregateId", "aggregateVersion"}
_PLACES = {"places.t", "places.n"}
_OWN_INDEXES = ({"_id"}, _VERSION, _PLACES)
_OF_HEAD = ("aggregateId", "aggregateVersion", "aggregateType", "type", "tick")
_HEAD = {"_id": 0, **dict.fromkeys(_OF_HEAD, 1)}


async def stream_head(store: Store, aggregate_id: str) -> Document | None:
    """Return id, version, types and tick of a stream's last event, or None."""
    if store.unit is not None and (own := store.unit.ends.get(aggregate_id)):
        return own  # type: ignore[no-any-return]
    return await store.events.find_one(
        {"aggregateId": {"$eq": aggregate_id}},
        projection=_HEAD,
        sort=[("aggregateVersion", -1)],
    )


async def _settled_head(store: Store, aggregate_id: str) -> Document | None:
    """
    Return a stream's last event after every write that the primary has now.

    A primary that was just elected may not know for seconds what a majority has.
    """
    query = {"aggregateId": {"$eq": aggregate_id}}
    order = [("aggregateVersion", -1)]
    found = await store.client.find_after_all_writes(
        store.events, query, projection=_HEAD, sort=order, limit=1
    )
    return found[0] if found else None


async def append_at(
    store: Store,
    documents: NewEvents,
    expected_version: int | None,
    placing: Placing | None = None,
) -> list[Document]:
    """
    Append to a stream that the caller has not loaded.

    Args:
        store: one face of the store.
        documents: events of one stream in order; their versions are set here.
        expected_version: 0 for a new stream, n for a stream that ends there, None
            for the end of the stream, wherever that is.
        placing: the places that the events take and their condition; None without.

    Raises:
        BoundaryConflict: events match the condition that the decision did not know.
        ConcurrencyError: the stream ends elsewhere, or every attempt lost its race
            until the time was up.
        AggregateTypeMismatch: the stream belongs to another type.
        StreamClosed: the stream has ended.
    """

    async def append_once() -> list[Document]:
        first, last = documents[0], None
        if placing is not None:
            guess = expected_version is None and not store.outside
            last = await placing.read_stream(store, guess=guess)
        elif expected_version != 0:
            last = await stream_head(store, first["aggregateId"])
        is_short = (last or {}).get("aggregateVersion", 0) < (expected_version or 0)
        if is_short and not store.outside:
            last = await _settled_head(store, first["aggregateId"])
        if is_closing(last):
            await raise_if_closed(store, last)
        version = _version_before(first, expected_version, last)
        tick = (last or {}).get("tick")
        return await append(store, _numbered(documents, version, tick), placing)

    await sign(store, documents)
    try:
        if expected_version is not None:
            return await append_once()
        return await until_won(store, documents[0]["aggregateId"], append_once)
    except StreamClosed as error:
        return await stored_before(store, documents, error)


def _version_before(
    event: Document, expected: int | None, last: Document | None
) -> int:
    """
    Return the version after which to append: never one that does not exist.

    Args:
        event: the first of the events.
        expected: the version that the caller expects; None for any.
        last: the last event of the stream, if it has one.
    """
    if expected == 0:
        return 0
    aggregate_id = event["aggregateId"]
    if last and last["aggregateType"] != event["aggregateType"]:
        raise AggregateTypeMismatch(
            aggregate_id, event["aggregateType"], last["aggregateType"]
        )
    version: int = last["aggregateVersion"] if last else 0
    if expected is None:
        return version
    if version < expected:
        raise ConcurrencyError(aggregate_id, expected, version)
    return expected  # if the stream is longer, the write itself is refused


def _numbered(documents: NewEvents, after: int, tick: int | None) -> NewEvents:
    for number, document in enumerate(documents, 1):
        document["aggregateVersion"] = after + number
        if tick is not None:
            document["tick"] = tick + number
    return documents


async def append(
    store: Store, documents: NewEvents, placing: Placing | None = None
) -> list[Document]:
    """
    Store the documents, all or none, and return them as stored.

    Args:
        store: one face of the store; the caller bounds the time.
        documents: built events of one stream, whose versions follow one that the
            caller knows to exist.
        placing: the places that they take; None finds out.

    Returns:
        The documents, or those that an earlier attempt stored with the same ids.

    Raises:
        ConcurrencyError: another event has one of the versions.
        BoundaryConflict: events match the condition that the decision did not know.
        IdempotencyConflict: one of the ids is stored with other content.
        InvalidEvent: a unique index that the project added refuses an event.
        IndexMissing: nothing would keep another writer from the same versions.
        OutcomeUnknown: the time ran out before the outcome was clear.
        TransactionsUnavailable: several events, and the server has no transactions.
    """
    check_ids(documents)
    await sign(store, documents)
    if placing is None and documents.take_places:
        placing = Placing(documents)
    if store.outside:
        return await _append_joined(store, store.outside, documents, placing)
    _check_session()
    if placing is None:
        return await _until_stored(store, documents)
    async with TagTurn(store, placing.names) as turn:
        return await _until_stored(store, documents, placing, turn)


def _check_session() -> None:
    unit = transaction_of_block.get()
    if unit is not None and unit.is_open:
        raise InvalidTransaction(
            "This append is inside a transaction() block, but not in its transaction: "
            "it would stay if that is rolled back. Pass session=t.session, or append "
            "after the block."
        )


async def _until_stored(
    store: Store,
    documents: NewEvents,
    placing: Placing | None = None,
    turn: TagTurn | None = None,
) -> list[Document]:
    may_be_stored = False
    for attempt in attempts():
        if time_is_up() and not may_be_stored:
            raise ExecutionTimeout("the time was up before the events could be stored")
        if found := await _place(store, documents, placing, may_be_stored):
            return found
        try:
            await _insert(store, documents)
            return documents
        except PyMongoError as error:
            fault = _fault(error)
            if fault is Fault.UNSENT and not may_be_stored:
                raise
            if fault is Fault.FATAL:
                return await _stored_nevertheless(store, documents, error)
            may_be_stored = may_be_stored or fault is Fault.UNKNOWN
            # The index on _id refuses first, so none of these events is stored.
            refused = {} if may_be_stored else key_value(error)
        if settled := await _settle(store, documents, set(refused)):
            return settled
        await _wait(store, turn, refused.get("places.t"), attempt)
    raise AssertionError("unreachable")  # pragma: no cover


async def _wait(
    store: Store, turn: TagTurn | None, name: str | None, attempt: int
) -> None:
    """Wait for the turn in the tag whose race was lost, or else a moment."""
    if turn is None or name is None or not await turn.take(name):
        await pause_before(store, attempt)


async def _place(
    store: Store, documents: NewEvents, placing: Placing | None, may_be_stored: bool
) -> list[Document] | None:
    """
    Give the documents their places, if they take any.

    Returns:
        The events if they are stored already: a condition does not refuse them again.
    """
    if placing is None:
        return None
    try:
        try:
            await placing.assign(store)
        except BoundaryConflict:
            if not may_be_stored and not documents.have_own_ids:
                raise
            if (found := await find_stored(store, documents)) is None:
                raise
            return found
    except PyMongoError as error:
        if may_be_stored:
            raise OutcomeUnknown(event_ids(documents)) from error
        raise
    return None


def _fault(error: PyMongoError) -> Fault:
    if lacks_transactions(error):
        raise TransactionsUnavailable from None
    pattern = key_pattern(error)
    if pattern and set(pattern) not in _OWN_INDEXES:
        return Fault.FATAL  # a unique index that the project added
    return classify(error)


def check_ids(documents: NewEvents) -> None:
    """Refuse events of one append that have the same id."""
    if len({event["_id"] for event in documents}) < len(documents):
        raise InvalidEvent("id", "two events of one append have the same id")


async def _insert(store: Store, documents: NewEvents) -> None:
    await look(store, STREAM_VERSIONS)
    if len(documents) == 1:
        await store.events.insert_one(documents[0])
    else:
        await store.client.in_transaction(store.events, documents)


async def _stored_nevertheless(
    store: Store, documents: NewEvents, error: PyMongoError
) -> list[Document]:
    """
    Return the events if they are stored although the server refused the write.

    It may have refused the driver's own repetition of an attempt that succeeded.
    """
    try:
        found = await find_stored(store, documents)
    except PyMongoError as other:
        # The client was closed meanwhile, which hides what became of an attempt.
        if other.timeout or isinstance(other, InvalidOperation):
            raise OutcomeUnknown(event_ids(documents)) from other
        raise error from None
    if found is None:
        refuse_foreign(error)
        raise error
    return found


def refuse_foreign(error: PyMongoError) -> None:
    """Raise if a unique index that the project added has refused an event."""
    pattern = key_pattern(error)
    if pattern and set(pattern) not in _OWN_INDEXES:
        raise InvalidEvent(*foreign_index(pattern)) from None


async def stored_before(
    store: Store, documents: NewEvents, error: StreamClosed
) -> list[Document]:
    """Return the events if an earlier call has stored them; else raise the error."""
    found = await find_stored(store, documents) if documents.have_own_ids else None
    if found is None:
        raise error
    return found


async def find_stored(store: Store, documents: NewEvents) -> list[Document] | None:
    """Return the events as they are stored under their ids, if they are."""
    ids = {"_id": {"$in": event_ids(documents)}}
    found = await store.client.find_after_all_writes(store.events, ids)
    return same_events(found, documents) if found else None


def event_ids(documents: Sequence[Document]) -> list[Any]:
    """Return the ids of some events."""
    return [event["_id"] for event in documents]


async def _settle(
    store: Store, documents: NewEvents, refused: Set[str]
) -> list[Document] | None:
    """
    Return the events if they are stored, None if the write has to be repeated.

    Args:
        store: one face of the store.
        documents: the events of the write.
        refused: the keys of the index that refused it, if none of them can be stored.
    """
    if refused == _PLACES:
        return None  # another event has the number in a tag; the next one may be free
    lost = refused == _VERSION
    try:
        if lost:
            await _check_race(store, documents[0], is_settled=False)
            # The event that has the version is not on a majority yet.
        if (found := await find_stored(store, documents)) is not None:
            return found
        await _check_race(store, documents[0])
    except PyMongoError as error:
        final = error.timeout or classify(error) is Fault.FATAL
        if final and lost:
            raise  # the winner is unknown, but nothing is stored
        if final:
            raise OutcomeUnknown(event_ids(documents)) from error
    return None


def same_events(found: list[Document], sent: NewEvents) -> list[Document]:
    """Return the events stored under the ids of ``sent``, if they are the same."""
    stored = {event["_id"]: read_event(event) for event in found}
    for event, given in zip(sent, sent.given, strict=True):
        if event["_id"] not in stored:
            raise IdempotencyConflict(next(iter(stored)), ["set of events"])
        if different := differences(stored[event["_id"]], event, given):
            raise IdempotencyConflict(event["_id"], different)
    return [stored[event["_id"]] for event in sent]


async def _check_race(store: Store, first: Document, is_settled: bool = True) -> None:
    last = await stream_head(store, first["aggregateId"])
    actual = last["aggregateVersion"] if last else 0
    expected = first["aggregateVersion"] - 1
    if actual > expected or (is_settled and actual < expected):
        await raise_if_closed(store, last)
        raise ConcurrencyError(first["aggregateId"], expected, actual)


async def _append_joined(
    store: Store, outside: Store, documents: NewEvents, placing: Placing | None
) -> list[Document]:
    """
    Append inside a transaction that the caller began and will commit.

    A failed write aborts that transaction on the server, so ids are looked up
    before it, and nothing is repeated.
    """
    if store.unit is not None:
        condition = placing.guarding if placing is not None else None
        taken: list[Document] = await store.unit.append(documents, condition)
        return taken
    if found := await store.events.find({"_id": {"$in": event_ids(documents)}}):
        return same_events(found, documents)
    await look(store, STREAM_VERSIONS)
    if placing is not None:
        await placing.assign(store)
    try:
        await store.events.insert_many(documents)
    except PyMongoError as error:
        refuse_foreign(error)
        if placing is not None and set(key_pattern(error) or ()) == _PLACES:
            raise TransactionAborted(
                "another writer took the next number in "
                f"{key_value(error).get('places.t')!r}"
            ) from error
        await _check_races(outside, documents, error)
        raise
    return documents


async def _check_races(
    outside: Store, documents: NewEvents, error: PyMongoError
) -> None:
    """Raise if a write in the caller's transaction was refused for a lost race."""
    is_conflict = isinstance(error, OperationFailure) and error.code == WRITE_CONFLICT
    if is_conflict or classify(error) is Fault.DUPLICATE:
        for first in {one["aggregateId"]: one for one in documents[::-1]}.values():
            await _check_race(outside, first)
    if is_conflict:  # with a transaction that is still open
        stream, version = documents[0]["aggregateId"], documents[0]["aggregateVersion"]
        raise ConcurrencyError(stream, version - 1, version) from error
