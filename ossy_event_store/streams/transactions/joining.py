"""
The store inside a transaction: that of ``transaction()``, or one of the caller's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession

from ...exceptions import InvalidTransaction
from ...mongodb import connection
from ...mongodb.connection import Store
from ...mongodb.deadline import in_transaction_of_caller
from ...mongodb.ports import TRANSACTION
from .unit_of_work import UnitOfWork, joined, unit_of

BEGIN = (
    "Begin one with EventStore.transaction(), or with start_transaction() of a session "
    "of the store's own client."
)


def blocking_store(session: ClientSession | None) -> Store:
    """
    Return the blocking face of the store, inside the transaction of a session.

    Raises:
        InvalidTransaction: the session is of another client, or has no transaction.
        TypeError: it is not a session, or one of the awaitable face.
    """
    if session is not None:
        _check_kind(session, ClientSession, AsyncClientSession)
    store = connection.blocking()
    return store if session is None else _inside(store, session)


async def awaitable_store(session: AsyncClientSession | None) -> Store:
    """Return the awaitable face; see ``blocking_store()``."""
    if session is not None:
        _check_kind(session, AsyncClientSession, ClientSession)
    store = await connection.awaitable()
    return store if session is None else _inside(store, session)


def _check_kind(session: object, own: type, other: type) -> None:
    if isinstance(session, own):
        return
    if isinstance(session, other):
        there = "awaitable" if other is AsyncClientSession else "blocking"
        raise TypeError(
            f"session must be a {own.__name__}, not {other.__name__}: it is of the "
            f"{there} face. A transaction uses one face: call the method of that one, "
            f"or begin with {_BEGINNING[own]}."
        )
    raise TypeError(
        f"session must be a session of PyMongo, such as t.session, not "
        f"{type(session).__name__}."
    )


_BEGINNING = {
    ClientSession: "with EventStore.transaction() as t",
    AsyncClientSession: "async with EventStore.atransaction() as t",
}


def _inside(store: Store, session: Any) -> Store:
    """Return the store inside the transaction of a session of the right face."""
    client: Any = store.client
    if session.client is not client.raw:
        raise InvalidTransaction(
            "This session is of another client than the event store's, so the two "
            f"cannot share a transaction. {BEGIN}"
        )
    if not session.in_transaction:
        state = "has ended" if session.has_ended else "has no open transaction"
        raise InvalidTransaction(
            f"This session {state}. {BEGIN} What was loaded in a transaction that "
            "has ended has to be loaded again."
        )
    in_transaction_of_caller.set(True)
    unit = unit_of(session)
    if unit is not None:
        return unit.store
    events: Any = store.events
    if store.outside is not None:
        if events.session is session:  # that of atomic(), which is joined anyway
            return store
        raise InvalidTransaction(
            "This is inside atomic(), whose transaction is another one than that of "
            "this session. Leave one of the two out."
        )
    _check_concerns(session)
    return replace(
        store,
        events=joined(store.events, session),
        snapshots=joined(store.snapshots, session),
        outside=store,
    )


def _check_concerns(session: Any) -> None:
    """Refuse a transaction whose commit does not wait for a majority."""
    # PyMongo has no public way to read them.
    options = getattr(getattr(session, "_transaction", None), "opts", None)
    concern = getattr(options, "write_concern", None)
    acknowledged = None if concern is None else concern.document.get("w")
    if acknowledged not in (None, "majority"):
        expected = TRANSACTION["write_concern"].document["w"]
        raise InvalidTransaction(
            f"This transaction is committed with w={acknowledged!r}, so a failover "
            f"could lose its events. Begin it with write_concern=WriteConcern("
            f"{expected!r})."
        )


def origin_of(session: Any, store: Store) -> Origin | None:
    """Return the transaction of a session, if it is not None, for later calls."""
    return None if session is None else Origin(session, store)


class Origin:
    """
    The transaction in which an aggregate was loaded or extended.

    Args:
        session: the session that the caller gave.
        store: the store inside of it.
    """

    def __init__(self, session: Any, store: Store) -> None:
        self._session = session
        self._unit: UnitOfWork | None = store.unit

    def session(self) -> Any:
        """
        Return the session in which to continue; None once its events are stored.

        Raises:
            InvalidTransaction: the transaction was rolled back.
        """
        if self._unit is None or self._unit.is_open:
            return self._session
        if self._unit.is_stored:
            return None
        raise InvalidTransaction(
            "The transaction in which this aggregate was loaded was rolled back, so "
            "some of its events may not exist. Load it again."
        )
