"""
Projections: read models over many streams, one document a key, kept by subscriptions.

A document carries the position of the last event in it, so an event that comes again
changes nothing: each has its effect exactly once.
"""

from __future__ import annotations

import copy
import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import bson
from bson.raw_bson import RawBSONDocument
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import classproperty
from django.utils.module_loading import autodiscover_modules
from pymongo import InsertOne, ReplaceOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure

from . import mongo, parking, positions, subscriptions
from .checkpoints import Lost
from .conf import get_settings
from .delivery import Park
from .faces import CODEC, Document, Documents, drive
from .faults import DUPLICATE_KEY
from .folding import name_of, revision_of
from .indexes import NAMESPACE_NOT_FOUND
from .mongo import Store, in_time
from .snapshots import MAX_BYTES
from .subscriptions import Subscription
from .transactions import HandlerFailed, in_transaction

logger = logging.getLogger("ossy_event_store")

MODULE = "projections"
KIND = "projection"
BUILD = "projection build"  # of one that is built beside the one in use
FRESH = 1.0  # seconds for which a process need not ask which collection it is

P = TypeVar("P", bound="type[Projection]")

_registered: dict[str, type[Projection]] = {}


class Projection:
    """
    A read model: a fold over the events of many streams, one document a key.

    Inherit from it, and decorate the class with ``@register_projection``. The methods
    that you write are pure: no I/O, no clock. Documents are
    ``{_id: key, state: …, position: …}`` in ``collection``.
    """

    #: Its name, also that of its subscription and of its collection.
    name: ClassVar[str]
    #: Aggregate types whose events it wants; None means all.
    sources: ClassVar[Sequence[str] | None] = None
    #: Event types that it wants; None means all.
    types: ClassVar[Sequence[str] | None] = None
    #: The state of a key before its first event.
    initial_state: ClassVar[Mapping[str, Any]] = {}
    #: Indexes for queries through ``collection``, each as PyMongo's ``create_index``
    #: takes its keys: ``"state.total"`` or ``[("state.day", 1), ("state.total", -1)]``.
    #: ``migrate``, ``ensure_event_store`` and ``rebuild_projections`` make them.
    indexes: ClassVar[Sequence[Any]] = ()

    @staticmethod
    def key(event: Document) -> str | int | None:
        """Return the key of the document that an event changes; None passes it."""
        raise NotImplementedError

    @staticmethod
    def apply(event: Document, state: dict[str, Any]) -> Mapping[str, Any]:
        """Return the state after an event, a dict; ``state`` may be changed."""
        raise NotImplementedError

    # --- reading

    @classmethod
    def get(cls, key: str | int) -> dict[str, Any] | None:
        """Return the state of a key; None if no event has had it."""
        _check_key(key)
        with in_time():
            return drive(_get(mongo.blocking(), cls, key))

    @classmethod
    async def aget(cls, key: str | int) -> dict[str, Any] | None:
        """See ``get()``."""
        _check_key(key)
        with in_time():
            return await _get(await mongo.awaitable(), cls, key)

    @classproperty
    def collection(cls) -> Collection[Document]:  # noqa: N805
        """The PyMongo collection of the documents, for queries."""
        store = mongo.blocking()
        with in_time():
            return mongo.raw(drive(_active(store, cls)))  # type: ignore[arg-type]

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        with in_time():
            return mongo.async_raw(await _active(await mongo.awaitable(), cls))

    @classmethod
    def reached(cls) -> int:
        """Return the position up to which it has taken the events; 0 before any."""
        return drive(positions.reached(mongo.blocking(), cls.name))

    @classmethod
    async def areached(cls) -> int:
        """See ``reached()``."""
        return await positions.reached(await mongo.awaitable(), cls.name)

    @classmethod
    def wait_for(cls, event: Any, timeout: float | None = None) -> bool:
        """
        Wait until the projection has taken an event, and return whether it has.

        Args:
            event: an event as stored, an ``Aggregate`` (its last event), or a
                position.
            timeout: seconds; None takes the setting ``TIMEOUT``.
        """
        seconds = get_settings().TIMEOUT if timeout is None else timeout
        return drive(
            positions.wait_for(mongo.blocking(), event, seconds, subscription=cls.name)
        )

    @classmethod
    async def await_for(
        cls,
        event: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - as its twin has
    ) -> bool:
        """See ``wait_for()``."""
        seconds = get_settings().TIMEOUT if timeout is None else timeout
        store = await mongo.awaitable()
        return await positions.wait_for(store, event, seconds, subscription=cls.name)


def _check_key(key: object) -> None:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"A key is a string or a number, not {type(key).__name__}.")


async def _get(
    store: Store, cls: type[Projection], key: str | int
) -> dict[str, Any] | None:
    documents = await _active(store, cls)
    found = await documents.find_one({"_id": {"$eq": key}}, projection={"state": 1})
    return found["state"] if found else None


