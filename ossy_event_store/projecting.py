"""
How events get into the documents of a projection, each exactly once.

A document carries the position of the last event in it, so an event that comes again
changes nothing.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, DocumentTooLarge

from . import mongo, parking
from .checkpoints import Lost
from .delivery import Park
from .faces import CODEC, Document, Documents
from .faults import DUPLICATE_KEY
from .folding import name_of, revision_of
from .mongo import Store, in_time
from .snapshots import MAX_BYTES
from .transactions import HandlerFailed, in_transaction

logger = logging.getLogger("ossy_event_store")


def check_key(key: object) -> None:
    """
    Refuse what cannot be the key of a document.

    Raises:
        TypeError: it is neither a string nor a number.
    """
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"A key is a string or a number, not {type(key).__name__}.")


def revision(cls: Any) -> str:
    """Return the name of the version of a projection, as ``revision_of`` a reducer."""
    return revision_of(cls)


def collection_name(name: str, generation: int) -> str:
    """Return the collection of one generation of a projection."""
    first = f"projection_{name}"
    return first if generation == 1 else f"{first}_{generation}"


class Writer:
    """
    Applies events to one generation of a projection.

    Args:
        store: one face of the store.
        session: that of its transactions.
        cls: the projection.
        generation: which; None takes the one in use.
    """

    size: int | None = None

    def __init__(
        self,
        store: Store,
        session: Any,
        cls: Any,
        generation: int | None = None,
    ) -> None:
        self._store = store
        self._session = session
        self._cls = cls
        self._generation = generation
        self._documents = self._of(generation or 1)

    def _of(self, generation: int) -> Documents:
        return mongo.documents(self._store, collection_name(self._cls.name, generation))

    async def begin(self, claimed: Document) -> int:
        """Return the position behind which to go on, in the generation in use."""
        if self._generation is None:
            self._documents = self._of(claimed["generation"])
        if claimed["revision"] != revision(self._cls):
            logger.warning(
                "Projection %s has changed since it was built, and goes on from what "
                "is there: run manage.py rebuild_projections %s.",
                self._cls.name,
                self._cls.name,
            )
        position: int = claimed["position"]
        return position

    async def deliver(
        self, events: Sequence[Document], after: int, fence: int, park: Park
    ) -> bool:
        """Apply events, and write each document once."""
        batch = _Batch(self._cls)
        for event, error in batch.sort(events):
            await park(event, error)
        while batch.keyed:
            with in_time():
                found = await self._documents.find({"_id": {"$in": list(batch.keyed)}})
            old = {document["_id"]: document for document in found}
            try:
                new = batch.fold(old)
            except _FailedAt as failed:
                # What is there is read anew, as the state may have been changed.
                await park(failed.event, failed.error)
                batch.leave_out(failed.event)
                continue
            await self._write([_request(old.get(key), one) for key, one in new.items()])
            break
        return False

    async def _write(self, requests: Sequence[Any]) -> None:
        if not requests:
            return
        try:
            with in_time():
                written = await self._documents.bulk_write(requests, ordered=False)
        except BulkWriteError as error:
            # Some may be written: to park a stream now, as if nothing of it had come,
            # would apply its later events twice.
            if any(map(_is_there, (error.details or {}).get("writeErrors", ()))):
                raise Lost from error  # another process wrote it first
            raise
        if written < len(requests):
            raise Lost

    async def redeliver(self, waits: Document, event: Document) -> None:
        """Apply the event of a parked stream, though later ones are in already."""
        batch = _Batch(self._cls)
        for _, error in batch.sort([event]):
            raise HandlerFailed(error)

        async def write() -> None:
            with in_time():
                for key in batch.keyed:
                    await self._apply_late(batch, key, event)
                if not await parking.advance(self._store, waits, event, self._session):
                    raise Lost

        await in_transaction(self._store, self._session, write)

    async def _apply_late(self, batch: _Batch, key: Any, event: Document) -> None:
        session = self._session
        old = await self._documents.find_one({"_id": {"$eq": key}}, session=session)
        stands = old["position"] if old else 0
        try:
            # The parked stream's place, not the document's, says that it is missing.
            new = batch.fold({key: {**old, "position": 0}} if old else {})[key]
        except _FailedAt as failed:
            raise HandlerFailed(failed.error) from failed.error
        new["position"] = max(stands, event["position"])
        new["late"] = _late(old) + 1  # the position may be the same
        document = _encoded(new)
        if old is None:
            await self._documents.insert_one(document, session=session)
        elif not await self._documents.replace_one(
            _as_read(old), document, session=session
        ):
            raise Lost

    async def settle(self, position: int) -> None:
        """Nothing to do: an event that comes again changes nothing."""


def _request(old: Document | None, new: Document) -> Any:
    document = _encoded(new)
    return InsertOne(document) if old is None else ReplaceOne(_as_read(old), document)


def _encoded(new: Document) -> Any:
    """
    Return a document as it is sent.

    Raises:
        HandlerFailed: MongoDB cannot hold it. Said of all before any is written.
    """
    try:
        encoded = bson.encode(new, codec_options=CODEC)
    except Exception as error:
        raise HandlerFailed(error) from error
    if len(encoded) > MAX_BYTES:
        raise HandlerFailed(DocumentTooLarge(f"{len(encoded):,} bytes are too many."))
    return RawBSONDocument(encoded)


def _is_there(failure: Mapping[str, Any]) -> bool:
    """Whether a document was not inserted as it is there by now."""
    # An index of somebody else's may refuse it as well.
    return failure["code"] == DUPLICATE_KEY and "_id" in failure.get("keyPattern", {})


def _as_read(old: Document) -> Document:
    """Return the filter for a document as it was read: who else writes took over."""
    return {
        "_id": {"$eq": old["_id"]},
        "position": old["position"],
        "late": old.get("late"),  # None also if it has none
    }


def _late(old: Document | None) -> int:
    """Return how many events of parked streams came late into a document."""
    late: int = (old or {}).get("late", 0)
    return late


class _FailedAt(Exception):
    def __init__(self, event: Document, error: BaseException) -> None:
        super().__init__(event, error)
        self.event = event
        self.error = error


class _Batch:
    """Some events on their way into the documents of a projection; pure."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls
        self.keyed: dict[Any, list[Document]] = {}

    def sort(self, events: Sequence[Document]) -> list[tuple[Document, BaseException]]:
        """Sort events by their keys; return those without one, and why."""
        key_of, keyed = self._cls.key, self.keyed
        failed: dict[str, tuple[Document, BaseException]] = {}
        for event in events:
            if failed and event["aggregateId"] in failed:
                continue
            try:
                key = key_of(event)
                if key is None:
                    continue
                if type(key) is not str:  # the usual one costs no call
                    check_key(key)
            except Exception as error:
                failed[event["aggregateId"]] = event, error
                continue
            if key in keyed:
                keyed[key].append(event)
            else:
                keyed[key] = [event]
        return list(failed.values())

    def leave_out(self, event: Document) -> None:
        """Leave an event out, and those of its stream that follow."""
        for key, events in list(self.keyed.items()):
            self.keyed[key] = [
                one
                for one in events
                if one["aggregateId"] != event["aggregateId"]
                or one["position"] < event["position"]
            ]

    def fold(self, old: Mapping[Any, Document]) -> dict[Any, Document]:
        """
        Return the documents that change, as they are then.

        Raises:
            _FailedAt: at the first event that cannot be applied.
        """
        changed = {}
        for key, events in self.keyed.items():
            document = old.get(key)
            stands = document["position"] if document else 0
            # They stand in order: mostly all of them are new.
            if events and events[0]["position"] > stands:
                new = events
            else:
                new = [event for event in events if event["position"] > stands]
            if new:
                state = self._apply(new, document)
                position = new[-1]["position"]
                changed[key] = {"_id": key, "state": state, "position": position}
                if document and "late" in document:
                    changed[key]["late"] = document["late"]
        return changed

    def _apply(self, events: Sequence[Document], document: Document | None) -> Any:
        apply = self._cls.apply
        state: Any = (
            document["state"]
            if document
            else copy.deepcopy(dict(self._cls.initial_state))
        )
        for event in events:
            try:
                state = apply(event, state)
                if type(state) is not dict and not isinstance(state, Mapping):
                    raise TypeError(
                        f"{name_of(self._cls)}.apply returned "
                        f"{type(state).__name__}, expected a dict."
                    )
            except Exception as error:
                raise _FailedAt(event, error) from error
        return state
