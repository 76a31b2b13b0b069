"""Writing a projection: exactly once, and what happens to events that fail."""

import threading
from collections import Counter
from dataclasses import replace

import pytest
from django.core.management import CommandError

from ossy_event_store import EventStore, Projection, register_projection
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.projections import writer as module
from ossy_event_store.projections.writer import Writer
from ossy_event_store.streams import reducers
from ossy_event_store.subscriptions import declaration, operator_actions, parked_streams
from ossy_event_store.subscriptions.checkpoints import ClaimLost, claim, find_or_create
from ossy_event_store.subscriptions.consumer import Consumer
from ossy_event_store.subscriptions.parked_streams import Failed
from tests.support.projections import Loans, Nights, guests, stay
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, parked, reached, running, said

pytestmark = pytest.mark.usefixtures("quick")


def test_events_that_are_delivered_again_change_nothing(writer, events):
    some, one = events("a", "b", "c"), writer()
    drive(one.deliver(some[:2], 2))
    drive(one.deliver(some, 3))
    drive(one.deliver(some[1:], 3))
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "b", "c"]}


def test_documents_and_checkpoint_move_together(writer, store, events, monkeypatch):
    some, one = events("a", "b"), writer()
    assert drive(one.deliver(some[:1], 1)).moved
    assert checkpoint(store, "loans")["position"] == 1

    async def die(requests):
        raise ConnectionError("the process dies here")

    monkeypatch.setattr(one, "_write", die)
    with pytest.raises(ConnectionError):
        drive(one.deliver(some[1:], 2))
    assert checkpoint(store, "loans")["position"] == 1
    assert Loans.get("ann") == {"lent": 1, "books": ["a"]}


def test_a_process_that_was_overtaken_writes_nothing(writer, store, events):
    some = events("a", "b")
    frozen, other = writer(), writer()
    drive(other.deliver(some[:1], 1))
    with pytest.raises(ClaimLost):
        drive(frozen.deliver(some, 2))
    assert Loans.get("ann") == {"lent": 1, "books": ["a"]}
    assert checkpoint(store, "loans")["position"] == 1


def test_of_two_processes_that_write_a_document_one_gives_way(writer, events):
    some = events("a", "b", "c")
    writers = [writer(), writer(claims=False)]
    outcomes = Counter()
    together = threading.Barrier(2)

    def write(writer):
        for after in range(1, 4):
            together.wait(30)
            try:
                drive(writer.deliver(some[:after], after))
                outcomes["written"] += 1
            except ClaimLost:
                outcomes["lost"] += 1

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcomes.values()) == 6
    assert Loans.get("ann") == {"lent": 3, "books": ["a", "b", "c"]}


def test_documents_too_large_for_one_transaction_take_several(
    loans, store, lend, monkeypatch
):
    monkeypatch.setattr(Writer, "transaction_bytes", 60)
    for stream in "abc":
        lend(stream, "NoKey" if stream == "b" else "BookLent", "BookLent")
    with running():
        reached(store, "loans", 6)
    assert Loans.get("ann") == {"lent": 4, "books": ["a", "a", "c", "c"]}
    assert [waits["position"] for waits in parked(store)] == [3]


def test_of_large_documents_few_are_read_at_once(store, lend, monkeypatch):
    class Large(Projection):
        name = "large"

        @staticmethod
        def key(event):
            return event["aggregateId"]

        @staticmethod
        def apply(event, state):
            return {"text": "x" * 300_000, "count": state.get("count", 0) + 1}

    register_projection(Large)
    monkeypatch.setattr(Writer, "transaction_bytes", 700_000)
    read, load = [], Writer.fold_class.load

    def noting(fold, documents):
        read.append(len(documents))
        load(fold, documents)

    monkeypatch.setattr(Writer.fold_class, "load", noting)
    streams = "abcdefgh"
    for _ in range(2):
        for stream in streams:
            lend(stream, "BookLent")
    with running():
        reached(store, "large", 16)
    assert [Large.get(stream)["count"] for stream in streams] == [2] * 8
    assert max(read) <= 3


def test_an_event_that_cannot_be_applied_parks_its_stream(loans, store, lend):
    Loans.broken.add("b")
    for stream in "abc":
        lend(stream, "BookLent")
    lend("b", "BookLent")
    lend("c", "BookLent")
    with running():
        reached(store, "loans", 5)
        # What the failed attempt did to the state is not kept.
        assert Loans.get("ann") == {"lent": 3, "books": ["a", "c", "c"]}
        (waits,) = parked(store)
        assert (waits["aggregateId"], waits["position"]) == ("b", 2)
        assert waits["error"] == "ValueError: broken"
        Loans.broken.clear()
        assert operator_actions.retry("loans") == 1
        until(lambda: not parked(store))
        assert Loans.get("ann") == {"lent": 5, "books": ["a", "c", "c", "b", "b"]}
        lend("b", "BookLent")
        reached(store, "loans", 6)
    assert Loans.get("ann")["lent"] == 6


