"""
Declare and read a projection: a read model over many streams, one document a key.

Its documents and its checkpoint move in one transaction, so each event takes effect
exactly once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import classproperty
from django.utils.module_loading import autodiscover_modules
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from ..documents.arguments import check_all_of, check_items, check_names
from ..documents.bson_types import Document
from ..mongodb import connection
from ..mongodb.connection import Store
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..positions import reader
from ..streams.reducers import name_of
from ..subscriptions import declaration
from ..subscriptions.declaration import Subscription
from .fold import check_key, takes_key
from .generations import in_use, make_indexes, revision
from .writer import Writer

MODULE = "projections"
KIND = "projection"
BUILD_KIND = declaration.BUILD_KIND

P = TypeVar("P", bound="type[Projection]")

_registered: dict[str, type[Projection]] = {}


class Projection:
    """
    A read model: a fold over the events of many streams, one document a key.

    Inherit from it, and decorate the class with ``@register_projection``. Write
    ``key`` and ``apply`` as pure functions: no I/O, no clock. The documents are
    ``{_id: key, state: …, position: …}`` in ``collection``.
    """

    #: Its name, which its subscription and its collection carry too.
    name: ClassVar[str]
    #: Only events of streams of these aggregate types; None means all.
    aggregate_types: ClassVar[Sequence[str] | None] = None
    #: Only events of these types; None means all.
    types: ClassVar[Sequence[str] | None] = None
    #: Only events that have all of these tags; None means all.
    tags: ClassVar[Sequence[str] | None] = None
    #: Whether ``key`` and ``apply`` get objects of the classes that ``@event``
    #: declares, in place of their events.
    typed: ClassVar[bool] = False
    #: The state of a key before its first event.
    initial_state: ClassVar[Mapping[str, Any]] = {}
    #: Indexes for queries through ``collection``, each as PyMongo's ``create_index``
    #: takes its keys: ``"state.total"`` or ``[("state.day", 1), ("state.total", -1)]``.
    #: ``migrate``, ``ensure_event_store`` and ``rebuild_projections`` create them.
    indexes: ClassVar[Sequence[Any]] = ()

    @staticmethod
    def key(event: Document) -> str | int | Sequence[str | int] | None:
        """
        Return the key of the document that an event changes; None ignores the event.

        A list of keys lets it change several documents, all or none.
        """
        raise NotImplementedError

    @staticmethod
    def apply(
        event: Document, state: dict[str, Any], **key: Any
    ) -> Mapping[str, Any] | None:
        """
        Return the state after an event, a dict, or None to delete the document.

        You may change ``state``. A third parameter ``key`` says which document it is.
        """
        raise NotImplementedError

    @classproperty
    def event_types(cls) -> Sequence[str] | None:  # noqa: N805
        """The types of events that it gets, at the versions that the code knows."""
        return cls.types

    # --- reading

    @classmethod
    def get(cls, key: str | int) -> dict[str, Any] | None:
        """Return the state of a key; None if no event has that key."""
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
            return connection.raw(drive(in_use.documents(store, cls.name)))

    @classmethod
    async def acollection(cls) -> AsyncCollection[Document]:
        """Return the asynchronous PyMongo collection of the running loop."""
        with in_time():
            store = await connection.awaitable()
            return connection.async_raw(await in_use.documents(store, cls.name))

    @classmethod
    def reached(cls) -> int:
        """Return the position up to which it has applied events; 0 before any."""
        return drive(reader.reached(connection.blocking(), cls.name))

    @classmethod
    async def areached(cls) -> int:
        """See ``reached()``."""
        return await reader.reached(await connection.awaitable(), cls.name)

    @classmethod
    def wait_for(cls, event: Any, timeout: float | None = None) -> bool:
        """
        Wait until the projection has applied an event; return whether it has.

        Args:
            event: an event as stored, an ``Aggregate`` (its last event), or a
                position.
            timeout: seconds; None takes the setting ``TIMEOUT``.
        """
        store = connection.blocking()
        return drive(reader.wait_for(store, event, timeout, subscription=cls.name))

    @classmethod
    async def await_for(
        cls,
        event: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - as its twin has
    ) -> bool:
        """See ``wait_for()``."""
        store = await connection.awaitable()
        return await reader.wait_for(store, event, timeout, subscription=cls.name)


async def _get(
    store: Store, cls: type[Projection], key: str | int
) -> dict[str, Any] | None:
    documents = await in_use.documents(store, cls.name)
    # Checked before, so it can be no operator: it needs no $eq.
    found = await documents.find_one({"_id": key}, projection={"state": 1})
    return found["state"] if found else None


async def ensure_indexes(store: Store) -> list[str]:
    """Make the indexes of all projections in use; return those that were missing."""
    made = []
    for cls in registered_projections().values():
        if cls.indexes:
            with in_time():
                documents = await in_use.documents(store, cls.name)
            made += await make_indexes(documents, cls.indexes)
    return made


# --- registering ------------------------------------------------------------


def register_projection(cls: P) -> P:
    """
    Register a projection, which ``run_subscriptions`` then keeps; a decorator.

    Raises:
        ImproperlyConfigured: it is not a projection, or another has the same name.
    """
    _check(cls)
    other = _registered.get(cls.name)
    if other is not None and name_of(other) != name_of(cls):
        raise ImproperlyConfigured(
            f"Two projections have the name {cls.name!r}: {name_of(other)} and "
            f"{name_of(cls)}. Rename one of them."
        )
    for known in _registered:
        if _collide(cls.name, known) or _collide(known, cls.name):
            raise ImproperlyConfigured(
                f"The projection names {cls.name!r} and {known!r} collide: a later "
                "rebuild of one would use the collection of the other. Choose a name "
                "that does not end in a number."
            )
    declaration.add(
        Subscription(
            cls.name,
            cls,
            types=check_names(cls.types, "types"),
            aggregate_types=check_names(cls.aggregate_types, "aggregate_types"),
            tags=check_all_of(cls.tags, "tags"),
            kind=KIND,
            delivery=Writer,
            # Later: modules that declare event types may not be imported yet.
            document_fields=lambda: {"generation": 1, "revision": revision(cls)},
        )
    )
    _registered[cls.name] = cls
    return cls


def _collide(name: str, other: str) -> bool:
    """Whether a later collection of one projection is the first of the other."""
    rest = other.removeprefix(f"{name}_")
    return rest != other and rest.isdecimal()


def registered_projections() -> dict[str, type[Projection]]:
    """Return the registered projections by name, in order of name."""
    return dict(sorted(_registered.items()))


def discover() -> None:
    """Import the module ``projections`` of every installed app."""
    autodiscover_modules(MODULE)


def _check(cls: Any) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Projection)):
        raise ImproperlyConfigured(
            f"Expected a class that inherits from Projection, not {cls!r}."
        )
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name.isidentifier() or len(name) > 100:
        # It becomes the name of a collection.
        raise ImproperlyConfigured(
            f"{name_of(cls)}.name must consist of letters, digits and _, as "
            f"'work_per_clerk'; found {name!r}."
        )
    for attribute in ("aggregate_types", "types", "tags"):
        check = check_all_of if attribute == "tags" else check_names
        try:
            check(getattr(cls, attribute), attribute)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{name_of(cls)}: {error}") from None
    try:
        check_items(cls.indexes, "indexes", "indexes")
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{name_of(cls)}: {error} Write one index as [{cls.indexes!r}]."
        ) from None
    if not isinstance(cls.typed, bool):
        raise ImproperlyConfigured(
            f"{name_of(cls)}.typed must be True or False, not {cls.typed!r}."
        )
    if not isinstance(cls.initial_state, Mapping):
        raise ImproperlyConfigured(f"{name_of(cls)}.initial_state must be a dict.")
    _check_method(cls, "key", "(event)", {})
    key = {"key": ""} if takes_key(cls) else {}
    _check_method(cls, "apply", "(event, state) or (event, state, key)", {}, {}, **key)


def _check_method(
    cls: Any, method: str, takes: str, *arguments: Any, **named: Any
) -> None:
    function = getattr(cls, method)
    if function is getattr(Projection, method):
        raise ImproperlyConfigured(
            f"{name_of(cls)} must have a static method {method}."
        )
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError:
        raise ImproperlyConfigured(
            f"{name_of(cls)}.{method} must take {takes} and be a @staticmethod or "
            "@classmethod."
        ) from None
