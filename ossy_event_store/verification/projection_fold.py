"""
What the documents of a projection should hold, by its events. Pure, no I/O.

Documents are chosen by their keys, and so are the events to fold. A document that was
lost is found by its events, and a document without any event by its key.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import bson
from pymongo.errors import DocumentTooLarge

from ..documents.bson_types import CODEC, Document
from ..projections.fold import check_key
from ..streams.reducers import error_text, name_of
from ..streams.snapshots import MAX_BYTES
from .report import DOCUMENT, LATE, PROJECTION, UNSOUND, Finding
from .rules import differing_paths

STATES = 100_000  # keys held at once
BYTES = 64 * 1024 * 1024  # of stored documents, and again of folded ones
_FINEST = 2**40  # shares; keys that are still together have one hash
_LONGEST = 100  # characters of a key in a finding


@dataclass(frozen=True)
class Share:
    """The keys whose salted hash leaves ``rest`` when divided by ``of``."""

    salt: int
    of: int = 1
    rest: int = 0

    def holds(self, key: object) -> bool:
        """Whether a key belongs to it."""
        # Python's own hash, since 5 and Int64(5) are one _id and have one hash.
        return self.of == 1 or hash((self.salt, key)) % self.of == self.rest

    def halves(self) -> tuple[Share, Share]:
        """Return two shares that make up this one."""
        return (
            replace(self, of=2 * self.of),
            replace(self, of=2 * self.of, rest=self.rest + self.of),
        )


@dataclass(frozen=True)
class Missing:
    """Events up to the checkpoint of a projection that its documents do not hold."""

    #: Parked streams, each with the position from which its events are missing.
    parked: Mapping[str, int] = field(default_factory=dict)
    #: The positions of skipped events.
    skipped: Set[int] = frozenset()

    def holds(self, event: Document) -> bool:
        """Whether an event is one of them."""
        position = event["position"]
        since = self.parked.get(event["aggregateId"])
        return position in self.skipped or (since is not None and position >= since)


class Expected:
    """
    The documents of one share of the keys: as stored, and as their events fold.

    Both are held as BSON, which takes a fraction of the memory of dicts.

    Args:
        cls: the projection.
        share: which keys.
        missing: events that the documents do not hold.
        scanned: the position up to which an event whose key fails is known already,
            from another share.
    """

    def __init__(
        self, cls: Any, share: Share, missing: Missing, scanned: int = 0
    ) -> None:
        self.share = share
        self._cls = cls
        self._missing = missing
        self._scanned = scanned
        #: Stored documents by key; None until they are read.
        self.stored: dict[Any, bytes | None] = {}
        self._folded: dict[Any, bytes] = {}
        self._broken: set[Any] = set()
        self._bytes = {"stored": 0, "folded": 0}

    # --- documents

    def choose(self, ids: Sequence[Any]) -> None:
        """Take the keys that belong to the share."""
        for key in map(_hashable, ids):
            if self.share.holds(key):
                self.stored[key] = None

    def unread(self, size: int) -> Iterator[list[Any]]:
        """Yield the ``_id`` of chosen documents that are to be read, so many a time."""
        keys = list(self.stored)
        for at in range(0, len(keys), size):
            if some := [key for key in keys[at : at + size] if key in self.stored]:
                yield [_id_of(key) for key in some]

    def read(self, documents: Sequence[Document]) -> None:
        """Take documents as they are stored."""
        for document in documents:
            key = _hashable(document.pop("_id"))
            if key in self.stored:
                self.stored[key] = encoded = _encoded(document)
                self._bytes["stored"] += len(encoded)

    # --- events

    def take(self, events: Sequence[Document]) -> Iterator[Finding]:
        """Fold events, in order of position; yield where the projection raises."""
        keyed: dict[Any, list[Document]] = {}
        for event in events:
            if self._missing.holds(event):
                continue
            try:
                key = self._key(event)
            except Exception as error:
                if event["position"] > self._scanned:
                    yield self._raised("key", event, "a key", error_text(error))
                continue
            if key is not None and self.share.holds(key):
                keyed.setdefault(key, []).append(event)
        for key, some in keyed.items():
            if key not in self._broken and (finding := self._fold(key, some)):
                self._broken.add(key)
                yield finding

    def _key(self, event: Document) -> Any:
        key = self._cls.key(event)
        if key is not None:
            check_key(key)
        return key

    def _fold(self, key: Any, events: Sequence[Document]) -> Finding | None:
        old = self._folded.get(key, b"")
        if old:
            state = bson.decode(old, CODEC)["state"]
        else:
            state = copy.deepcopy(dict(self._cls.initial_state))
        for event in events:
            try:
                state = self._cls.apply(event, state)
                if not isinstance(state, Mapping):
                    raise TypeError(
                        f"{name_of(self._cls)}.apply returned "
                        f"{type(state).__name__}, expected a dict."
                    )
            except Exception as error:
                text = error_text(error)
                return self._raised(
                    "apply", event, f"a state of key {_shown(key)}", text
                )
        last = events[-1]
        try:
            # As MongoDB gives it back: the next events are folded onto that.
            new = _encoded({"state": state, "position": last["position"]})
            if len(new) > MAX_BYTES:
                raise DocumentTooLarge(f"{len(new):,} bytes are too many.")
        except Exception as error:
            expected = f"a state of key {_shown(key)} that MongoDB can hold"
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
        """Narrow the share until what is held is little; return what it lost."""
        lost = []
        while self._is_too_much() and self.share.of < _FINEST:
            self.share, other = self.share.halves()
            lost.append(other)
            for held in (self.stored, self._folded):
                for key in [key for key in held if not self.share.holds(key)]:
                    del held[key]
            self._broken = set(filter(self.share.holds, self._broken))
            self._bytes = {
                "stored": sum(len(one or b"") for one in self.stored.values()),
                "folded": sum(map(len, self._folded.values())),
            }
        return lost

    def _is_too_much(self) -> bool:
        many = max(len(self.stored), len(self._folded))
        return many > STATES or (many > 1 and max(self._bytes.values()) > BYTES)

    # --- what came of it

    def __len__(self) -> int:
        return len(self.stored.keys() | self._folded.keys() | self._broken)

    def differences(self) -> Iterator[tuple[Finding | None, str | None]]:
        """Yield of each key what is wrong, or why it was not compared, or neither."""
        for key in {**self.stored, **self._folded}:
            if key in self._broken:
                if key in self.stored:
                    yield None, UNSOUND
            else:
                yield self._difference(key)

    def _difference(self, key: Any) -> tuple[Finding | None, str | None]:
        stored, folded = self.stored.get(key), self._folded.get(key)
        if folded is None:
            return self._finding(key, "no document: no event has this key", "one"), None
        if stored is None:
            return self._finding(key, "what its events fold to", "no document"), None
        document, expected = bson.decode(stored, CODEC), bson.decode(folded, CODEC)
        late = document.pop("late", None)
        if not (paths := differing_paths(document, expected)):
            return None, None
        if late:
            return None, LATE
        text = f"other values at {paths}"
        return self._finding(key, "what its events fold to", text), None

    def _finding(self, key: Any, expected: str, found: str) -> Finding:
        subject = f"document {_shown(key)} of projection {self._cls.name}"
        return Finding(DOCUMENT, None, None, subject, expected, found)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return bson.encode(document, codec_options=CODEC)


def _hashable(key: Any) -> Any:
    """Return what a document is held by: its key, or any ``_id`` as BSON."""
    # True and 1 are two ids of MongoDB, and one key of a dict.
    is_key = isinstance(key, (str, int, float)) and not isinstance(key, bool)
    return key if is_key else _encoded({"": key})


def _id_of(key: Any) -> Any:
    return bson.decode(key, CODEC)[""] if isinstance(key, bytes) else key


def _shown(key: Any) -> str:
    text = repr(_id_of(key))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
