"""
What the documents of a projection should hold according to its events. Pure, no I/O.

Documents are chosen by their keys, and so are the events to fold. Events reveal a
document that was lost; its key reveals a document that no event made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import bson
from pymongo.errors import DocumentTooLarge

from ..documents.bson_types import CODEC, Document
from ..documents.catalogue.objects import StoredEvents
from ..projections.fold import Keys, applier, keyed, own_copy
from ..streams.reducers import error_text, pass_on_what_ends
from ..streams.snapshots import MAX_BYTES
from .options import ProjectionSizes
from .report import DOCUMENT, LATE, PROJECTION, UNSOUND, Finding
from .rules import differing_paths

_MOST_SHARES = 2**40  # keys that are then still together have the same hash
_KEY_CHARACTERS = 100  # of a key in a finding


@dataclass(frozen=True)
class Share:
    """The keys whose salted hash has the remainder ``rest`` when divided by ``of``."""

    salt: int
    of: int = 1
    rest: int = 0

    def holds(self, key: object) -> bool:
        """Whether a key belongs to the share."""
        # Python's own hash, because 5 and Int64(5) are one _id and have one hash.
        return self.of == 1 or hash((self.salt, key)) % self.of == self.rest

    def halves(self) -> tuple[Share, Share]:
        """Return two shares that make up this one."""
        return (
            replace(self, of=2 * self.of),
            replace(self, of=2 * self.of, rest=self.rest + self.of),
        )


@dataclass(frozen=True)
class Missing:
    """Events up to the checkpoint of a projection that are not in its documents."""

    #: Parked streams, each with the position from which its events are missing.
    parked: Mapping[str, int] = field(default_factory=dict)
    #: The positions of skipped events.
    skipped: Set[int] = frozenset()
    #: The positions of events that deleted a document out of order.
    deleted_late: Set[int] = frozenset()

    def holds(self, event: Document) -> bool:
        """Whether an event is missing."""
        position = event["position"]
        since = self.parked.get(event["aggregateId"])
        return position in self.skipped or (since is not None and position >= since)


class Expected:
    """
    The documents of one share of the keys: stored, and folded from their events.

    Both are held as BSON, which takes a fraction of the memory of dicts.

    Args:
        cls: the projection.
        share: which keys.
        missing: events that are not in the documents.
        scanned: the position up to which another share already reported the events
            whose key fails.
        sizes: how much to hold.
    """

    def __init__(
        self,
        cls: Any,
        share: Share,
        missing: Missing,
        scanned: int = 0,
        sizes: ProjectionSizes | None = None,
    ) -> None:
        self.share = share
        self._cls = cls
        self._missing = missing
        self._scanned = scanned
        self._sizes = sizes or ProjectionSizes()
        #: Stored documents by key; None until they are read.
        self.stored: dict[Any, bytes | None] = {}
        self._folded: dict[Any, bytes] = {}
        self._applied = applier(cls)
        self._broken: set[Any] = set()
        self._late: set[Any] = set()  # keys of documents that a retry deleted
        self._bytes = {"stored": 0, "folded": 0}

    # --- documents

    def choose(self, ids: Sequence[Any]) -> None:
        """Add the keys that belong to the share."""
        for key in map(_hashable, ids):
            if self.share.holds(key):
                self.stored[key] = None

    def unread(self, size: int) -> Iterator[list[Any]]:
        """Yield the ``_id`` of chosen documents that are still to be read, in pages."""
        keys = list(self.stored)
        for start in range(0, len(keys), size):
            # Keys of a share that was lost meanwhile are no longer chosen.
            page = [key for key in keys[start : start + size] if key in self.stored]
            if page:
                yield [_id_of(key) for key in page]

    def add_stored(self, documents: Sequence[Document]) -> None:
        """Add documents as they are stored."""
        for document in documents:
            key = _hashable(document.pop("_id"))
            if key in self.stored:
                self.stored[key] = encoded = _encoded(document)
                self._bytes["stored"] += len(encoded)

    # --- events

    def fold(self, events: Sequence[Document]) -> Iterator[Finding]:
        """Fold events, in order of position; yield a finding where a method raises."""
        by_key: dict[Any, list[tuple[Document, Any]]] = {}
        stored = StoredEvents()
        for event in events:
            if self._missing.holds(event):
                continue
            try:
                with stored:
                    results = keyed(self._cls, event, stored)
            except BaseException as error:
                pass_on_what_ends(error)
                if event["position"] > self._scanned:
                    yield self._raised("key", event, "a key", error_text(error))
                continue
            with stored:
                self._add(event, results, by_key)
        for key, its_events in by_key.items():
            with stored:
                finding = self._fold_key(key, its_events)
            if finding:
                self._broken.add(key)
                yield finding

    def _add(
        self,
        event: Document,
        results: Sequence[tuple[Any, Keys]],
        by_key: dict[Any, list[tuple[Document, Any]]],
    ) -> None:
        """Add the results of a stored event to those of their keys."""
        for one, keys in results:
            mine = list(filter(self.share.holds, keys))
            for key in mine:
                pair = event, own_copy(one, keys)
                by_key.setdefault(key, []).append(pair)
            if event["position"] in self._missing.deleted_late:
                self._late.update(mine)

    def _fold_key(
        self, key: Any, events: Sequence[tuple[Document, Any]]
    ) -> Finding | None:
        """Fold events, each as stored and as it is applied."""
        if key in self._broken:
            return None
        old = self._folded.get(key, b"")
        state: Any = bson.decode(old, CODEC)["state"] if old else None
        for event, one in events:
            try:
                if state is None:
                    state = copy.deepcopy(dict(self._cls.initial_state))
                state = self._applied(one, state, key)
            except BaseException as error:
                pass_on_what_ends(error)
                expected = f"a state of key {_text_of(key)}"
                return self._raised("apply", event, expected, error_text(error))
        last, _ = events[-1]
        if state is None:
            self._folded.pop(key, None)
            self._bytes["folded"] -= len(old)
            return None
        try:
            # As MongoDB returns it: the next events are folded onto that.
            new = _encoded({"state": state, "position": last["position"]})
            if len(new) > MAX_BYTES:
                raise DocumentTooLarge(f"{len(new):,} bytes are too many.")
        except BaseException as error:
            pass_on_what_ends(error)
            expected = f"a state of key {_text_of(key)} that MongoDB can hold"
            return self._raised("apply", last, expected, error_text(error))
        self._folded[key] = new
        self._bytes["folded"] += len(new) - len(old)
        return None

    def _raised(
        self, method: str, event: Document, expected: str, found: str
    ) -> Finding:
        version = event["aggregateVersion"]
        return Finding(
            PROJECTION,
            event["aggregateId"],
            (version, version),
            f"{method} of projection {self._cls.name} at position {event['position']}",
            expected,
            found,
        )

    # --- memory

    def give_up(self) -> list[Share]:
        """Narrow the share until it fits into memory; return the shares it lost."""
        lost = []
        while self._is_too_much() and self.share.of < _MOST_SHARES:
            self.share, other = self.share.halves()
            lost.append(other)
            for held in (self.stored, self._folded):
                for key in [key for key in held if not self.share.holds(key)]:
                    del held[key]
            self._broken = set(filter(self.share.holds, self._broken))
            self._late = set(filter(self.share.holds, self._late))
            self._bytes = {
                "stored": sum(len(one or b"") for one in self.stored.values()),
                "folded": sum(map(len, self._folded.values())),
            }
        return lost

    def _is_too_much(self) -> bool:
        keys = max(len(self.stored), len(self._folded), len(self._broken))
        most_keys, most_bytes = self._sizes.held_keys, self._sizes.held_bytes
        return keys > most_keys or (keys > 1 and max(self._bytes.values()) > most_bytes)

    # --- the result

    def __len__(self) -> int:
        return len(self.stored.keys() | self._folded.keys() | self._broken)

    def differences(self) -> Iterator[tuple[Finding | None, str | None]]:
        """Yield for each key a finding, or why it was not compared, or neither."""
        for key in {**self.stored, **self._folded}:
            if key in self._broken:
                if key in self.stored:
                    yield None, UNSOUND
            else:
                yield self._difference(key)

    def _difference(self, key: Any) -> tuple[Finding | None, str | None]:
        stored, folded = self.stored.get(key), self._folded.get(key)
        document = bson.decode(stored, CODEC) if stored else {}
        is_late = bool(document.pop("late", None)) or key in self._late
        if not stored and not folded:
            return None, None
        if not folded:
            expected, found = "no document: its events make none", "one"
        elif not stored:
            expected, found = "what its events fold to", "no document"
        elif paths := differing_paths(document, bson.decode(folded, CODEC)):
            expected, found = "what its events fold to", f"other values at {paths}"
        else:
            return None, None
        if is_late:
            return None, LATE
        return self._finding(key, expected, found), None

    def _finding(self, key: Any, expected: str, found: str) -> Finding:
        subject = f"document {_text_of(key)} of projection {self._cls.name}"
        return Finding(DOCUMENT, None, None, subject, expected, found)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return bson.encode(document, codec_options=CODEC)


def _hashable(key: Any) -> Any:
    """Return the key of a document for a dict: any other ``_id`` as BSON."""
    # True and 1 are two ids in MongoDB, and one key in a dict.
    is_key = isinstance(key, (str, int, float)) and not isinstance(key, bool)
    return key if is_key else _encoded({"": key})


def _id_of(key: Any) -> Any:
    return bson.decode(key, CODEC)[""] if isinstance(key, bytes) else key


def _text_of(key: Any) -> str:
    text = repr(_id_of(key))
    return text if len(text) <= _KEY_CHARACTERS else text[:_KEY_CHARACTERS] + "…"
