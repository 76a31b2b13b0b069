"""Fold events into the documents of a projection; pure, without I/O."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..documents.bson_types import Document
from ..documents.storable import HALF_A_SURROGATE, is_text
from ..streams.reducers import name_of
from ..subscriptions.parked_streams import Failed
from ..subscriptions.transactions import HandlerFailed


def check_key(key: object) -> None:
    """
    Refuse what cannot be the key of a document.

    Raises:
        TypeError: it is neither a string nor a number.
        ValueError: MongoDB cannot hold it.
    """
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(
            f"key must be a string or an integer, not {type(key).__name__}."
        )
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise ValueError(f"key is {key}; it must fit into 64 bits.")
    if isinstance(key, str) and not is_text(key):
        raise ValueError(f"key {HALF_A_SURROGATE}.")


class Fold:
    """
    The fold of some events into the documents of a projection.

    Events are applied in global order, whatever their keys are. So the first failure
    that is found of a stream is that of its first failing event, and no later event of
    the stream is applied.

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
        # Only events with a usable key; the others are skipped or have failed.
        self._work: list[tuple[Document, Any]] = []
        self._compute_keys(events)
        self._at = 0
        self._states: dict[Any, Any] = {}
        self._positions: dict[Any, int] = {}
        self._changed: dict[Any, int] = {}  # by key: the position of its last event
        self._late: dict[Any, int] = {}
        self._copied: set[Any] = set()  # keys at which apply failed: copy their states

    def _compute_keys(self, events: Sequence[Document]) -> None:
        key_of, work, keys = self._cls.key, self._work, self.keys
        keyless: set[str] = set()  # streams of which a key failed
        for event in events:
            if keyless and event["aggregateId"] in keyless:
                continue
            try:
                key = key_of(event)
                if key is None:
                    continue
                if type(key) is not str or not key.isascii():  # the usual costs no call
                    check_key(key)
            except Exception as error:
                keyless.add(event["aggregateId"])
                self._fail(event, error)
                continue
            keys.add(key)
            work.append((event, key))

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

    def advance(self) -> Any:
        """
        Apply the remaining events, up to the first that fails at a key.

        Returns:
            The key, whose state ``restore()`` has to make again before the next call;
            None at the end.
        """
        apply, failed = self._cls.apply, self.failed
        states, positions, changed = self._states, self._positions, self._changed
        work, copied = self._work, self._copied
        while self._at < len(work):
            event, key = work[self._at]
            self._at += 1
            if failed and self._is_parked(event):
                continue
            position = event["position"]
            if position <= positions.get(key, 0):
                continue  # the document has it already
            state = states[key] if key in states else self._initial()
            before = copy.deepcopy(state) if copied and key in copied else None
            try:
                state = apply(event, state)
                if type(state) is not dict and not isinstance(state, Mapping):
                    raise TypeError(
                        f"{name_of(self._cls)}.apply returned "
                        f"{type(state).__name__}, expected a dict."
                    )
            except Exception as error:
                self._fail(event, error)
                if key in copied:
                    states[key] = before
                    continue
                copied.add(key)
                return key
            states[key] = state
            changed[key] = position
        return None

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
        state = document["state"] if document else self._initial()
        applied_at = self._positions.get(key, 0)
        try:
            for event, other in self._work[: self._at]:
                applied = other == key and event["position"] > applied_at
                if applied and not self._is_parked(event):
                    state = self._cls.apply(event, state)
        except Exception as error:
            raise HandlerFailed(error) from error
        self._states[key] = state

    def changed(self) -> Iterator[Document]:
        """Yield the documents that change, in their new form."""
        for key, position in self._changed.items():
            new = {"_id": key, "state": self._states[key], "position": position}
            if key in self._late:
                new["late"] = self._late[key]
            yield new
