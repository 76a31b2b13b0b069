"""
Append events to a stream: all or none, and exactly once.

Ids and ``created`` are fixed before the first attempt, so that each further attempt
is the same write. If an outcome is unclear, a read that waits for all writes of the
primary finds out whether an earlier attempt succeeded. The unique index on stream
and version decides races between writers; the unique ``_id`` recognizes repetitions.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Any, TypeVar

from pymongo.errors import (
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from ..conf import get_settings
from ..documents.bson_types import Document
from ..documents.event_document import differences, read_event
from ..exceptions import (
    AggregateTypeMismatch,
    BoundaryConflict,
    ConcurrencyError,
    IdempotencyConflict,
    InvalidEvent,
    OutcomeUnknown,
    StoreUnavailable,
    TransactionsUnavailable,
)
from ..mongodb.connection import Store
from ..mongodb.deadline import time_is_up
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
from .new_events import NewEvents

T = TypeVar("T")

_VERSION = {"aggregateId", "aggregateVersion"}
_PLACES = {"places.t", "places.n"}
_OWN_INDEXES = ({"_id"}, _VERSION, _PLACES)
_HEAD = {"_id": 0, "aggregateVersion": 1, "aggregateType": 1, "tick": 1}


async def stream_head(store: Store, aggregate_id: str) -> Document | None:
    """Return the version, type and tick of a stream's last event, or None."""
    return await store.events.find_one(
        {"aggregateId": {"$eq": aggregate_id}},
        projection=_HEAD,
        sort=[("aggregateVersion", -1)],
    )


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
    """

    async def append_once() -> list[Document]:
        first, last = documents[0], None
        if placing is not None:
            guess = expected_version is None and not store.outside
            last = await placing.read_stream(store, guess=guess)
        elif expected_version != 0:
            last = await stream_head(store, first["aggregateId"])
        version = _version_before(first, expected_version, last)
        tick = (last or {}).get("tick")
        return await append(store, _numbered(documents, version, tick), placing)

    if expected_version is not None:
        return await append_once()
    return await until_won(store, documents[0]["aggregateId"], append_once)


async def until_won(
    store: Store,
    aggregate_id: str,
    attempt_once: Callable[[], Awaitable[T]],
    most: int | None = None,
) -> T:
    """
    Repeat an attempt after each race that it lost on the stream.

    Args:
        store: one face of the store; the caller bounds the time.
        aggregate_id: the stream; a race lost on another stream is not repeated.
        attempt_once: reads where the stream ends, and appends there.
        most: how often at most; None until the time is up.

    Raises:
        ConcurrencyError: of the last race, when attempts or time are used up; at
            once inside the caller's transaction, which a lost race aborts.
    """
    lost: ConcurrencyError | None = None
    ticket = store.turns.place(aggregate_id, get_settings().TIMEOUT / 4)
    try:
        if ticket.is_wanted:
            await ticket.take()
        for attempt in attempts():
            try:
                return await attempt_once()
            except ConcurrencyError as error:
                is_this_stream = error.aggregate_id == aggregate_id
                if not is_this_stream or store.outside or attempt == most:
                    raise
                lost = error
            except PyMongoError as error:
                if lost is not None and error.timeout:
                    raise lost from None
                raise
            if not await ticket.take():  # the rivals are other processes
                await pause_before(store, attempt)
    finally:
        ticket.leave()
    raise AssertionError("unreachable")  # pragma: no cover


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
    _check_ids(documents)
    if placing is None and documents.take_places:
        placing = Placing(documents)
    if store.outside:
        return await _append_joined(store, store.outside, documents, placing)
    if placing is None:
        return await _until_stored(store, documents)
    async with TagTurn(store, placing.names) as turn:
        return await _until_stored(store, documents, placing, turn)


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
            if (found := await _find_stored(store, documents)) is None:
                raise
            return found
    except PyMongoError as error:
        if may_be_stored:
            raise OutcomeUnknown(_ids(documents)) from error
        raise
    return None


def _fault(error: PyMongoError) -> Fault:
    if lacks_transactions(error):
        raise TransactionsUnavailable from None
    pattern = key_pattern(error)
    if pattern and set(pattern) not in _OWN_INDEXES:
        return Fault.FATAL  # a unique index that the project added
    return classify(error)


def _check_ids(documents: NewEvents) -> None:
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
        found = await _find_stored(store, documents)
    except PyMongoError as other:
        # The client was closed meanwhile, which hides what became of an attempt.
        if other.timeout or isinstance(other, InvalidOperation):
            raise OutcomeUnknown(_ids(documents)) from other
        raise error from None
    if found is None:
        _refuse_foreign(error)
        raise error
    return found


def _refuse_foreign(error: PyMongoError) -> None:
    """Raise if a unique index that the project added has refused an event."""
    pattern = key_pattern(error)
    if pattern and set(pattern) not in _OWN_INDEXES:
        raise InvalidEvent(*foreign_index(pattern)) from None


async def _find_stored(store: Store, documents: NewEvents) -> list[Document] | None:
    ids = {"_id": {"$in": _ids(documents)}}
    found = await store.client.find_after_all_writes(store.events, ids)
    return _same_events(found, documents) if found else None


def _ids(documents: Sequence[Document]) -> list[Any]:
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
            await _check_race(store, documents[0])
            # The event that has the version is not on a majority yet.
        if (found := await _find_stored(store, documents)) is not None:
            return found
        await _check_race(store, documents[0])
    except PyMongoError as error:
        final = error.timeout or classify(error) is Fault.FATAL
        if final and lost:
            raise  # the winner is unknown, but nothing is stored
        if final:
            raise OutcomeUnknown(_ids(documents)) from error
    return None


def _same_events(found: list[Document], sent: NewEvents) -> list[Document]:
    """Return the events stored under the ids of ``sent``, if they are the same."""
    stored = {event["_id"]: read_event(event) for event in found}
    for event, given in zip(sent, sent.given, strict=True):
        if event["_id"] not in stored:
            raise IdempotencyConflict(next(iter(stored)), ["set of events"])
        if different := differences(stored[event["_id"]], event, given):
            raise IdempotencyConflict(event["_id"], different)
    return [stored[event["_id"]] for event in sent]


async def _check_race(store: Store, first: Document) -> None:
    last = await stream_head(store, first["aggregateId"])
    actual = last["aggregateVersion"] if last else 0
    expected = first["aggregateVersion"] - 1
    if actual != expected:
        raise ConcurrencyError(first["aggregateId"], expected, actual)


async def _append_joined(
    store: Store, outside: Store, documents: NewEvents, placing: Placing | None
) -> list[Document]:
    """
    Append inside a transaction that the caller began and will commit.

    A failed write aborts that transaction on the server, so ids are looked up
    before it, and nothing is repeated.
    """
    if found := await store.events.find({"_id": {"$in": _ids(documents)}}):
        return _same_events(found, documents)
    await look(store, STREAM_VERSIONS)
    if placing is not None:
        await placing.assign(store)
    try:
        await store.events.insert_many(documents)
    except PyMongoError as error:
        _refuse_foreign(error)
        if placing is not None and set(key_pattern(error) or ()) == _PLACES:
            raise StoreUnavailable(
                "the transaction was aborted, as another writer took the next number "
                f"in {key_value(error).get('places.t')!r}; run it again"
            ) from error
        is_conflict = (
            isinstance(error, OperationFailure) and error.code == WRITE_CONFLICT
        )
        if is_conflict or classify(error) is Fault.DUPLICATE:
            await _check_race(outside, documents[0])
        if is_conflict:  # with a transaction that is still open
            version = documents[0]["aggregateVersion"]
            raise ConcurrencyError(
                documents[0]["aggregateId"], version - 1, version
            ) from error
        raise
    return documents


def attempts() -> Iterable[int]:
    """Count the attempts, from 1."""
    attempt = 0
    while True:  # until the caller's time is up
        attempt += 1
        yield attempt


async def pause_before(store: Store, attempt: int) -> None:
    """Pause before the attempt after this one."""
    await store.client.pause(_backoff(attempt))


def _backoff(attempt: int) -> float:
    """Return the seconds to wait: jittered, doubling from 5 ms to 0.5 s."""
    return random.uniform(0.5, 1) * min(0.5, 0.005 * 2.0 ** min(attempt, 10))  # noqa: S311
