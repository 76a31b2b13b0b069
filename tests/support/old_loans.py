"""
A library whose events have changed over the years, and what its code makes of them.

- ``Lent`` had a field ``who`` (version 1) and no weeks (version 2).
- ``Scanned`` was a loan and a visit; both are events of their own now.
- ``Noise`` is of no interest any more.
"""

import datetime as dt
import secrets
from dataclasses import dataclass

from ossy_event_store import EventStore, event, upcaster

NEW = {"book": "Emma", "reader": "ann", "weeks": 3}  # what each loan is today


class Broken:
    """Books whose events no upcaster can read."""

    books = set()


def _readable(payload):
    if payload["book"] in Broken.books:
        raise ValueError("broken")
    return payload


def declare(weeks=3):
    """Declare the event types as they are today."""

    @event("Lent", version=3, aliases=["lent"])
    @dataclass(frozen=True)
    class Lent:
        book: str
        reader: str
        weeks: int

    @upcaster("Lent", 1)
    def renamed(payload):
        return {"book": _readable(payload)["book"], "reader": payload["who"]}

    @upcaster("Lent", 2)
    def with_weeks(payload):
        return {**payload, "weeks": weeks}

    @upcaster("Scanned", 1, into={"Lent": 2, "Visited": 1})
    def split(payload):
        loan = {"book": _readable(payload)["book"], "reader": payload["who"]}
        return [("Lent", loan), ("Visited", {"reader": payload["who"]}), payload]

    @upcaster("Noise", 1)
    def dropped(payload):
        return []


def store_events(*kinds, stream="a", book="Emma"):
    """Store events as earlier releases did: each a type, or a type and its version."""
    known = EventStore.collection.count_documents({"aggregateId": stream})
    documents = []
    for number, kind in enumerate(kinds, known + 1):
        name, version = (kind, 1) if isinstance(kind, str) else kind
        payload = {"book": book, "who": "ann"}
        if version == 2:
            payload = {"book": book, "reader": "ann"}
        document = {
            "_id": secrets.token_hex(8),
            "aggregateType": "Shelf",
            "aggregateId": stream,
            "aggregateVersion": number,
            "type": name,
            "payload": {**NEW, "book": book} if version == 3 else payload,
            "metadata": {},
            "created": dt.datetime.now(dt.UTC),
            "createdBy": None,
        }
        if version > 1:
            document["typeVersion"] = version
        documents.append(document)
    EventStore.collection.insert_many(documents)
    return documents


#: A stream of every kind, and the loans of which a reader learns.
KINDS = ("Lent", "Noise", ("Lent", 2), "lent", "Scanned", ("Lent", 3), "Returned")
LOANS = 5


class Shelf:
    """Counts the loans, as the code knows them today."""

    aggregate_type = "Shelf"
    revision = "1"

    @staticmethod
    def view(events, saved_state):
        state = {"loans": 0, "weeks": 0, "visits": 0, "others": [], **saved_state}
        for one in events:
            if one["type"] == "Lent":
                assert one["payload"].keys() == {"book", "reader", "weeks"}
                state["loans"] += 1
                state["weeks"] += one["payload"]["weeks"]
            elif one["type"] == "Visited":
                state["visits"] += 1
            else:
                state["others"] = [*state["others"], one["type"]]
        return state


STATE = {"loans": 5, "weeks": 15, "visits": 1, "others": ["Scanned", "Returned"]}
