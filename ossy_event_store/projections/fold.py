"""Fold events into the documents of a projection; pure, without I/O."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bson.code import Code

from ..documents.bson_types import Document
from ..documents.catalogue.objects import StoredEvents, copy_of
from ..documents.catalogue.reading import current_events, gets_as_stored
from ..documents.storable import HALF_A_SURROGATE, is_text
from ..streams.reducers import name_of, pass_on_what_ends
from ..subscriptions.parked_streams import Failed
from ..subscriptions.transactions import HandlerFailed

MAX_KEY_BYTES = 5_000  # so that the keys of a page fit into one query

Applied = Mapping[str, Any] | None  # a state; None for a document that is deleted
Keys = tuple[Any, ...]


def check_key(key: object) -> None:
    """
    Refuse what cannot be the key of a document.

    Raises:
        TypeError: it is neither a string nor a number.
        ValueError: MongoDB cannot hold it, or it is too long.
    """
    if isinstance(key, (bool, Code)) or not isinstance(key, (str, int)):
        raise TypeError(
            f"key must be a string or an integer, not {type(key).__name__}."
        )
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise ValueError(f"key is {key}; it must fit into 64 bits.")
    if isinstance(key, str):
        if not is_text(key):
            raise ValueError(f"key {HALF_A_SURROGATE}.")
        size = len(key.encode())
        if size > MAX_KEY_BYTES:
            raise ValueError(
                f"key must have at most {MAX_KEY_BYTES:,} bytes, not {size:,}."
            )


def keyed(cls: Any, event: Document, stored: StoredEvents) -> list[tuple[Any, Keys]]:
    """
    Return what a stored event is at the version that the code knows, with its keys.

    Upcasters may make several events of it, or none. Those without keys are left out.

    Args:
        cls: the projection.
        event: as stored.
        stored: gets the stored events of objects; it is active, and has to be where
            they are applied.

    Raises:
        TypeError, ValueError: one of them cannot be a key.
        UnknownEventVersion: the event has a version that the code does not know.
        UpcasterError: an upcaster failed.
        BaseException: the class's own method raised it.
    """
    events = current_events(cls, [event])
    stored.include(events)
    return [(one, keys) for one in events if (keys := keys_of(cls, one))]


def keys_of(cls: Any, event: Any) -> Keys:
    """
    Return the keys of the documents that an event changes, each once.

    Args:
        cls: the projection.
        event: at the version that the code knows.

    Raises:
        TypeError, ValueError: one of them cannot be a key.
        BaseException: the class's own method raised it.
    """
    found = cls.key(event)
    if found is None:
        return ()
    if type(found) is str and len(found) <= MAX_KEY_BYTES and found.isascii():
        return (found,)  # the usual costs no call
    keys = found if isinstance(found, (list, tuple, set, frozenset)) else [found]
    for key in keys:
        check_key(key)
    return tuple(dict.fromkeys(keys))


def takes_key(cls: Any) -> bool:
    """Whether the method ``apply`` of a projection has a parameter ``key``."""
    return "key" in inspect.signature(cls.apply).parameters


def applier(cls: Any) -> Callable[[Any, Any, Any], Applied]:
    """
    Return a function that applies an event to the state of a key.

    It raises what ``apply`` raises, and TypeError if that returns no state.
    """
    apply, has_key = cls.apply, takes_key(cls)

    def applied(event: Any, state: Any, key: Any) -> Applied:
        new: Applied = apply(event, state, key=key) if has_key else apply(event, state)
        if type(new) is not dict and not isinstance(new, (Mapping, type(None))):
            raise TypeError(
                f"{name_of(cls)}.apply returned {type(new).__name__}, expected a dict, "
                "or None to delete the document."
            )
        return new

    return applied


def own_copy(event: Any, keys: Keys) -> Any:
    """Return an event for one of its documents, which may take parts of it over."""
    return event if len(keys) == 1 else copy_of(event)


class Fold:
    """
    The fold of some events into the documents of a projection.

    Events are applied in global order, whatever their keys are. So the first failure
    that is found of a stream is that of its first failing event, and no later event of
    the stream is applied. An event changes all of its documents, or none, also where
    upcasters make several of it.

    Args:
        cls: the projection.
        events: as stored, in their order.
    """

    def __init__(self, cls: Any, events: Sequence[Document]) -> None:
        self._cls = cls
        self._applied = applier(cls)
        #: By stream: its first event that fails, and why.
        self.failed: dict[str, Failed] = {}
        #: The keys of all documents that may change.
        self.keys: set[Any] = set()
        # Only events with usable keys; the others are skipped or have failed.
        self._work: list[tuple[Document, list[tuple[Any, Keys]]]] = []
        self._stored = StoredEvents()
        with self._stored:
            self._compute_keys(events)
        self._at = 0
        self._states: dict[Any, Applied] = {}  # None: the document is deleted
        self._positions: dict[Any, int] = {}
        self._changed: dict[Any, int] = {}  # by key: the position of its last event
        self._late: dict[Any, int] = {}
        self._copied: set[Any] = set()  # keys at which apply failed: copy their states

    def _compute_keys(self, events: Sequence[Document]) -> None:
        cls, work, all_keys = self._cls, self._work, self.keys
        keyless: set[str] = set()  # streams of which a key failed
        as_stored = gets_as_stored(cls, events)  # nearly always, and then it is faster
        for event in events:
            if keyless and event["aggregateId"] in keyless:
                continue
            try:
                if as_stored:
                    results = [(event, keys)] if (keys := keys_of(cls, event)) else []
                else:
                    results = keyed(cls, event, self._stored)
            except BaseException as error:
                pass_on_what_ends(error)
                keyless.add(event["aggregateId"])
                self._fail(event, error)
                continue
            if results:
                for _, keys in results:
                    all_keys.update(keys)
                work.append((event, results))

    def _fail(self, event: Document, error: BaseException) -> None:
        """Record a failure, unless an earlier event of the stream fails as well."""
        known = self.failed.get(event["aggregateId"])
        if known is None or event["position"] < known.event["position"]:
            self.failed[event["aggregateId"]] = Failed(event, error)

    def load(self, documents: Mapping[Any, Document]) -> None:
        """Take over the documents as they are stored, by key."""
        for key, document in documents.items():
            self._states[key] = document["state"]
            self._positions[key] = document["position"]
            if "late" in document:
                self._late[key] = document["late"]

    def advance(self) -> list[Any]:
        """
        Apply the remaining events, up to the first that fails.

        Returns:
            The keys whose states ``restore()`` has to make again before the next call;
            empty at the end.
        """
        with self._stored:
            return self._advance()

    def _advance(self) -> list[Any]:
        failed, work = self.failed, self._work
        states, changed = self._states, self._changed
        while self._at < len(work):
            event, results = work[self._at]
            self._at += 1
            if failed and self._is_parked(event):
                continue
            spoiled: list[Any] = []  # keys whose states it may have changed
            try:
                new = self._apply_all(event["position"], results, spoiled)
            except BaseException as error:
                pass_on_what_ends(error)
                self._fail(event, error)
                self._copied.update(spoiled)
                if spoiled:
                    return spoiled
                continue
            states.update(new)
            for key in new:
                changed[key] = event["position"]
        return []

    def _apply_all(
        self,
        position: int,
        results: Sequence[tuple[Any, Keys]],
        spoiled: list[Any],
    ) -> dict[Any, Applied]:
        """Return the states of all keys after a stored event."""
        new: dict[Any, Applied] = {}
        positions = self._positions
        for one, keys in results:
            for key in keys:
                if position > positions.get(key, 0):  # else the document has it
                    own = one if len(keys) == 1 else own_copy(one, keys)
                    new[key] = self._apply(own, key, new, spoiled)
        return new

    def _apply(
        self, event: Any, key: Any, new: Mapping[Any, Applied], spoiled: list[Any]
    ) -> Applied:
        """Return the state of a key after an event; ``new`` are those just made."""
        state: Any = new[key] if key in new else self._states.get(key)
        if state is None:
            state = self._initial()
        elif key in new:
            pass  # of the same stored event: it fails or succeeds with this one
        elif key in self._copied:
            state = copy.deepcopy(state)
        else:
            spoiled.append(key)
        return self._applied(event, state, key)

    def _is_parked(self, event: Document) -> bool:
        """Whether an event failed, or comes after one of its stream that did."""
        known = self.failed.get(event["aggregateId"])
        return known is not None and event["position"] >= known.event["position"]

    def _initial(self) -> Any:
        return copy.deepcopy(dict(self._cls.initial_state))

    def restore(self, key: Any, document: Document | None) -> None:
        """
        Make the state of a key again, from its document and the events applied so far.

        The event that failed may have changed the state before it raised.

        Args:
            key: as ``advance()`` returned it.
            document: as it is stored; None if it is not.

        Raises:
            HandlerFailed: an event fails that did not fail before.
        """
        with self._stored:
            self._states[key] = self._restored(key, document)

    def _restored(self, key: Any, document: Document | None) -> Any:
        state: Any = document["state"] if document else None
        applied_at = self._positions.get(key, 0)
        try:
            for event, results in self._work[: self._at]:
                if event["position"] <= applied_at or self._is_parked(event):
                    continue
                for one, keys in results:
                    if key in keys:
                        before = self._initial() if state is None else state
                        state = self._applied(own_copy(one, keys), before, key)
        except BaseException as error:
            pass_on_what_ends(error)
            raise HandlerFailed(error) from error
        return state

    def changed(self) -> Iterator[Document]:
        """Yield the documents that change, in their new form."""
        for key, position in self._changed.items():
            if (state := self._states[key]) is None:
                continue
            new = {"_id": key, "state": state, "position": position}
            if key in self._late:
                new["late"] = self._late[key]
            yield new

    def deleted(self) -> dict[Any, int]:
        """Return the keys of deleted documents, and the position of what did it."""
        changed = self._changed.items()
        return {key: at for key, at in changed if self._states[key] is None}

    def counts(self) -> Counter[Any]:
        """Return how many events each key has."""
        return Counter(
            key
            for _, results in self._work
            for key in {k for _, ks in results for k in ks}
        )