class PerType(Projection):
    """Keeps which versions of a stream arrived, under the type of the event."""

    name = "per_type"
    broken, keyless = set(), set()

    @classmethod
    def key(cls, event):
        cls.fail(event, cls.keyless)
        return event["type"]

    @staticmethod
    def fail(event, versions):
        if event["aggregateId"] == "books" and event["aggregateVersion"] in versions:
            raise KeyError("due")

    @classmethod
    def apply(cls, event, state):
        versions = state.setdefault("versions", [])
        versions.append(event["aggregateVersion"])
        cls.fail(event, cls.broken)
        return state


# By name: the versions at which `apply` and `key` fail, and the types of the events.
FAILURES = {
    "apply before key": ({2}, {4}, "aabab"),
    "key before apply": ({4}, {2}, "aabab"),
    "two keys, the later one first": ({2, 5}, set(), "bacbb"),
    "the same key twice": ({2, 3}, set(), "aaaaa"),
    "every event": ({1, 3, 5}, {2, 4}, "ababa"),
}


CASES = [(name, False) for name in FAILURES] + [("two keys, the later one first", True)]


@pytest.mark.parametrize(("name", "beside"), CASES)
def test_of_several_events_that_fail_the_first_parks_the_stream(
    loans, store, lend, monkeypatch, name, beside
):
    *failing, types = FAILURES[name]
    broken, keyless = map(set, failing)
    monkeypatch.setattr(PerType, "broken", broken)
    monkeypatch.setattr(PerType, "keyless", keyless)
    register_projection(PerType)
    lend("other", "b")
    lend("books", *types)
    if beside:
        with pytest.raises(CommandError, match="Parked 1 stream"):
            said("rebuild_projections", "per_type", "--blue-green")
    else:
        with running("per_type"):
            reached(store, "per_type", 6)
    first = min(broken | keyless)
    (waits,) = parked(store)
    assert (waits["aggregateVersion"], waits["position"]) == (first, first + 1)
    # Fixed and retried while a later event still fails, the stream is parked there.
    broken.discard(first)
    keyless.discard(first)
    operator_actions.retry("per_type")
    with running("per_type"):
        left = broken | keyless
        until(lambda: [w["aggregateVersion"] for w in parked(store)] == [*left][:1])
        broken.clear()
        keyless.clear()
        operator_actions.retry("per_type")
        until(lambda: not parked(store))
    found = {one["_id"]: one["state"]["versions"] for one in PerType.collection.find()}
    for kind in set(types) | {"b"}:
        wanted = [version for version, t in enumerate(types, 1) if t == kind]
        assert found[kind] == [1] * (kind == "b") + wanted


def test_streams_are_parked_in_the_transaction_that_writes_others(
    writer, store, events
):
    Loans.broken.add("a")
    one = writer()
    done = drive(one.deliver(events("a", "b"), 2))
    assert [failed.event["aggregateId"] for failed in done.parked] == ["a"]
    assert [waits["aggregateId"] for waits in parked(store)] == ["a"]
    assert Loans.get("ann") == {"lent": 1, "books": ["b"]}


def test_an_event_changes_and_deletes_several_documents(nights, store):
    stay("ann", "mon", "tue", "wed")
    stay("bob", "tue")
    with running("nights"):
        reached(store, "nights", 2)
        assert guests() == {"mon": ["ann"], "tue": ["ann", "bob"], "wed": ["ann"]}
        stay("ann", "mon", "tue", "thu", kind="Cancelled")
        stay("bob", "tue")
        reached(store, "nights", 4)
    assert guests() == {"tue": ["bob"], "wed": ["ann"]}
    assert Nights.get("mon") is None


def test_an_event_that_fails_at_one_of_its_keys_changes_none(nights, store):
    Nights.broken.add("ann")
    stay("ann", "mon", "tue")
    stay("bob", "mon")
    stay("ann", "mon", kind="Cancelled")
    with running("nights"):
        reached(store, "nights", 3)
        assert guests() == {"mon": ["bob"]}
        Nights.broken.clear()
        operator_actions.retry("nights")
        until(lambda: not parked(store))
    assert guests() == {"tue": ["ann"]}


def test_more_keys_than_one_query_takes_change_each_document(
    nights, store, monkeypatch
):
    monkeypatch.setattr(module, "KEYS_PER_READ", 2)
    for guest in ("ann", "bob"):
        stay(guest, *"abcde")
    with running("nights"):
        reached(store, "nights", 2)
    assert guests() == {key: ["ann", "bob"] for key in "abcde"}


def test_a_document_that_the_server_refuses_parks_its_stream(
    loans, store, lend, monkeypatch
):
    register_projection(Parallel)
    quickly = replace(declaration.registered_subscriptions()["parallel"], retries=0)
    monkeypatch.setitem(declaration._registered, "parallel", quickly)
    both = [("state.books", 1), ("state.more", 1)]
    connection.raw(store.events).database.projection_parallel.create_index(both)
    for stream in "abc":
        lend(stream, "BookLent")
    with running("parallel"):
        reached(store, "parallel", 3)
        (waits,) = parked(store)
        operator_actions.retry("parallel")
        until(lambda: parked(store)[0]["tries"] == 2)
    assert waits["aggregateId"] == "b"
    assert Parallel.get("ann") == {"lent": 2, "books": ["a", "c"]}


