"""
Write a projection: apply events to its documents, each exactly once.

The documents that some events change, the streams that they park and the checkpoint
move in one transaction, under the fence of the claim.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, DocumentTooLarge

from ..documents.bson_types import CODEC, Document
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import Documents
from ..mongodb.write_errors import DUPLICATE_KEY
from ..streams.snapshots import MAX_BYTES
from ..subscriptions import checkpoints, parked_streams
from ..subscriptions.checkpoints import ClaimLost
from ..subscriptions.declaration import Subscription
from ..subscriptions.delivery import Delivered, Delivery, TooLarge
from ..subscriptions.transactions import HandlerFailed, in_transaction
from .fold import Fold
from .generations import collection_name, revision

logger = logging.getLogger("ossy_event_store")

UNLIMITED_EVENTS = 1000  # a limit that grew this far is lifted


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
                "The class of projection %s has changed since its documents were "
                "built; new events are added to the old documents. Run manage.py "
                "rebuild_projections %s.",
                self._cls.name,
                self._cls.name,
            )
        return await super().begin(claimed)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Apply events, and write each document once."""
        fold = self.fold_class(self._cls, events)
        if not fold.keys and not fold.failed:
            return Delivered(moved=False)
        old = await self._find(fold.keys)
        fold.load(old)
        while (key := fold.advance()) is not None:
            fold.restore(key, (await self._find([key])).get(key))
        requests, size = _requests(fold.changed(), old)
        if size > self.transaction_bytes and len(events) > 1:
            self.size = len(events) // 2
            raise TooLarge
        parked = list(fold.failed.values())
        changes: Document = {"position": after}
        if parked:
            last = parked[-1]
            changes["lastError"] = checkpoints.error_record(last.error, last.event)

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
                    await parked_streams.park_all(
                        self._store, self._session, self._name, parked
                    )
                await self._write(requests)

        await in_transaction(self._store, self._session, write)
        if self.size is not None and size < self.transaction_bytes // 4:
            # Take more events again, in the end without a limit.
            self.size = 2 * self.size if self.size < UNLIMITED_EVENTS else None
        return Delivered(moved=True, parked=parked)

    async def _find(self, keys: Collection[Any]) -> dict[Any, Document]:
        with in_time():
            found = await self._documents.find(
                {"_id": {"$in": list(keys)}}, session=self._session
            )
        return {document["_id"]: document for document in found}

    async def _write(self, requests: Sequence[Any]) -> None:
        if not requests:
            return
        try:
            written = await self._documents.bulk_write(
                requests, ordered=False, session=self._session
            )
        except BulkWriteError as error:
            if any(map(_is_taken_key, (error.details or {}).get("writeErrors", ()))):
                raise ClaimLost from error  # another program inserted it
            raise
        if written < len(requests):
            raise ClaimLost

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """Apply the next event of a parked stream, after later events of others."""
        fold = Fold(self._cls, [event])
        for failed in fold.failed.values():
            raise HandlerFailed(failed.error)

        async def write() -> None:
            with in_time():
                # The event feed of the projection sees from this that events come late.
                late = {"lateAt": seen}
                await checkpoints.move(
                    self._store, self._name, self._fence, late, session=self._session
                )
                if not await parked_streams.advance(
                    self._store, waits, event, self._session
                ):
                    raise ClaimLost
                for key in fold.keys:
                    await self._apply_late(key, event)

        await in_transaction(self._store, self._session, write)

    async def _apply_late(self, key: Any, event: Document) -> None:
        session = self._session
        old = await self._documents.find_one({"_id": {"$eq": key}}, session=session)
        position = old["position"] if old else 0
        fold = Fold(self._cls, [event])
        # The parked stream's version tells that the event is missing here, while the
        # document's position is later.
        fold.load({key: {**old, "position": 0}} if old else {})
        fold.advance()
        for failed in fold.failed.values():
            raise HandlerFailed(failed.error)
        (new,) = fold.changed()
        new["position"] = max(position, event["position"])
        new["late"] = (old or {}).get("late", 0) + 1
        document = _encoded(new)
        if old is None:
            await self._documents.insert_one(document, session=session)
        elif not await self._documents.replace_one(
            {"_id": {"$eq": key}}, document, session=session
        ):
            raise ClaimLost


def _requests(
    changed: Iterable[Document], old: Mapping[Any, Document]
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
            else ReplaceOne(
                # A document that another writer has changed meanwhile does not match.
                {"_id": {"$eq": new["_id"]}, "position": before["position"]},
                document,
            )
        )
    return requests, size


def _encoded(new: Document) -> RawBSONDocument:
    """
    Return a document as it is sent; so it is known before anything is written.

    Raises:
        HandlerFailed: MongoDB cannot hold it.
    """
    try:
        encoded = bson.encode(new, codec_options=CODEC)
    except Exception as error:
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
