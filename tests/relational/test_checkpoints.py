"""Checkpoints in an SQL database, alone and with a subscription."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connections, transaction

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from ossy_event_store.mongodb import connection as mongodb_connection
from ossy_event_store.projections.forget import forget
from ossy_event_store.relational import checkpoints
from ossy_event_store.relational.models import Checkpoint
from ossy_event_store.subscriptions import declaration, operator_actions
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.relational import POSTGRESQL, SQL, effects, take_effect
from tests.support.servers import until
from tests.support.subscriptions import checkpoint, reached, running

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("quick")]
WORKERS, EVENTS = 4, 40


def test_the_migration_is_that_of_the_model():
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def claim(name="orders", position=0, token="me", parked=()):
    """Claim a checkpoint, and make it if there is none."""
    stands = checkpoints.claim(name, token, SQL)
    if stands is None:
        checkpoints.adopt(name, position, dict(parked), token, SQL)
    return position if stands is None else stands


def hold(token, before, after, name="orders"):
    return checkpoints.hold(name, token, before, after, SQL)


def test_a_checkpoint_is_created_in_the_database_that_keeps_it_from_now_on():
    assert checkpoints.read("orders", SQL) is None
    assert checkpoints.claim("orders", "me", SQL) is None
    checkpoints.adopt("orders", 7, {}, "me", SQL)
    assert checkpoints.claim("orders", "me", SQL) == 7
    assert str(Checkpoint.objects.using(SQL).get()) == "orders: 7"


def test_only_the_last_claim_moves_a_checkpoint():
    claim(token="first")
    before = Checkpoint.objects.using(SQL).get().updated
    assert hold("first", 0, 5)
    assert claim(token="second") == 5
    assert not hold("first", 5, 9)
    assert not hold("first", 5, 5)
    assert checkpoints.read("orders", SQL) == 5
    assert hold("second", 5, 5)
    assert hold("second", 5, 2**40)
    assert checkpoints.read("orders", SQL) == 2**40
    assert Checkpoint.objects.using(SQL).get(aggregate_id="").updated > before


def test_a_checkpoint_moves_only_from_where_its_claim_left_it():
    claim()
    assert hold("me", 0, 5)
    assert not hold("me", 0, 9)  # the answer to the first was lost
    assert not hold("me", 7, 9)  # the database was restored
    assert checkpoints.read("orders", SQL) == 5


def test_a_checkpoint_that_does_not_exist_does_not_move():
    assert not hold("me", 0, 5)
    assert checkpoints.read("orders", SQL) is None


def test_a_parked_stream_has_a_checkpoint_of_its_own():
    claim(position=5)
    checkpoints.park("orders", "o-1", 3, SQL)
    assert checkpoints.advance("orders", "o-1", 4, SQL)
    assert not checkpoints.advance("orders", "o-1", 4, SQL)
    assert not checkpoints.advance("orders", "o-2", 4, SQL)
    assert checkpoints.streams("orders", SQL) == {"o-1": 4}
    assert checkpoints.read("orders", SQL) == 5
    stream = Checkpoint.objects.using(SQL).get(aggregate_id="o-1")
    assert str(stream) == "orders, stream o-1: 4"
    checkpoints.release("orders", "o-1", SQL)
    assert checkpoints.streams("orders", SQL) == {}


def test_streams_parked_before_the_checkpoint_existed_stay_parked():
    claim(position=5, parked={"o-1": 3})
    assert checkpoints.streams("orders", SQL) == {"o-1": 2}
    claim(position=9, parked={"o-2": 7})  # now the rows count
    assert checkpoints.streams("orders", SQL) == {"o-1": 2}
    with pytest.raises(IntegrityError):  # it was overtaken
        checkpoints.adopt("orders", 9, {"o-2": 7}, "other", SQL)
    assert checkpoints.streams("orders", SQL) == {"o-1": 2}
    checkpoints.adopt("orders", 9, {"o-2": 7}, "me", SQL)
    assert checkpoints.streams("orders", SQL) == {"o-2": 6}
    assert checkpoints.read("orders", SQL) == 9


def test_an_event_is_skipped_only_where_its_stream_waits():
    claim(position=5)
    checkpoints.park("orders", "o-1", 2, SQL)
    assert not checkpoints.skip("orders", "o-1", 1, 3, SQL)
    assert checkpoints.skip("orders", "o-1", 2, 3, SQL)
    assert not checkpoints.skip("orders", "o-1", 2, 3, SQL)
    assert not checkpoints.advance("orders", "o-1", 3, SQL)  # so it has no effect
    assert checkpoints.streams("orders", SQL) == {"o-1": 3}


def test_passing_over_an_event_keeps_streams_parked():
    claim(position=5)
    checkpoints.park("orders", "o-1", 2, SQL)
    checkpoints.pass_over("orders", 6, SQL)
    assert checkpoints.read("orders", SQL) == 6
    assert checkpoints.streams("orders", SQL) == {"o-1": 2}
    assert not hold("me", 6, 6)
    checkpoints.pass_over("orders", 4, SQL)
    assert checkpoints.read("orders", SQL) == 6


NAMES = [
    *("a", "A", "a ", " a", "ab", "%", "_"),
    *("\u00e9", "e\u0301", "e"),
    *("a" * 255, "a" * 300, "\u672c" * 255),
]


@pytest.mark.parametrize("of", ["subscriptions", "streams"])
def test_names_that_look_alike_are_kept_apart(of):
    def place(name):
        return (name, "") if of == "subscriptions" else ("orders", name)

    for position, name in enumerate(NAMES):
        subscription, stream = place(name)
        checkpoints.park(subscription, stream, position, SQL)
    found = [checkpoints.read(s, SQL, stream) for s, stream in map(place, NAMES)]
    assert found == list(range(len(NAMES)))


def test_a_reset_changes_one_subscription_and_all_of_its_streams():
    for name in ("orders", "orders 2", "Orders"):
        claim(name, 5)
        checkpoints.park(name, "o-1", 3, SQL)
        checkpoints.park(name, "o-2", 2, SQL)
    checkpoints.reset("orders", 0, SQL)
    assert not hold("me", 0, 0)
    assert hold("me", 5, 5, "Orders")
    assert checkpoints.read("orders", SQL) == 0
    assert checkpoints.read("orders", SQL, "o-1") is None
    assert Checkpoint.objects.using(SQL).count() == 1 + 3 + 3
    checkpoints.reset("new", 9, SQL)
    assert checkpoints.read("new", SQL) == 9


def test_a_rollback_takes_the_checkpoint_back_too():
    claim()
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=SQL):
        assert hold("me", 0, 1)
        take_effect(1)
        raise ZeroDivisionError
    assert checkpoints.read("orders", SQL) == 0
    assert effects() == []


def in_threads(work):
    """Let some do the same at the same time; return what each returned."""

    def alone(number):
        try:
            return work(number)
        finally:
            connections[SQL].close()

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(alone, range(WORKERS)))


@pytest.mark.faults
def test_of_many_claims_at_once_one_creates_the_checkpoint():
    def begin(name, number):
        with suppress(IntegrityError):  # it tries again
            claim(name, number)

    for turn in range(20):
        name = f"orders {turn}"
        in_threads(lambda number, name=name: begin(name, number))
        assert checkpoints.read(name, SQL) in range(WORKERS)
    assert Checkpoint.objects.using(SQL).count() == 20


def handle_all(number, all_claimed):
    """Handle every event, in competition; return how often another was first."""
    token, lost = f"claim {number}", 0
    before = claim(token=token)
    all_claimed.wait(30)  # all but the last to claim have lost it by now
    while before < EVENTS:
        with transaction.atomic(using=SQL):
            if holds := checkpoints.hold("orders", token, before, before + 1, SQL):
                take_effect(before + 1)
        before += holds
        if not holds:
            lost += 1
            before = claim(token=token)
    return lost


@pytest.mark.faults
def test_of_many_processes_that_handle_the_same_events_one_takes_effect():
    claim()
    all_claimed = threading.Barrier(WORKERS)
    lost = in_threads(lambda number: handle_all(number, all_claimed))
    assert sum(lost) >= WORKERS - 1
    assert effects() == list(range(1, EVENTS + 1))
    assert checkpoints.read("orders", SQL) == EVENTS


@pytest.mark.faults
def test_a_checkpoint_that_ignores_its_claim_is_noticed(monkeypatch):
    def hold(subscription, token, before, after, using):
        Checkpoint.objects.using(using).update(position=after)
        return True

    monkeypatch.setattr(checkpoints, "hold", hold)
    claim()
    all_claimed = threading.Barrier(WORKERS)
    with pytest.raises(IntegrityError):
        in_threads(lambda number: handle_all(number, all_claimed))


# --- with a subscription ----------------------------------------------------


def test_each_event_takes_effect_once(store, lend):
    @subscription("orders", using=SQL, batch=7)
    def handle(event):
        take_effect(event["position"])

    for number in range(30):
        lend(f"book-{number % 4}", "BookBought")
    with running():
        until(lambda: checkpoints.read("orders", SQL) == 30)
        lend("another", "BookBought")
        until(lambda: checkpoints.read("orders", SQL) == 31)
    assert effects() == list(range(1, 32))


def test_what_a_handler_wrote_before_it_failed_is_rolled_back(store, lend):
    broken = ["book-3"]

    @subscription("orders", using=SQL, batch=7, retries=1, backoff=(0.01, 0.02))
    def handle(event):
        take_effect(event["position"])
        if event["aggregateId"] in broken:
            raise ValueError("no such customer")

    for number in range(20):
        lend(f"book-{number % 4}", "BookBought")
    with running():
        until(lambda: checkpoints.read("orders", SQL) == 20)
        assert effects() == [n for n in range(1, 21) if n % 4]
        broken.clear()
        operator_actions.retry("orders")
        until(lambda: len(effects()) == 20)
        until(lambda: not mongodb_connection.raw(store.parked).count_documents({}))
    assert checkpoints.read("orders", SQL) == 20
    assert checkpoints.streams("orders", SQL) == {}


def test_a_subscription_continues_where_it_was_reset_to(store, lend):
    got = []

    @subscription("orders", using=SQL)
    def handle(event):
        got.append(event["position"])

    lend("book", *["BookLent"] * 5)
    with running():
        until(lambda: checkpoints.read("orders", SQL) == 5)
        operator_actions.reset("orders", 2)
        until(lambda: len(got) == 8)
    assert got == [1, 2, 3, 4, 5, 3, 4, 5]


def test_the_next_process_finds_what_a_killed_one_had_committed(store, lend):
    got = []

    @subscription("orders", using=SQL)
    def handle(event):
        got.append(event["position"])

    lend("book", *["BookLent"] * 3)
    with running():
        reached(store, "orders", 3)
    # It was killed after its transaction, before it wrote the document.
    mongodb_connection.raw(store.subscriptions).update_one(
        {"_id": "orders"}, {"$set": {"position": 1}}
    )
    call_command("run_subscriptions", "--until-caught-up", verbosity=0)
    assert checkpoint(store, "orders")["position"] == 3
    assert got == [1, 2, 3]


def test_a_restored_database_decides_where_its_subscription_resumes(store, lend):
    got = []

    @subscription("orders", using=SQL)
    def handle(event):
        got.append(event["position"])

    lend("book", *["BookLent"] * 3)
    with running():
        reached(store, "orders", 3)
    fence = checkpoint(store, "orders")["fence"]
    Checkpoint.objects.using(SQL).update(position=1)
    with running():
        until(lambda: checkpoints.read("orders", SQL) == 3)
        lend("book", "BookLent")
        reached(store, "orders", 4)
    assert got == [1, 2, 3, 2, 3, 4]
    assert checkpoint(store, "orders")["fence"] == fence + 1  # claimed once


def test_a_broken_connection_is_replaced_for_the_next_try(store, lend):
    broken = []

    @subscription("orders", retries=1, backoff=(0.01, 0.02))
    def handle(event):
        if not broken:
            broken.append(event)
            connections[SQL].ensure_connection()
            connections[SQL].connection.close()  # as if the server was restarted
        take_effect(event["position"])

    lend("book", "BookBought", "BookLent")
    with running():
        reached(store, "orders", 2)
    assert effects() == [1, 2]


@pytest.mark.parametrize("many", [1, 3])
def test_no_connection_is_left_open(store, lend, monkeypatch, many):
    monkeypatch.setitem(connections.settings[SQL], "CONN_MAX_AGE", None)
    used, together = [], threading.Barrier(many)

    @subscription("orders", concurrency=many)
    def handle(event):
        together.wait(30)
        take_effect(event["position"])
        used.append(connections[SQL])

    for number in range(many):
        lend(f"book-{number}", "BookBought")
    with running():
        until(lambda: len(used) == many)
    assert effects() == list(range(1, many + 1))
    assert [one.connection for one in used] == [None] * many


def fill_disk():
    """Get the error of a full disk from the database itself."""
    with connections[SQL].cursor() as cursor:
        if POSTGRESQL:
            raising = "RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'"
            cursor.execute(f"DO $$ BEGIN {raising}; END $$")
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages}")
        cursor.execute("CREATE TABLE more (data text)")


def test_a_full_disk_holds_a_subscription_up_and_parks_nothing(store, lend):
    full = [True]

    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        if full:
            fill_disk()
        take_effect(event["position"])

    lend("book", "BookBought")
    with running():
        found = until(lambda: (checkpoint(store, "orders") or {}).get("lastError"))
        assert "The SQL database 'sql' is not available: " in found["error"]
        full.clear()
        reached(store, "orders", 1)
    assert effects() == [1]
    assert not mongodb_connection.raw(store.parked).count_documents({})


def test_a_forgotten_subscription_has_no_rows(store, lend):
    @subscription("orders", using=SQL, retries=0)
    def handle(event):
        raise ValueError("no such customer")

    lend("book", "BookBought")
    with running():
        reached(store, "orders", 1)
    assert checkpoints.streams("orders", SQL) == {"book": 0}
    del declaration._registered["orders"]
    forget("orders")
    assert Checkpoint.objects.using(SQL).count() == 0
