"""What a process leaves to the next one that runs its subscription, dead or frozen."""

import pytest
from django.conf import settings
from pymongo import monitoring

from ossy_event_store import EventStore, Projection, register_projection
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.projections.writer import Writer
from ossy_event_store.subscriptions import operator_actions, parked_streams
from ossy_event_store.subscriptions.checkpoints import ClaimLost
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.projections import Loans
from tests.support.projections import events as events
from tests.support.projections import loans as loans
from tests.support.projections import writer as writer
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running

pytestmark = pytest.mark.usefixtures("quick")


# --- dead in between --------------------------------------------------------


def test_after_a_crash_the_events_before_a_parked_one_are_applied(
    loans, store, lend, monkeypatch
):
    write, died = Writer._write, []

    async def die_once(self, requests):
        if not died:
            died.append(parked(store))
            raise ConnectionError("the process dies here")
        await write(self, requests)

    monkeypatch.setattr(Writer, "_write", die_once)
    lend("a", "BookLent", "NoKey", "BookLent")
    lend("b", "BookLent")
    with running():
        reached(store, "loans", 4)
    assert died == [[]]  # what is not written is not parked either
    (waits,) = parked(store)
    assert waits["aggregateVersion"] == 2
    assert Loans.get("ann") == {"lent": 2, "books": ["a", "b"]}
    assert operator_actions.skip("loans", "a", "there is no such reader")
    with running():
        until(lambda: not parked(store))
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "b", "a"]}


# --- frozen, and back when another has gone on ------------------------------


def test_a_frozen_process_does_not_undo_a_retry(writer, store, events, monkeypatch):
    parked_one, first, last = events("b", "a", "c")
    key = parked_streams.parked_id("loans", "b")
    waits = {"_id": key, "position": 1, "aggregateVersion": 1}
    connection.raw(store.parked).insert_one(waits)
    frozen = writer()
    drive(frozen.deliver([first], 2))
    find = frozen._find

    async def thaw_too_late(keys, **options):
        found = await find(keys, **options)
        await other.redeliver(waits, [parked_one], 2, lambda: False)
        return found

    other = writer()
    monkeypatch.setattr(frozen, "_find", thaw_too_late)
    with pytest.raises(ClaimLost):
        drive(frozen.deliver([last], 3))
    drive(other.deliver([last], 3))
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "b", "c"]}
    assert checkpoint(store, "loans")["lateAt"] == 2


def test_a_failed_retry_does_not_undo_what_another_process_did(store, lend):
    got, bad = [], {"a"}

    @subscription("reader", session=True, retries=0)
    def reader(event, session):
        if event["aggregateId"] in bad:
            raise KeyError("title")
        got.append(event["position"])

    lend("a", "BookBought", "BookLent")
    with running():
        reached(store, "reader", 2)
    (waits,) = parked(store)
    bad.clear()
    operator_actions.retry("reader")
    with running():
        until(lambda: not parked(store))
    bad.add("a")
    lend("a", "BookReturned")
    with running():
        reached(store, "reader", 3)
    (now,) = parked(store)
    # The one that was frozen in the handler comes back, and its handler fails.
    event = next(EventStore.read_all())
    with pytest.raises(ClaimLost):
        drive(
            parked_streams.record_failed_retry(store, waits, event, KeyError("title"))
        )
    assert parked(store) == [now]
    assert got == [1, 2]


class Sent(monitoring.CommandListener):
    """Keeps what was sent, and the server's time of each answer, in order."""

    def __init__(self):
        self.all, self._started = [], {}

    def started(self, event):
        self._started[event.request_id] = dict(event.command)

    def succeeded(self, event):
        command = self._started.pop(event.request_id)
        self.all.append((command, event.reply.get("operationTime")))

    def failed(self, event):
        pass


def seen_by(sent, wanted):
    """Return what a read waits for, and the time of the last ping before it."""
    time = None
    for command, at in sent.all:
        if "ping" in command:
            time = at
        if "find" in command and wanted(command):
            yield command["readConcern"].get("afterClusterTime"), time


@pytest.mark.skipif(settings.STORE != "url", reason="its client is not our own")
def test_a_new_primary_that_lags_releases_no_stream(store, lend, settings, request):
    bad, sent = {"a"}, Sent()
    settings.OSSY_EVENT_STORE = {
        **settings.OSSY_EVENT_STORE,
        "OPTIONS": {"event_listeners": [sent]},
    }
    request.addfinalizer(connection.Mongo.close)
    store = connection.blocking()

    @subscription("reader", retries=0)
    def reader(event):
        if event["aggregateId"] in bad:
            raise KeyError("title")

    lend("a", "BookBought", "BookLent")
    with running():
        reached(store, "reader", 2)
        bad.clear()
        operator_actions.retry("reader")
        until(lambda: not parked(store))
    waiting = [*seen_by(sent, lambda c: [*c["filter"]] == ["subscription"])]
    backlog = [
        *seen_by(
            sent,
            lambda c: (
                c["find"] == connection.POSITIONS and "aggregateVersion" in c["filter"]
            ),
        )
    ]
    assert len(backlog) >= 2
    for after, ping in [waiting[0], *backlog]:
        assert ping is not None
        assert after is not None
        assert after >= ping


# --- written in part --------------------------------------------------------


class PerReader(Projection):
    """Counts what a reader borrowed."""

    name = "per_reader"
    broken = set()

    @staticmethod
    def key(event):
        return event["payload"]["to"]

    @classmethod
    def apply(cls, event, state):
        key = cls.key(event)
        lent = state.get("lent", 0) + 1
        return {"lent": lent, "bad": {key} if key in cls.broken else None}


@pytest.fixture
def per_reader(loans, monkeypatch):
    monkeypatch.setattr(PerReader, "broken", set())
    return register_projection(PerReader)


def lent_to(stream, *readers):
    EventStore.append_events(
        [
            {
                "aggregateId": stream,
                "aggregateType": "Book",
                "type": "BookLent",
                "payload": {"to": reader},
            }
            for reader in readers
        ]
    )


def test_an_event_after_one_that_cannot_be_stored_is_applied_once(per_reader, store):
    lent_to("z", "ann")
    with running("per_reader"):
        reached(store, "per_reader", 1)
    PerReader.broken.add("ann")
    lent_to("a", "ann", "bob")  # an update that fails, and an insert that does not
    with running("per_reader"):
        until(lambda: parked(store))
        reached(store, "per_reader", 3)
        assert PerReader.get("bob") is None
        PerReader.broken.clear()
        operator_actions.retry("per_reader")
        until(lambda: not parked(store))
    assert PerReader.get("ann")["lent"] == 2
    assert PerReader.get("bob")["lent"] == 1


def test_a_write_that_the_collection_refuses_is_retried_and_parks_nothing(
    per_reader, store, caplog
):
    lent_to("z", "zoe")
    with running("per_reader"):
        reached(store, "per_reader", 1)
    documents = PerReader.collection
    documents.create_index("state.lent", unique=True)
    lent_to("a", "ann", "zoe")
    with running("per_reader"):
        until(lambda: "Subscription per_reader failed, retrying: " in caplog.text)
        assert not parked(store)
        documents.drop_indexes()
        reached(store, "per_reader", 3)
    assert PerReader.get("ann")["lent"] == 1
    assert PerReader.get("zoe")["lent"] == 2