def revision(cls: Any) -> str:
    """Return the name of the version of a projection, as ``revision_of`` a reducer."""
    return revision_of(cls)


# --- which collection -------------------------------------------------------


def collection_name(name: str, generation: int) -> str:
    """Return the collection of one generation of a projection."""
    first = f"projection_{name}"
    return first if generation == 1 else f"{first}_{generation}"


async def ensure_indexes(store: Store) -> list[str]:
    """Make the indexes of all projections in use; return those that were missing."""
    made = []
    for cls in registered().values():
        if cls.indexes:
            with in_time():
                documents = await _active(store, cls)
            made += await make_indexes(documents, cls)
    return made


async def make_indexes(documents: Documents, cls: type[Projection]) -> list[str]:
    """Make the indexes of one generation; return those that were missing."""
    collection: Any = documents
    with in_time():
        try:
            there = set(await documents.index_information())
        except OperationFailure as error:
            if error.code != NAMESPACE_NOT_FOUND:
                raise
            there = set()
    # Not bounded in time: on a large collection a build may take hours.
    names = [await documents.create_index(keys) for keys in cls.indexes]
    return [f"{collection.raw.name}.{name}" for name in names if name not in there]


_generations: dict[tuple[str, str], tuple[int, float]] = {}


async def _active(store: Store, cls: type[Projection]) -> Documents:
    """
    Return the documents that are in use now.

    For a while it is not asked again: the documents of before are kept after a switch.
    """
    events: Any = store.events
    place = (str(events.raw.full_name), cls.name)
    generation, asked = _generations.get(place, (1, 0.0))
    if time.monotonic() - asked > FRESH or not asked:
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": cls.name}}, projection={"generation": 1}
        )
        generation = (found or {}).get("generation", 1)
        _generations[place] = generation, time.monotonic()
    return mongo.documents(store, collection_name(cls.name, generation))


# --- registering ------------------------------------------------------------


def register_projection(cls: P) -> P:
    """
    Register a projection, which is then kept by ``run_subscriptions``; a decorator.

    Raises:
        ImproperlyConfigured: it is none, or another one has the same name.
    """
    _check(cls)
    other = _registered.get(cls.name)
    if other is not None and name_of(other) != name_of(cls):
        raise ImproperlyConfigured(
            f"Two projections are called {cls.name!r}: {name_of(other)} and "
            f"{name_of(cls)}."
        )
    subscriptions.add(
        Subscription(
            cls.name,
            cls,
            types=None if cls.types is None else tuple(cls.types),
            aggregate_types=None if cls.sources is None else tuple(cls.sources),
            kind=KIND,
            effect=partial(Writer, cls=cls),
            more={"generation": 1, "revision": revision(cls)},
        )
    )
    _registered[cls.name] = cls
    return cls


def registered() -> dict[str, type[Projection]]:
    """Return the registered projections by name, in order of name."""
    return dict(sorted(_registered.items()))


def discover() -> None:
    """Import the module ``projections`` of every installed app."""
    autodiscover_modules(MODULE)


def _check(cls: Any) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Projection)):
        raise ImproperlyConfigured(
            f"{cls!r} is not a projection: expected a class that inherits from "
            "Projection."
        )
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name.isidentifier() or len(name) > 100:
        # It becomes the name of a collection.
        raise ImproperlyConfigured(
            f"{name_of(cls)} needs an attribute name, such as 'work_per_clerk', of "
            f"letters, digits and _; found {name!r}."
        )
    for attribute in ("sources", "types"):
        chosen = getattr(cls, attribute)
        if isinstance(chosen, str):
            raise ImproperlyConfigured(
                f"{name_of(cls)}.{attribute} is a list of strings, not {chosen!r}."
            )
    if isinstance(cls.indexes, str):
        raise ImproperlyConfigured(
            f"{name_of(cls)}.indexes is a list, as [{cls.indexes!r}]."
        )
    if not isinstance(cls.initial_state, Mapping):
        raise ImproperlyConfigured(f"{name_of(cls)}.initial_state must be a dict.")
    _check_method(cls, "key", "(event)", {})
    _check_method(cls, "apply", "(event, state)", {}, {})


def _check_method(cls: Any, method: str, takes: str, *arguments: Any) -> None:
    function = getattr(cls, method)
    if function is getattr(Projection, method):
        raise ImproperlyConfigured(f"{name_of(cls)} needs a static method {method}.")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        raise ImproperlyConfigured(
            f"{name_of(cls)}.{method} must take {takes} and be a @staticmethod or "
            "@classmethod."
        ) from None


# --- writing ----------------------------------------------------------------


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
        cls: type[Projection],
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

    def __init__(self, cls: type[Projection]) -> None:
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
                    _check_key(key)
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
