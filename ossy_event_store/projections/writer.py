"""
Write a projection: apply events to its documents, each exactly once.

The documents that some events change, the streams that they park and the checkpoint
move in one transaction, under the fence of the claim.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, DocumentTooLarge

from ..documents.bson_types import CODEC, Document
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import ONE_BATCH, Documents, bytes_of
from ..mongodb.write_errors import DUPLICATE_KEY
from ..streams.reducers import pass_on_what_ends
from ..streams.snapshots import MAX_BYTES
from ..subscriptions import checkpoints, parked_streams
from ..subscriptions.checkpoints import ClaimLost
from ..subscriptions.declaration import Subscription
from ..subscriptions.delivery import Delivered, Delivery, TooLarge
from ..subscriptions.transactions import (
    HandlerFailed,
    in_transaction,
    is_away,
    is_overtaken,
)
from .fold import Fold
from .generations import LATE_DELETIONS, collection_name, revision

logger = logging.getLogger("ossy_event_store")

UNLIMITED_EVENTS = 1000  # a limit that grew this far is lifted
KEYS_PER_READ = 2000  # keys of documents that one query names
DISK_FULL = 14031


class Writer(Delivery):
    """
    Applies events to one generation of a projection.

    Args:
        store: one face of the store.
        session: that of its transactions.
        declared: the subscription of the projection, or of a build.
        generation: its number; None takes the one in use.
    """

    #: The pure part: how events become documents.
    fold_class = Fold
    #: Bytes that one transaction writes at most, unless one document has more.
    transaction_bytes = 16_000_000

    def __init__(
        self,
        store: Store,
        session: Any,
        declared: Subscription,
        generation: int | None = None,
    ) -> None:
        super().__init__(store, session, declared)
        self._cls = declared.handler
        self._generation = generation
        self._documents = self._of(generation or 1)

    def _of(self, generation: int) -> Documents:
        return connection.documents(
            self._store, collection_name(self._cls.name, generation)
        )

    async def begin(self, claimed: Document) -> int:
        """Return the position after which to start, in the generation in use."""
        if self._generation is None:
            self._documents = self._of(claimed["generation"])
        if claimed["revision"] != revision(self._cls):
            logger.warning(
                "The class of projection %s, or an upcaster of its events, has changed "
                "since its documents were built; new events are added to the old "
                "documents. Run manage.py rebuild_projections %s.",
                self._cls.name,
                self._cls.name,
            )
        return await super().begin(claimed)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Apply events, and write each document once."""
        fold = self.fold_class(self._cls, events)
        if not fold.keys and not fold.failed:
            return Delivered(moved=False)
        try:
            old = await self._apply(fold, may_split=len(events) > 1)
        except TooLarge:
            self.size = len(events) // 2
            raise
        requests, size = _requests(fold.changed(), fold.deleted(), old)
        late = [at for key, at in fold.deleted().items() if "late" in old.get(key, {})]
        if size > self.transaction_bytes and len(events) > 1:
            self.size = len(events) // 2
            raise TooLarge
        parked = list(fold.failed.values())
        changes: Document = {"position": after}
        if parked:
            last = parked[-1]
            changes["lastError"] = checkpoints.error_record(last.error, last.event)
        # Before the time for the writes begins.
        documents = [parked_streams.document_of(self._name, one) for one in parked]

        async def write() -> None:
            with in_time():
                # First: a process that was overtaken writes nothing.
                await checkpoints.move(
                    self._store,
                    self._name,
                    self._fence,
                    changes,
                    len(events),
                    self._session,
                )
                if parked:
                    await parked_streams.park_all(self._store, self._session, documents)
                await self._write(requests)
                await self._note_late_deletions(late)

        await in_transaction(self._store, self._session, write)
        if self.size is not None and size < self.transaction_bytes // 4:
            # Take more events again, in the end without a limit.
            self.size = 2 * self.size if self.size < UNLIMITED_EVENTS else None
        return Delivered(moved=True, parked=parked)

    async def _apply(self, fold: Fold, *, may_split: bool) -> dict[Any, Document]:
        """Apply the events of a fold; return the documents as they are stored."""
        old = await self._find(fold.keys, may_split=may_split)
        fold.load(old)
        while spoiled := fold.advance():
            found = await self._find(spoiled)
            for key in spoiled:
                fold.restore(key, found.get(key))
        return old

    async def _find(
        self, keys: Collection[Any], *, may_split: bool = False
    ) -> dict[Any, Document]:
        """
        Return the documents of these keys that are stored.

        Raises:
            TooLarge: they are more than one transaction may write; if ``may_split``.
        """
        every, size = list(keys), 0
        documents: dict[Any, Document] = {}
        for at in range(0, len(every), KEYS_PER_READ):
            query = {"_id": {"$in": every[at : at + KEYS_PER_READ]}}
            found = self._documents.batches(query, ONE_BATCH, session=self._session)
            with in_time():
                async with aclosing(found) as batches:
                    async for batch in batches:
                        documents.update((one["_id"], one) for one in batch)
                        size += bytes_of(batch)
                        if may_split and size > self.transaction_bytes:
                            raise TooLarge
        return documents

    async def _write(self, requests: Sequence[Any]) -> None:
        if not requests:
            return
        try:
            written = await self._documents.bulk_write(
                requests, ordered=False, session=self._session
            )
        except BulkWriteError as error:
            failures = (error.details or {}).get("writeErrors", ())
            if any(map(_is_taken_key, failures)):
                raise ClaimLost from error  # another program inserted it
            if is_away(error) or is_overtaken(error) or not _is_refused(failures):
                raise
            raise HandlerFailed(error) from error
        if written < len(requests):
            raise ClaimLost

    async def _note_late_deletions(self, positions: Sequence[int]) -> None:
        """
        Note events that deleted a document out of order, in the open transaction.

        No document tells ``verify_event_store`` any more that a retry was late.
        """
        if positions:
            some = {"$each": list(positions), "$slice": LATE_DELETIONS}
            await self._store.subscriptions.update_one(
                {"_id": {"$eq": self._name}},
                {"$push": {"lateDeletions": some}},
                session=self._session,
            )

    async def _redeliver(
        self, parked: Document, events: Sequence[Document], seen: int
    ) -> None:
        """Apply the next events of a parked stream, after later events of others."""

        async def write() -> None:
            with in_time():
                # The event feed of the projection sees from this that events come late.
                late = {"lateAt": seen}
                await checkpoints.move(
                    self._store, self._name, self._fence, late, session=self._session
                )
                await self._advance(parked, events[-1], self._session)
                await self._apply_late(events)

        await in_transaction(self._store, self._session, write)

    async def _apply_late(self, events: Sequence[Document]) -> None:
        """Apply events to documents that may have later ones of other streams."""
        fold = self.fold_class(self._cls, events)
        old = await self._find(fold.keys, may_split=len(events) > 1)
        # The parked stream's version tells that the events are missing here, while the
        # positions of the documents are later.
        fold.load({key: {**one, "position": 0} for key, one in old.items()})
        fold.advance()
        for failed in fold.failed.values():
            raise HandlerFailed(failed.error)
        counts, changed = fold.counts(), []
        for new in fold.changed():
            before = old.get(new["_id"], {"position": 0})
            new["position"] = max(before["position"], new["position"])
            new["late"] = before.get("late", 0) + counts[new["_id"]]
            changed.append(new)
        requests, size = _requests(changed, fold.deleted(), old)
        if size > self.transaction_bytes and len(events) > 1:
            raise TooLarge
        await self._write(requests)
        await self._note_late_deletions(list(fold.deleted().values()))