class Parallel(Loans):
    """An index on two arrays refuses what it makes of one book."""

    name = "parallel"

    @classmethod
    def apply(cls, event, state):
        more = {"more": [1, 2]} if event["aggregateId"] == "b" else {}
        return {**super().apply(event, state), **more}


def test_an_event_whose_key_fails_parks_its_stream(loans, store, lend):
    lend("a", "NoKey", "BookLent")
    lend("b", "BookLent")
    with running():
        reached(store, "loans", 3)
    assert Loans.get("ann") == {"lent": 1, "books": ["b"]}
    assert [waits["position"] for waits in parked(store)] == [1]


def test_a_key_that_mongodb_cannot_hold_parks_its_stream(loans, store, lend):
    for number, key in enumerate([2**63, -(2**63) - 1, "\ud800"]):
        stream = {"aggregateId": f"b-{number}", "aggregateType": "Book"}
        EventStore.append_event({**stream, "type": "BookLent", "payload": {}})
        KEYS[f"b-{number}"] = key
    lend("a", "BookLent")
    register_projection(OddKeys)
    with running("odd_keys"):
        reached(store, "odd_keys", 4)
    assert sorted(waits["position"] for waits in parked(store)) == [1, 2, 3]
    assert OddKeys.get(2**63 - 1)["lent"] == 1
    with pytest.raises(ValueError, match="must fit into 64 bits"):
        OddKeys.get(2**63)


KEYS = {"a": 2**63 - 1}


class OddKeys(Loans):
    name = "odd_keys"

    @staticmethod
    def key(event):
        return KEYS[event["aggregateId"]]


def test_a_page_on_which_many_streams_fail_is_written_in_time(
    loans, store, lend, settings
):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 2.0}
    many = [f"b-{number}" for number in range(1500)]
    event = {"aggregateType": "Book", "aggregateVersion": 1, "type": "NoKey"}
    connection.raw(store.events).insert_many(
        [{**event, "_id": one, "aggregateId": one, "payload": {}} for one in many]
    )
    connection.raw(store.positions).insert_many(
        [
            {"_id": position, "eventId": one, **event, "aggregateId": one}
            for position, one in enumerate(many, 1)
        ]
    )
    store = connection.blocking()
    drive(find_or_create(store, "loans", 0, "projection", generation=1, revision="1"))
    stop = threading.Event()
    consumer = Consumer(declaration.registered_subscriptions()["loans"], "me", stop)
    working = threading.Thread(target=lambda: drive(consumer.run(store)))
    working.start()
    try:
        reached(store, "loans", 1500)
    finally:
        stop.set()
        working.join(30)
    assert len(parked(store)) == 1500


class Unstorable(Loans):
    name = "unstorable"

    @classmethod
    def apply(cls, event, state):
        if event["aggregateId"] == "b":
            return {**state, "set": {1, 2}}
        return super().apply(event, state)


def test_a_state_that_cannot_be_stored_parks_its_stream(
    loans, store, lend, monkeypatch
):
    register_projection(Unstorable)
    quickly = replace(
        declaration.registered_subscriptions()["unstorable"], backoff=(0.001, 0.001)
    )
    monkeypatch.setitem(declaration._registered, "unstorable", quickly)
    for stream in "abc":
        lend(stream, "BookLent")
    with running("unstorable"):
        reached(store, "unstorable", 3)
    assert Unstorable.get("ann") == {"lent": 2, "books": ["a", "c"]}
    (waits,) = parked(store)
    assert waits["aggregateId"] == "b"
    assert "cannot encode object: {1, 2}" in waits["error"]


def test_a_changed_class_is_logged(loans, store, lend, monkeypatch, caplog):
    lend("a", "BookLent")
    with running():
        reached(store, "loans", 1)
    assert "has changed" not in caplog.text
    monkeypatch.setattr(Loans, "revision", "2", raising=False)
    reducers.reducer_revision.cache_clear()
    lend("a", "BookLent")
    with running():
        reached(store, "loans", 2)
    assert (
        "The class of projection loans, or an upcaster of its events, has changed "
        "since its documents were built; new events are added to the old documents. "
        "Run manage.py rebuild_projections loans."
    ) in caplog.text
    assert checkpoint(store, "loans")["revision"] != "2"
    reducers.reducer_revision.cache_clear()


def test_a_process_that_lost_its_claim_parks_nothing(loans, store):
    drive(find_or_create(store, "loans", "beginning", "projection"))
    mine = drive(claim(store, "loans", "me", None))
    drive(claim(store, "loans", "another", None))
    event = {
        "_id": "e",
        "type": "BookLent",
        "aggregateType": "Book",
        "aggregateId": "a",
        "aggregateVersion": 1,
        "position": 1,
    }
    session = connection.raw(store.events).database.client.start_session()
    with session, pytest.raises(ClaimLost):
        failed = Failed(event, ValueError())
        drive(parked_streams.park(store, session, "loans", mine["fence"], failed, {}))
    assert not parked(store)
