"""
The reader's rule: which stored documents are events, and which are passed over. Pure.

Another program may have stored documents of its own among the events. Everything that
reads the log follows the same rule: such a document is named, counted and passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .bson_types import Document

NAMED_DOCUMENTS = 5  # of those that were passed over

# The rule as parts of a query: the types of an event, and its version.
TYPED: Document = {name: {"$type": "string"} for name in ("aggregateType", "type")}
VERSIONED: Document = {"$gt": 0, "$type": ["int", "long"]}


def is_event(document: Document) -> bool:
    """
    Whether a stored document is an event: it says of which stream, version and type.

    Everything that reads the log passes over any other document, which another program
    has stored. ``reason_against()`` says why.
    """
    get = document.get  # this runs for every event of a rebuild
    version = get("aggregateVersion")
    return (
        # Code, which BSON holds as well, is a subclass of str.
        type(get("aggregateId")) is str
        and isinstance(version, int)
        and type(version) is not bool
        and version > 0
        and type(get("aggregateType")) is str
        and type(get("type")) is str
    )


def reason_against(document: Document) -> str:
    """Return why a stored document is no event; "" if it is one."""
    for name in ("aggregateId", "aggregateVersion", "aggregateType", "type"):
        sound = {"aggregateId": "", "aggregateVersion": 1, "aggregateType": ""}
        if is_event({**sound, "type": "", name: document.get(name)}):
            continue
        expected = "an integer from 1" if name == "aggregateVersion" else "a string"
        if name not in document:
            return f"{name} is missing"
        value = document[name]
        found = repr(value) if isinstance(value, (int, float)) else type(value).__name__
        return f"{name} must be {expected}, not {found}"
    return ""


@dataclass
class PassedOver:
    """Documents that were passed over because they are no events; see ``is_event``."""

    #: How many there were.
    count: int = 0
    #: The ``_id`` of each of the first ones, with the reason why it is no event.
    named: list[str] = field(default_factory=list)

    def events(self, documents: list[Document]) -> list[Document]:
        """Return the events among some documents, and take note of the others."""
        events = list(filter(is_event, documents))
        if len(events) < len(documents):
            for document in documents:
                if reason := reason_against(document):
                    self.add(document["_id"], reason)
        return events

    def add(self, document_id: object, reason: str) -> None:
        """Take note of a document."""
        self.count += 1
        if len(self.named) < NAMED_DOCUMENTS:
            self.named.append(f"{document_id!r}: {reason}")

    def include(self, other: PassedOver) -> None:
        """Add what another reader passed over."""
        self.count += other.count
        self.named += other.named[: NAMED_DOCUMENTS - len(self.named)]

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        more = "; …" if self.count > len(self.named) else ""
        what = (
            "1 document that is no event"
            if self.count == 1
            else (f"{self.count:,} documents that are no events")
        )
        return f"Passed over {what} ({'; '.join(self.named)}{more})."
