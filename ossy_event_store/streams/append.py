"""
The append: store some events of one stream, all or none, exactly once.

Ids and ``created`` are fixed before the first try, so that every later try is the
same write. When an outcome is unclear, a read that waits for everything the
primary has tells whether an earlier try got through. The unique index on stream
and version settles races between writers; the unique ``_id`` settles repeats.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from pymongo.errors import ExecutionTimeout, PyMongoError

from ..conf import get_settings
from ..documents.bson_types import Document
from ..documents.event_document import differences, read_event
from ..exceptions import (
    AggregateTypeMismatch,
    ConcurrencyError,
    IdempotencyConflict,
    InvalidEvent,
    OutcomeUnknown,
    TransactionsUnavailable,
)
from ..mongodb.connection import Store
from ..mongodb.deadline import time_is_up
from ..mongodb.write_errors import Fault, classify, key_pattern, lacks_transactions

T = TypeVar("T")

_VERSION = {"aggregateId", "aggregateVersion"}
_OWN_INDEXES = ({"_id"}, _VERSION)
_HEAD = {"_id": 0, "aggregateVersion": 1, "aggregateType": 1}


async def head(store: Store, aggregate_id: str) -> Document | None:
    """Return version and type of the last event of a stream, or None."""
    return await store.events.find_one(
        {"aggregateId": {"$eq": aggregate_id}},
        projection=_HEAD,
        sort=[("aggregateVersion", -1)],
    )


async def append_at(
    store: Store, documents: list[Document], expected_version: int | None
) -> list[Document]:
    """
    Append for a caller who has not loaded the stream.

    Args:
        store: one face of the store.
        documents: events of one stream in order; their versions are set here.
        expected_version: 0 for a new stream, n for exactly there, None for
            wherever the stream ends.

    Raises:
        ConcurrencyError: the stream is elsewhere, or every try lost its race until
            the time was up.
        AggregateTypeMismatch: the stream belongs to another type.
    """

    async def once() -> list[Document]:
        version = await _start(store, documents[0], expected_version)
        return await append(store, _numbered(documents, version))

    if expected_version is not None:
        return await once()
    return await until_won(store, documents[0]["aggregateId"], once)


async def until_won(
    store: Store,
    aggregate_id: str,
    once: Callable[[], Awaitable[T]],
    attempts: int | None = None,
) -> T:
    """
    Run ``once`` again after each race that it lost on the stream.

    Args:
        store: one face of the store; the caller bounds the time.
        aggregate_id: the stream; a race lost on another one is not ours to repeat.
        once: reads where the stream is, and appends there.
        attempts: how often at most; None until the time is up.

    Raises:
        ConcurrencyError: of the last race, when attempts or time are used up, or
            at once in a transaction of somebody else, which a lost race ends.
    """
    lost: ConcurrencyError | None = None
    place = store.turns.place(aggregate_id, get_settings().TIMEOUT / 4)
    try:
        if place.is_wanted:
            await place.take()
        for attempt in _attempts():
            try:
                return await once()
            except ConcurrencyError as error:
                ours = error.aggregate_id == aggregate_id
                if not ours or store.outside or attempt == attempts:
                    raise
                lost = error
            except PyMongoError as error:
                if lost is not None and error.timeout:
                    raise lost from None
                raise
            if not await place.take():  # the others are of another process
                await store.client.pause(_backoff(attempt))
    finally:
        place.leave()
    raise AssertionError("unreachable")  # pragma: no cover


async def _start(store: Store, event: Document, expected: int | None) -> int:
    """Return the version after which to append: never one that is not there."""
    if expected == 0:
        return 0
    aggregate_id = event["aggregateId"]
    last = await head(store, aggregate_id)
    if last and last["aggregateType"] != event["aggregateType"]:
        raise AggregateTypeMismatch(
            aggregate_id, event["aggregateType"], last["aggregateType"]
        )
    version: int = last["aggregateVersion"] if last else 0
    if expected is None:
        return version
    if version < expected:
        raise ConcurrencyError(aggregate_id, expected, version)
    return expected  # if the stream is further, the write itself finds out how


def _numbered(documents: list[Document], after: int) -> list[Document]:
    for version, document in enumerate(documents, after + 1):
        document["aggregateVersion"] = version
    return documents


async def append(store: Store, documents: list[Document]) -> list[Document]:
    """
    Store the documents, all or none, and return them as stored.

    Args:
        store: one face of the store; the caller bounds the time.
        documents: built events of one stream, with the versions that follow the
            one the caller knows to be there.

    Returns:
        The documents, or those stored by an earlier try with the same ids.

    Raises:
        ConcurrencyError: another event has one of the versions.
        IdempotencyConflict: an event of one of the ids is stored with other content.
        OutcomeUnknown: the time ran out before it was clear.
        TransactionsUnavailable: several events, and the server has no transactions.
    """
    _check_ids(documents)
    if store.outside:
        return await _append_joined(store, store.outside, documents)
    uncertain = False
    for attempt in _attempts():
        if time_is_up() and not uncertain:
            raise ExecutionTimeout("the time was up before the events could be stored")
        try:
            await _insert(store, documents)
            return documents
        except PyMongoError as error:
            fault = _fault(error)
            if fault is Fault.UNSENT and not uncertain:
                raise
            if fault is Fault.FATAL:
                return await _stored_all_the_same(store, documents, error)
            uncertain = uncertain or fault is Fault.UNKNOWN
            # The index on _id refuses first: then no event of ours is there.
            lost = not uncertain and set(key_pattern(error) or ()) == _VERSION
        settled = await _settle(store, documents, lost)
        if settled is not None:
            return settled
        await store.client.pause(_backoff(attempt))
    raise AssertionError("unreachable")  # pragma: no cover


def _fault(error: PyMongoError) -> Fault:
    if lacks_transactions(error):
        raise TransactionsUnavailable from None
    pattern = key_pattern(error)
    if pattern and set(pattern) not in _OWN_INDEXES:
        return Fault.FATAL  # a unique index that the users of the store added
    return classify(error)


def _check_ids(documents: list[Document]) -> None:
    if len({event["_id"] for event in documents}) < len(documents):
        raise InvalidEvent("id", "two events of one append have the same id")


async def _insert(store: Store, documents: list[Document]) -> None:
    if len(documents) == 1:
        await store.events.insert_one(documents[0])
    else:
        await store.client.in_transaction(store.events, documents)


async def _stored_all_the_same(
    store: Store, documents: list[Document], error: PyMongoError
) -> list[Document]:
    """
    Return the events if they are stored though the write was refused for good.

    What was refused may be the driver's own repetition of a try that got through.
    """
    try:
        found = await _find_stored(store, documents)
    except PyMongoError as other:
        if other.timeout:
            raise OutcomeUnknown(_ids(documents)) from None
        raise error from None
    if found is None:
        raise error
    return found


async def _find_stored(
    store: Store, documents: list[Document]
) -> list[Document] | None:
    ids = {"_id": {"$in": _ids(documents)}}
    found = await store.client.find_after_all_writes(store.events, ids)
    return _same_events(found, documents) if found else None


def _ids(documents: Sequence[Document]) -> list[Any]:
    return [event["_id"] for event in documents]


async def _settle(
    store: Store, documents: list[Document], lost: bool
) -> list[Document] | None:
    """
    Return the events if they are stored, None if the write is to be tried again.

    Args:
        store: one face of the store.
        documents: what was to be stored.
        lost: whether none of them can be there, since another has a version.
    """
    try:
        if lost:
            await _check_race(store, documents[0])
            # It is taken by an event that a majority does not have yet.
        if (found := await _find_stored(store, documents)) is not None:
            return found
        await _check_race(store, documents[0])
    except PyMongoError as error:
        final = error.timeout or classify(error) is Fault.FATAL
        if final and lost:
            raise  # by whom is not known, but nothing is stored
        if final:
            raise OutcomeUnknown(_ids(documents)) from None
    return None


def _same_events(found: list[Document], sent: Sequence[Document]) -> list[Document]:
    """Return what is stored under the ids of ``sent``, if it is the same."""
    stored = {event["_id"]: read_event(event) for event in found}
    for event in sent:
        if event["_id"] not in stored:
            raise IdempotencyConflict(next(iter(stored)), ["set of events"])
        if different := differences(stored[event["_id"]], event):
            raise IdempotencyConflict(event["_id"], different)
    return [stored[event["_id"]] for event in sent]


async def _check_race(store: Store, first: Document) -> None:
    last = await head(store, first["aggregateId"])
    actual = last["aggregateVersion"] if last else 0
    expected = first["aggregateVersion"] - 1
    if actual != expected:
        raise ConcurrencyError(first["aggregateId"], expected, actual)


async def _append_joined(
    store: Store, outside: Store, documents: list[Document]
) -> list[Document]:
    """
    Append inside a transaction that somebody else began and will commit.

    A write that fails ends that transaction on the server, so ids are looked up
    before it, and nothing is tried again.
    """
    if found := await store.events.find({"_id": {"$in": _ids(documents)}}):
        return _same_events(found, documents)
    try:
        await store.events.insert_many(documents)
    except PyMongoError as error:
        if classify(error) is Fault.DUPLICATE:
            await _check_race(outside, documents[0])
        raise
    return documents


def _attempts() -> Iterable[int]:
    attempt = 0
    while True:  # the caller's time-out ends it
        attempt += 1
        yield attempt


def _backoff(attempt: int) -> float:
    """Return seconds to wait: jittered, doubling from 5 ms to 0.5 s."""
    return random.uniform(0.5, 1) * min(0.5, 0.005 * 2.0**attempt)  # noqa: S311
