"""
Projections: read models over many streams, one document a key, kept by subscriptions.

A document carries the position of the last event in it, so an event that comes again
changes nothing: each has its effect exactly once.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import classproperty
from django.utils.module_loading import autodiscover_modules
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from ..conf import get_settings
from ..documents.bson_types import Document
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.indexes import NAMESPACE_NOT_FOUND
from ..mongodb.ports import Documents, drive
from ..positions import reader
from ..streams.reducers import name_of
from ..subscriptions import declaration
from ..subscriptions.declaration import Subscription
from .writer import Writer, check_key, collection_name, revision

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
    aggregate_types: ClassVar[Sequence[str] | None] = None
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
        check_key(key)
        with in_time():
            return drive(_get(connection.blocking(), cls, key))

    @classmethod
    async def aget(cls, key: str | int) -> dict[str, Any] | None:
        """See ``get()``."""
        check_key(key)
        with in_time():
            return await _get(await connection.awaitable(), cls, key)

    @classproperty
    def collection(cls) -> Collection[Document]:  # noqa: N805
        """The PyMongo collection of the documents, for queries."""
        store = connection.blocking()
        with in_time():
            return connection.raw(drive(_active(store, cls)))  # type: ignore[arg-type]

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        with in_time():
            return connection.async_raw(
                await _active(await connection.awaitable(), cls)
            )

    @classmethod
    def reached(cls) -> int:
        """Return the position up to which it has taken the events; 0 before any."""
        return drive(reader.reached(connection.blocking(), cls.name))

    @classmethod
    async def areached(cls) -> int:
        """See ``reached()``."""
        return await reader.reached(await connection.awaitable(), cls.name)

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
            reader.wait_for(
                connection.blocking(), event, seconds, subscription=cls.name
            )
        )

    @classmethod
    async def await_for(
        cls,
        event: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - as its twin has
    ) -> bool:
        """See ``wait_for()``."""
        seconds = get_settings().TIMEOUT if timeout is None else timeout
        store = await connection.awaitable()
        return await reader.wait_for(store, event, seconds, subscription=cls.name)


async def _get(
    store: Store, cls: type[Projection], key: str | int
) -> dict[str, Any] | None:
    documents = await _active(store, cls)
    # Checked, so it can be no operator; see _find_snapshot() in aggregate.py.
    found = await documents.find_one({"_id": key}, projection={"state": 1})
    return found["state"] if found else None


# --- which collection -------------------------------------------------------


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
    names = [await documents.create_index(keys, unbounded=True) for keys in cls.indexes]
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
    now = time.monotonic()
    if now - asked > FRESH or not asked:
        found = await store.subscriptions.find_one(
            {"_id": {"$eq": cls.name}}, projection={"generation": 1}
        )
        generation = (found or {}).get("generation", 1)
        _generations[place] = generation, now
    return connection.documents(store, collection_name(cls.name, generation))


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
    for known in _registered:
        if _collide(cls.name, known) or _collide(known, cls.name):
            raise ImproperlyConfigured(
                f"A projection cannot be called {cls.name!r} beside {known!r}: a later "
                "collection of the one would be that of the other. Choose a name that "
                "does not end in a number."
            )
    declaration.add(
        Subscription(
            cls.name,
            cls,
            types=None if cls.types is None else tuple(cls.types),
            aggregate_types=None
            if cls.aggregate_types is None
            else tuple(cls.aggregate_types),
            kind=KIND,
            effect=Writer,
            more={"generation": 1, "revision": revision(cls)},
        )
    )
    _registered[cls.name] = cls
    return cls


def _collide(name: str, other: str) -> bool:
    """Whether a later collection of a projection is the first of another one."""
    rest = other.removeprefix(f"{name}_")
    return rest != other and rest.isdecimal()


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
    for attribute in ("aggregate_types", "types"):
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
