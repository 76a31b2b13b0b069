"""
How events get into the documents of a projection, each exactly once.

The documents that some events change, the streams that they park and the checkpoint
move in one transaction, under the fence of the claim.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from ..streams.reducers import name_of, revision_of
from ..streams.snapshots import MAX_BYTES
from ..subscriptions import checkpoints, parked_streams
from ..subscriptions.checkpoints import ClaimLost
from ..subscriptions.declaration import Subscription
from ..subscriptions.delivery import Delivered, Delivery, TooLarge
from ..subscriptions.parked_streams import Failed
from ..subscriptions.transactions import HandlerFailed, in_transaction

logger = logging.getLogger("ossy_event_store")

MANY = 1000  # events from which on a delivery need not be limited
TOGETHER = 16_000_000  # bytes of documents that one transaction writes, or one document


def check_key(key: object) -> None:
    """
    Refuse what cannot be the key of a document.

    Raises:
        TypeError: it is neither a string nor a number.
        ValueError: MongoDB cannot hold it.
    """
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"A key is a string or a number, not {type(key).__name__}.")
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise ValueError(f"The key {key} does not fit into 64 bits.")
    if isinstance(key, str):
        key.encode()  # half of a surrogate pair is a UnicodeEncodeError


def revision(cls: Any) -> str:
    """Return the name of the version of a projection, as ``revision_of`` a reducer."""
    return revision_of(cls)


def collection_name(name: str, generation: int) -> str:
    """Return the collection of one generation of a projection."""
    first = f"projection_{name}"
    return first if generation == 1 else f"{first}_{generation}"


class Fold:
    """
    Some events on their way into the documents of a projection; pure.

    They are applied in their order, whatever their keys are, so that the first failure
    that is found of a stream is its first event that fails: no later one of the stream
    is applied.

    Args:
        cls: the projection.
        events: in their order.
    """

    def __init__(self, cls: Any, events: Sequence[Document]) -> None:
        self._cls = cls
        #: By stream: its first event that fails, and why.
        self.failed: dict[str, Failed] = {}
        #: The keys of all documents that may change.
        self.keys: set[Any] = set()
        # An event without a key that can be used stands with the error.
        self._work: list[tuple[Document, Any]] = []
        self._key_all(events)
        self._at = 0
        self._states: dict[Any, Any] = {}
        self._positions: dict[Any, int] = {}
        self._changed: dict[Any, int] = {}  # by key: the position of its last event
        self._late: dict[Any, int] = {}
        self._careful: set[Any] = set()  # keys of states that failed before

    def _key_all(self, events: Sequence[Document]) -> None:
        key_of, work, keys = self._cls.key, self._work, self.keys
        without: set[str] = set()  # streams of which a key failed
        for event in events:
            if without and event["aggregateId"] in without:
                continue
            try:
                key = key_of(event)
                if key is None:
                    continue
                if type(key) is not str or not key.isascii():  # the usual costs no call
                    check_key(key)
            except Exception as error:
                without.add(event["aggregateId"])
                self._fail(event, error)
                continue
            keys.add(key)
            work.append((event, key))

    def _fail(self, event: Document, error: BaseException) -> None:
        """Note a failure, unless an earlier event of the stream fails as well."""
        known = self.failed.get(event["aggregateId"])
        if known is None or event["position"] < known.event["position"]:
            self.failed[event["aggregateId"]] = Failed(event, error)

    def begin(self, old: Mapping[Any, Document]) -> None:
        """Take the documents as they are stored."""
        for key, document in old.items():
            self._states[key] = document["state"]
            self._positions[key] = document["position"]
            if "late" in document:
                self._late[key] = document["late"]

    def advance(self) -> Any:
        """
        Apply the events that are left.

        Returns:
            A key whose state has to be restored, and then called again; or None.
        """
        apply, failed = self._cls.apply, self.failed
        states, positions, changed = self._states, self._positions, self._changed
        work, careful = self._work, self._careful
        while self._at < len(work):
            event, key = work[self._at]
            self._at += 1
            if failed and self._is_out(event):
                continue
            position = event["position"]
            if position <= positions.get(key, 0):
                continue  # it is in the document
            state = states[key] if key in states else self._initial()
            before = copy.deepcopy(state) if careful and key in careful else None
            try:
                state = apply(event, state)
                if type(state) is not dict and not isinstance(state, Mapping):
                    raise TypeError(
                        f"{name_of(self._cls)}.apply returned "
                        f"{type(state).__name__}, expected a dict."
                    )
            except Exception as error:
                self._fail(event, error)
                if key in careful:
                    states[key] = before
                    continue
                careful.add(key)
                return key
            states[key] = state
            changed[key] = position
        return None

    def _is_out(self, event: Document) -> bool:
        """Whether an event waits behind one that failed."""
        known = self.failed.get(event["aggregateId"])
        return known is not None and event["position"] >= known.event["position"]

    def _initial(self) -> Any:
        return copy.deepcopy(dict(self._cls.initial_state))

    def restore(self, key: Any, document: Document | None) -> None:
        """
        Apply again what was applied to a state before an event failed there.

        Args:
            key: as ``advance()`` returned it.
            document: as it is stored; None if it is not.

        Raises:
            HandlerFailed: an event fails that did not before.
        """
        state = document["state"] if document else self._initial()
        stands = self._positions.get(key, 0)
        try:
            for event, other in self._work[: self._at]:
                applied = other == key and event["position"] > stands
                if applied and not self._is_out(event):
                    state = self._cls.apply(event, state)
        except Exception as error:
            raise HandlerFailed(error) from error
        self._states[key] = state

    def changed(self) -> Iterator[Document]:
        """Yield the documents that change, as they are then."""
        for key, position in self._changed.items():
            new = {"_id": key, "state": self._states[key], "position": position}
            if key in self._late:
                new["late"] = self._late[key]
            yield new


class Writer(Delivery):
    """
    Applies events to one generation of a projection.

    Args:
        store: one face of the store.
        session: that of its transactions.
        declared: the subscription of the projection, or of a build.
        generation: which; None takes the one in use.
    """

    #: How events get into documents, apart from reading and writing these.
    folds = Fold

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
                "Projection %s has changed since it was built, and continues from the "
                "documents that exist: run manage.py rebuild_projections %s.",
                self._cls.name,
                self._cls.name,
            )
        return await super().begin(claimed)

    async def deliver(self, events: Sequence[Document], after: int) -> Delivered:
        """Apply events, and write each document once."""
        fold = self.folds(self._cls, events)
        if not fold.keys and not fold.failed:
            return Delivered(moved=False)
        old = await self._find(fold.keys)
        fold.begin(old)
        while (spoilt := fold.advance()) is not None:
            # The failed attempt may have changed the state.
            fold.restore(spoilt, (await self._find([spoilt])).get(spoilt))
        requests, size = _requests(fold.changed(), old)
        if size > TOGETHER and len(events) > 1:
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
        if self.size is not None and size < TOGETHER // 4:
            # More again, in the end as many as there are.
            self.size = 2 * self.size if self.size < MANY else None
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
            if any(map(_is_there, (error.details or {}).get("writeErrors", ()))):
                raise ClaimLost from error  # it was written past the store
            raise
        if written < len(requests):
            raise ClaimLost

    async def redeliver(self, waits: Document, event: Document, seen: int) -> None:
        """Apply the event of a parked stream, though later ones are in already."""
        fold = Fold(self._cls, [event])
        for failed in fold.failed.values():
            raise HandlerFailed(failed.error)

        async def write() -> None:
            with in_time():
                # Who listens to the projection is told from this of what came late.
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
        stands = old["position"] if old else 0
        fold = Fold(self._cls, [event])
        # The parked stream's place, not the document's, says that it is missing.
        fold.begin({key: {**old, "position": 0}} if old else {})
        fold.advance()
        for failed in fold.failed.values():
            raise HandlerFailed(failed.error)
        (new,) = fold.changed()
        new["position"] = max(stands, event["position"])
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
    """Return the writes of some documents, and how many bytes they are."""
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
                # One that somebody has changed meanwhile is not written over.
                {"_id": {"$eq": new["_id"]}, "position": before["position"]},
                document,
            )
        )
    return requests, size


def _encoded(new: Document) -> RawBSONDocument:
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
