"""Events on their way through the outbox of an SQL database."""

from contextlib import contextmanager

from django.db import transaction

from ossy_event_store import EventStore, append_on_commit
from ossy_event_store.exceptions import StoreUnavailable
from ossy_event_store.relational import append_waiting, on_commit, outbox

from .relational import SQL


def lent(stream="b-1", to="ann", **more):
    return {
        "type": "BookLent",
        "aggregateId": stream,
        "aggregateType": "Book",
        "payload": {"to": to},
        **more,
    }


def commit(*events, using=SQL):
    """Append events on the commit of one transaction."""
    with transaction.atomic(using=using):
        return [append_on_commit(event, using=using) for event in events]


def waiting(using=SQL):
    return list(outbox.rows(using).order_by("id"))


def readers(stream="b-1"):
    """To whom a book was lent, in order."""
    return [event["payload"]["to"] for event in EventStore.get_event_stream(stream)]


@contextmanager
def away(monkeypatch):
    """Let MongoDB be away, as far as the outbox sees; nobody pauses before or after."""

    def refuse(*args):
        raise StoreUnavailable("no server answered")

    monkeypatch.setattr(on_commit, "_paused_until", float("-inf"))
    with monkeypatch.context() as patch:
        patch.setattr(append_waiting, "append_at", refuse)
        yield
    monkeypatch.setattr(on_commit, "_paused_until", float("-inf"))


def park(row, error):
    """Park a row, as a try does that fails for the event's own fault."""
    outbox.record_failure(SQL, row, error, park=True)