def _requests(
    changed: Iterable[Document], deleted: Iterable[Any], old: Mapping[Any, Document]
) -> tuple[list[Any], int]:
    """Return the writes of some documents, and their size in bytes."""
    requests: list[Any] = []
    size = 0
    for new in changed:
        document = _encoded(new)
        size += len(document.raw)
        before = old.get(new["_id"])
        requests.append(
            InsertOne(document)
            if before is None
            else ReplaceOne(_unchanged(before), document)
        )
    requests += [DeleteOne(_unchanged(old[key])) for key in deleted if key in old]
    return requests, size


def _unchanged(before: Mapping[str, Any]) -> Document:
    """Return the filter for a document that no other writer has changed meanwhile."""
    return {"_id": {"$eq": before["_id"]}, "position": before["position"]}


def _encoded(new: Document) -> RawBSONDocument:
    """
    Return a document as it is sent; so it is known before anything is written.

    Raises:
        HandlerFailed: MongoDB cannot hold it.
    """
    try:
        encoded = bson.encode(new, codec_options=CODEC)
    except BaseException as error:
        pass_on_what_ends(error)
        raise HandlerFailed(error) from error
    if len(encoded) > MAX_BYTES:
        raise HandlerFailed(
            DocumentTooLarge(
                f"The document has {len(encoded):,} bytes, of at most {MAX_BYTES:,}."
            )
        )
    return RawBSONDocument(encoded)


def _is_taken_key(failure: Mapping[str, Any]) -> bool:
    """Whether a document was not inserted because its key exists by now."""
    # A unique index of the project's own may refuse it as well.
    return failure["code"] == DUPLICATE_KEY and set(failure["keyPattern"]) == {"_id"}


def _is_refused(failures: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the server refused documents for what they hold."""
    # As an index on two arrays does, or a unique index of the project's own.
    codes = [failure["code"] for failure in failures]
    return bool(codes) and DISK_FULL not in codes
