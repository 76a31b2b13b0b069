"""Books whose streams take part in transactions."""

from ossy_event_store import Aggregate, EventStore
from tests.library.aggregate import Book

BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}
LENT = {"type": "BookLent", "payload": {"to": "ann"}}
RETURNED = {"type": "BookReturned"}


def bought(*ids):
    return [Aggregate.of(Book, {**BOUGHT, "aggregateId": one}) for one in ids]


def of(aggregate_id, t):
    return Aggregate.of(Book, aggregate_id, session=t.session)


def versions(*ids):
    return [EventStore.count(one) for one in ids]
