"""Three servers: replication that stops, and primaries that die."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from pymongo.write_concern import WriteConcern

from ossy_event_store import (
    Aggregate,
    ConcurrencyError,
    Condition,
    EventStore,
    InvalidBoundary,
    Mongo,
    OutcomeUnknown,
    StoreUnavailable,
    item,
)
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.subscriptions.declaration import Subscription
from ossy_event_store.subscriptions.delivery import Delivered
from ossy_event_store.subscriptions.snapshot_subscription import Snapshots
from tests.library.aggregate import Book
from tests.support.faults import (
    awaitable,
    blocking,
    bought,
    by_url,
    collection,
    database,
    elect_another,
    lent,
    new_ids,
    raw,
    replication_stopped,
    same_everywhere,
    stored,
    within,
    write_as_another,
)
from tests.support.servers import until

pytestmark = [pytest.mark.faults, by_url]


def books_and_events():
    """A book for each face and for one event or several, and the events to add."""
    return [
        (call, bought(), new_ids(count))
        for call in (blocking, awaitable)
        for count in (1, 3)
    ]


def all_at_once(pool, tries):
    return [pool.submit(call, book.add, *lent(*ids)) for call, book, ids in tries]


def outcomes(futures):
    """What came of some calls, the errors by their class."""
    return [
        type(future.exception(30)) if future.exception(30) else future.result().version
        for future in futures
    ]


def test_without_a_majority_the_outcome_is_unknown_until_there_is_one(
    replicated, limit
):
    tries = books_and_events()
    primary = replicated.primary
    limit(1)
    with ThreadPoolExecutor(len(tries)) as pool:
        with replication_stopped(replicated):
            with within(1):
                unknown = all_at_once(pool, tries)
                assert outcomes(unknown) == [OutcomeUnknown] * 4
            for _, book, ids in tries:
                assert stored(primary, book.id, "local") == [book.id, *ids]
            with within(1):  # now each id is there already, on one server of three
                again = all_at_once(pool, tries)
                assert outcomes(again) == [OutcomeUnknown] * 4
        limit(15)
        assert outcomes(all_at_once(pool, tries)) == [2, 4, 2, 4]
    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_events_that_die_with_their_primary_are_stored_by_the_next_try(replicated):
    tries = books_and_events()
    old = replicated.primary
    with ThreadPoolExecutor(len(tries)) as pool:
        with replication_stopped(replicated):
            adding = all_at_once(pool, tries)
            for _, book, ids in tries:
                until(
                    lambda b=book, i=ids: stored(old, b.id, "local") == [b.id, *i],
                )
            assert not any(future.done() for future in adding)
            old.kill()
        new = elect_another(replicated, old)
        assert outcomes(adding) == [2, 4, 2, 4]
    for _, book, ids in tries:
        assert stored(new, book.id) == [book.id, *ids]
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_rolled_back_event_is_stored_by_its_retry_or_has_lost_its_place(
    replicated, limit
):
    tries = books_and_events()
    beaten = books_and_events()
    old = replicated.primary
    limit(1)
    with ThreadPoolExecutor(8) as pool:
        with replication_stopped(replicated):
            assert outcomes(all_at_once(pool, tries + beaten)) == [OutcomeUnknown] * 8
            old.kill()
        new = elect_another(replicated, old)
        limit(15)
        for _, book, _ in beaten:
            write_as_another(new, book.id, 2, f"other {book.id}")

        assert outcomes(all_at_once(pool, tries)) == [2, 4, 2, 4]
        assert outcomes(all_at_once(pool, beaten)) == [ConcurrencyError] * 4

    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])
    for _, book, _ in beaten:
        same_everywhere(replicated, book.id, [book.id, f"other {book.id}"])


def test_a_repetition_is_not_refused_while_the_end_of_the_stream_is_in_doubt(
    replicated, limit
):
    """A primary that was just elected may read less than was read before."""
    primary, one = replicated.primary, WriteConcern(1)
    tries = [(call, bought(), *new_ids(2)) for call in (blocking, awaitable)]
    limit(1)
    with replication_stopped(replicated):
        for call, book, before, ours in tries:
            # What an earlier call has sent follows an event that the caller knows.
            write_as_another(primary, book.id, 2, before, one)
            write_as_another(primary, book.id, 3, ours, one, createdBy=None)
            with pytest.raises(StoreUnavailable):
                call(EventStore.append_event, again(book, ours), expected_version=2)
            with pytest.raises(StoreUnavailable):  # not even if it has no such id
                call(EventStore.append_event, again(book), expected_version=4)
    limit(15)
    for call, book, before, ours in tries:
        found = call(EventStore.append_event, again(book, ours), expected_version=2)
        assert (found["_id"], found["aggregateVersion"]) == (ours, 3)
        with pytest.raises(ConcurrencyError) as caught:
            call(EventStore.append_event, again(book), expected_version=4)
        assert caught.value.actual_version == 3
        same_everywhere(replicated, book.id, [book.id, before, ours])


def test_a_position_that_a_new_primary_does_not_know_yet_is_waited_for(
    replicated, limit
):
    one = WriteConcern(1)
    event = raw(new_ids()[0], {**lent(*new_ids())[0], "tags": ["reader:ann"]})
    unless = Condition(item(tags=["reader:ann"]), after=1)
    limit(1)
    with replication_stopped(replicated):
        positions = collection(replicated.primary, name=connection.POSITIONS, write=one)
        with positions as entries:
            entries.replace_one({"_id": 1}, {"eventId": "e"}, upsert=True)
        with pytest.raises(StoreUnavailable):
            EventStore.append_events([event], unless=unless)
    limit(15)
    assert EventStore.append_events([event], unless=unless)
    unknown = Condition(item(tags=["reader:ann"]), after=2)
    with pytest.raises(InvalidBoundary, match="position 2 is not assigned"):
        EventStore.append_events([event], unless=unknown)
    connection.raw(connection.blocking().positions).delete_many({})


def again(book, event_id=None):
    """Return the event that ``write_as_another`` has written."""
    event = raw(book.id, {"type": "BookReturned"})
    return event if event_id is None else {**event, "id": event_id}


def test_a_loader_does_not_see_what_a_frozen_primary_takes_with_it(replicated, limit):
    tries = books_and_events()
    old = replicated.primary
    one = WriteConcern(1)
    with replication_stopped(replicated):
        for call, book, _ in tries:
            write_as_another(old, book.id, 2, f"lost {book.id}", one)
            assert len(stored(old, book.id, "local")) == 2
            assert call(EventStore.count, book.id) == 1
        loaded = [call(Aggregate.of, Book, book.id) for call, book, _ in tries]
        old.freeze()
    try:
        new = elect_another(replicated, old)
        limit(15)
        for (call, book, ids), again in zip(tries, loaded, strict=True):
            assert call(again.add, *lent(*ids)).version == 1 + len(ids)
            assert stored(new, book.id) == [book.id, *ids]
    finally:
        old.thaw()
    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_client_that_knows_only_the_old_primary_makes_no_hole(three, connect):
    old = three.primary
    connect(f"mongodb://{old.host}/?directConnection=true", timeout=2)
    tries = [(blocking, bought(), new_ids(count)) for count in (1, 3)]
    ids_read = [book.id for _, book, _ in tries]
    with ThreadPoolExecutor(2 * len(tries)) as pool:
        old.freeze()
        try:
            adding = all_at_once(pool, tries)
            loading = [pool.submit(Aggregate.of, Book, stream) for stream in ids_read]
            new = elect_another(three, old)
            for stream in ids_read:
                write_as_another(new, stream, 2, f"other {stream}")
        finally:
            old.thaw()
        assert not [came for came in outcomes(adding) if isinstance(came, int)]
        loaded = [load.result() for load in loading if load.exception(30) is None]
    Mongo.close()
    connect(three.url(heartbeatFrequencyMS=500))
    appended = set()
    for book in loaded:
        with contextlib.suppress(ConcurrencyError):
            book.add(*lent(f"after {book.id}"))
            appended.add(book.id)
    for stream in ids_read:
        after = [f"after {stream}"] if stream in appended else []
        same_everywhere(three, stream, [stream, f"other {stream}", *after])


def test_a_primary_that_steps_down_amid_a_write_hands_it_on(replicated):
    tries = books_and_events()
    old = replicated.primary
    name = "hangAfterCollectionInserts"
    hang = old.fail_point(
        name, "alwaysOn", collectionNS=f"{database()}.{connection.EVENTS}"
    )
    with ThreadPoolExecutor(len(tries)) as pool:
        with hang, old.client() as client:
            adding = all_at_once(pool, tries)
            client.admin.command(
                "waitForFailPoint", name, timesEntered=len(tries), maxTimeMS=10_000
            )
            client.admin.command("replSetStepDown", 2, force=True)
        assert outcomes(adding) == [2, 4, 2, 4]
    for _, book, ids in tries:
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_snapshot_of_a_rolled_back_event_is_discarded_with_a_warning(
    replicated, caplog
):
    tries = books_and_events()
    old = replicated.primary
    with replication_stopped(replicated):
        phantoms = []
        for _, book, _ in tries:
            write_as_another(old, book.id, 2, f"lost {book.id}", WriteConcern(1))
            with collection(old, "local") as events:
                seen = list(events.find({"aggregateId": book.id}))
            phantoms.append(Aggregate(Book, book.id, seen))
        old.kill()
    elect_another(replicated, old)
    for (call, book, ids), phantom in zip(tries, phantoms, strict=True):
        call(phantom.save)
        assert call(Aggregate.find, book.id)["aggregateVersion"] == 2

        loaded = call(Aggregate.of, Book, book.id)

        assert (loaded.version, loaded.saved_version) == (1, 0)
        assert loaded.view() == {"loans": 0, "title": "Emma"}
        assert repr(book.id) in caplog.records[-1].getMessage()
        assert caplog.records[-1].levelname == "WARNING"
        assert call(Aggregate.find, book.id) is None
        call(call(loaded.add, *lent(*ids)).save)
        assert call(Aggregate.find, book.id)["aggregateVersion"] == 1 + len(ids)
        same_everywhere(replicated, book.id, [book.id, *ids])


def test_a_followed_snapshot_that_dies_with_its_primary_is_written_by_the_next(
    replicated,
):
    book = bought()
    events = EventStore.get_event_stream(book.id)
    declared = Subscription("snapshots", Snapshots)
    followed = Snapshots(connection.blocking(), None, declared)
    old = replicated.primary
    there = collection(old, "local", connection.SNAPSHOTS)
    with ThreadPoolExecutor(1) as pool, there as snapshots:
        with replication_stopped(replicated):
            delivered = pool.submit(drive, followed.deliver(events, 0))
            until(lambda: snapshots.find_one({"_id": book.id}))
            old.kill()
        elect_another(replicated, old)
        # What it returns lets the checkpoint pass these events for good.
        assert delivered.result(30) == Delivered(moved=False, parked=[])
    assert Aggregate.find(book.id)["aggregateVersion"] == 1
