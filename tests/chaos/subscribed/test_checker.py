"""The checker of positions and subscriptions is checked: it names what is wrong."""

from contextlib import closing

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from ossy_event_store.positions.sequencer import Sequencer
from tests.chaos.database import Database
from tests.chaos.history import History, HistoryFile
from tests.chaos.ledger import entry
from tests.chaos.subscribed.checker import CHECKS, check, fold, name_of
from tests.chaos.subscribed.effects import (
    DIARY,
    EFFECTS,
    FOLLOWING,
    ROWS,
    Effect,
    Effects,
)
from tests.chaos.subscribed.failing import Bad, Failing, class_of, may_fail, write_bad
from tests.chaos.subscribed.keys import CHAINS, KEYS, PAGES
from tests.chaos.subscribed.operated import (
    NOTHING,
    SKIPPED,
    Attempt,
    Quiet,
    Retry,
    Seen,
    Skip,
)
from tests.chaos.subscribed.operated import read as read_operations
from tests.chaos.subscribed.report import report
from tests.chaos.subscribed.variants import SQL, VARIANTS

SEEDS = range(2)


def event(token, version, stream="s", note=1):
    return {
        "_id": f"id-{token}",
        "aggregateId": stream,
        "aggregateVersion": version,
        **entry(token, note),
    }


def placed(position, of, **more):
    place = {name: of[name] for name in ("aggregateId", "aggregateVersion")}
    return {"_id": position, "eventId": of["_id"], **place, **more}


def done(position, of):
    place = of["aggregateId"], of["aggregateVersion"]
    return Effect(of["_id"], *place, position)


A, B, C = event("a", 1), event("b", 2), event("c", 1, "t")
STORED = [A, B, C]
ENTRIES = [placed(1, A), placed(2, C), placed(3, B)]
ALL = [done(1, A), done(2, C), done(3, B)]


def whole(**other):
    """What is left of a run in which all went well, but for ``other``."""
    clean = Effects(
        STORED,
        ENTRIES,
        {EFFECTS: ALL, ROWS: ALL},
        {DIARY: ALL},
        {"s": (2, [1, 2]), "t": (1, [1])},
        {},
        {"s": 2, "t": 1},
        {EFFECTS: 3, DIARY: 3},
    )
    clean.documents = {name: fold(clean, name)[0] for name in KEYS}
    for name, value in other.items():
        setattr(clean, name, value)
    return clean


def skip(of, *names, certain=True):
    place = of["_id"], of["aggregateId"], of["aggregateVersion"]
    return [Skip(name, *place, certain=certain) for name in names]


EVERYWHERE = EFFECTS, ROWS, DIARY, *KEYS, FOLLOWING
# What is left if the second event of the first stream is skipped.
WITHOUT_B = {
    "exact": {EFFECTS: ALL[:2], ROWS: ALL[:2]},
    "delivered": {DIARY: ALL[:2]},
    "totals": {"s": (1, [1]), "t": (1, [1])},
    "documents": {
        CHAINS: {1: {"s": ["a"], "t": ["c"]}},
        PAGES: {"page 0": {"s": ["a"], "t": ["c"]}},
    },
    "snapshots": {"s": 1, "t": 1},
}
# Its key is another one, and the second projection passes over it.
D = event("d", 3, note=7 * 20 + 2)
APPLIED_LATE = {1: {"t": ["c"], "s": ["a", "b"]}}

CLEAN = {
    "nothing": Effects(),
    "a whole run": whole(),
    "deliveries that came again": whole(delivered={DIARY: [*ALL, ALL[0], ALL[2]]}),
    "effects in the order of their ids": whole(exact={EFFECTS: ALL[::-1], ROWS: ALL}),
    "a parked stream's rows behind those of others": whole(
        exact={EFFECTS: ALL, ROWS: [ALL[1], ALL[0], ALL[2]]}
    ),
    "an event that is skipped": whole(skips=skip(B, *EVERYWHERE), **WITHOUT_B),
    "an event that may be skipped, and is": whole(
        skips=skip(B, *EVERYWHERE, certain=False), **WITHOUT_B
    ),
    "an event that may be skipped, and is not": whole(
        skips=skip(B, *EVERYWHERE, certain=False)
    ),
    "a delivery before its event was skipped": whole(skips=skip(B, DIARY)),
    "an event in a document of its own": Effects(
        [A, B, C, D],
        [*ENTRIES, placed(4, D)],
        documents={
            CHAINS: {**APPLIED_LATE, 2: {"s": ["d"]}},
            PAGES: {"page 0": {"s": ["a", "b"], "t": ["c"]}},
        },
    ),
}

BAD = {
    "without a position": Effects(STORED, ENTRIES[:2]),
    "with two positions": Effects([A], [placed(1, A), placed(2, A)]),
    "position of nothing": Effects([A], [placed(1, A), placed(2, B)]),
    "gap": Effects([A, C], [placed(1, A), placed(3, C)]),
    "against the stream": Effects([A, B], [placed(1, B), placed(2, A)]),
    "missed": whole(delivered={DIARY: ALL[:2]}),
    "doubled": whole(exact={EFFECTS: [*ALL, ALL[0]], ROWS: ALL}),
    "done though skipped": whole(skips=skip(B, ROWS)),
    "of nothing": whole(delivered={DIARY: [*ALL, done(4, C)]}),
    "out of order": whole(delivered={DIARY: [ALL[2], ALL[0], ALL[1]]}),
    "rows out of order": whole(exact={EFFECTS: ALL, ROWS: [ALL[1], ALL[2], ALL[0]]}),
    "wrong total": whole(totals={"s": (3, [1, 2, 2]), "t": (1, [1])}),
    "wrong projection": whole(documents={CHAINS: {1: {"t": ["c"], "s": ["b", "a"]}}}),
    "late snapshot": whole(snapshots={"s": 1, "t": 1}),
    "behind": whole(checkpoints={EFFECTS: 3, DIARY: 2}),
    "parked": whole(parked=["s of diary: KeyError"]),
    "odd": whole(odd=["sequencer-1 ended with 1"]),
}
# One event twice is also one version twice.
BESIDES = {"with two positions": {"against the stream"}}


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_run_is_clean(name):
    assert check(CLEAN[name]) == {}


@pytest.mark.parametrize("name", BAD)
def test_a_violation_is_found_and_named_and_nothing_else_is(name):
    assert set(check(BAD[name])) == {name} | BESIDES.get(name, set())


def test_every_check_has_a_run_that_it_fails():
    assert {name_of(find) for find in CHECKS} == set(BAD)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("totals", "wrong total"),
        ("snapshots", "late snapshot"),
    ],
)
def test_an_empty_state_at_the_end_is_found(part, name):
    assert set(check(whole(**{part: {}}))) == {name}


IN_DOCUMENTS = {
    "none at all": ({}, {"missed", "wrong projection"}),
    "one event missed": (
        {1: {"s": ["a"], "t": ["c"]}},
        {"missed", "wrong projection"},
    ),
    "one event twice": (
        {1: {"s": ["a", "b", "b"], "t": ["c"]}},
        {"doubled", "wrong projection"},
    ),
    "one event in two documents": (
        {1: {"s": ["a", "b"], "t": ["c"]}, 2: {"s": ["b"]}},
        {"doubled", "wrong projection"},
    ),
    "one event in another document": (
        {1: {"s": ["a"], "t": ["c"]}, 2: {"s": ["b"]}},
        {"wrong projection"},
    ),
    "one event in another stream": (
        {1: {"s": ["a"], "t": ["c", "b"]}},
        {"wrong projection"},
    ),
    "one that nobody has appended": (
        {1: {"s": ["a", "b"], "t": ["c", "x"]}},
        {"wrong projection"},
    ),
}


@pytest.mark.parametrize("name", IN_DOCUMENTS)
def test_every_document_of_a_projection_is_compared(name):
    documents, found = IN_DOCUMENTS[name]
    assert set(check(whole(documents={CHAINS: documents}))) == found


def test_a_skipped_event_is_in_no_document_and_no_total():
    found = check(whole(skips=skip(B, EFFECTS, *KEYS)))
    wrong = {"wrong total", "wrong projection"}
    assert set(found) == {"done though skipped", *wrong}


def test_what_is_skipped_in_one_subscription_is_not_skipped_in_another():
    left = {**WITHOUT_B, "snapshots": {"s": 2, "t": 1}}
    found = check(whole(skips=skip(B, DIARY, *KEYS), **left))
    assert set(found) == {"missed", "wrong total"}
    assert len(found["missed"]) == len([EFFECTS, ROWS])


def test_only_skipped_events_at_its_end_leave_a_snapshot_older():
    late = {"s": 1, "t": 1}
    assert check(whole(snapshots=late, skips=skip(B, FOLLOWING))) == {}
    assert set(check(whole(snapshots=late, skips=skip(A, FOLLOWING)))) == {
        "late snapshot"
    }


OPERATED = {"parked": 3, "retried": 2, "skipped": 1}


def reported(effects, **other):
    facts = {"seed": 7, "seconds": 1.0, "settled": 0.5, "fail_overs": 2}
    facts |= {"met": {"286": 2}, "nemesis": {}, "crew": {}, "operated": OPERATED}
    return report(History(), Database(), effects, **{**facts, **other})


def test_the_report_counts_what_was_missed_and_doubled_and_what_came_again():
    effects = whole(
        exact={EFFECTS: [*ALL, ALL[0]], ROWS: ALL},
        delivered={DIARY: [ALL[0], ALL[1], ALL[0]]},
    )
    made = reported(effects)
    assert (made.events, made.positions, made.missed, made.doubled) == (3, 3, 1, 1)
    once = {ROWS: 0, CHAINS: 0, PAGES: 0}
    assert made.delivered == {EFFECTS: 3, DIARY: 2, **dict.fromkeys(once, 3)}
    assert made.again == {EFFECTS: 1, DIARY: 1, **once}
    assert made.operated == OPERATED
    assert made.history_lost == 2
    assert set(made.violations) == {"missed", "doubled"}
    assert made.as_dict()["ok"] is False


def test_a_run_in_which_the_history_was_never_lost_shows_nothing():
    assert set(reported(whole(), met={}).violations) == {"nothing shown"}


@pytest.mark.parametrize("what", OPERATED)
def test_a_run_without_parked_streams_or_operators_shows_nothing(what):
    made = reported(whole(), operated={**OPERATED, what: 0})
    assert made.violations == {"nothing shown": [f"no stream was {what}"]}


def test_a_subscription_that_did_nothing_has_missed_all():
    assert len(check(whole(delivered={DIARY: []}))["missed"]) == len(STORED)


# --- what operators have written ---------------------------------------------


def test_the_outcome_of_each_skip_is_read_from_the_log_of_the_operators(tmp_path):
    def attempt(number, event, *outcomes):
        of = number, ROWS, event, "s", 1
        return [Attempt(*of), *(Attempt(*of, outcome) for outcome in outcomes)]

    lives = [
        [
            Seen(ROWS, "s", 4),
            Retry(ROWS, 3),
            *attempt(1, "told", SKIPPED),
            *attempt(2, "gone", NOTHING),
            *attempt(3, "failed"),
            *attempt(4, "later"),
            *attempt(5, "later", SKIPPED),
        ],
        [
            Seen(ROWS, "s", 4),
            Seen(ROWS, "s", 9),
            *attempt(1, "killed"),
            Quiet(2, True),
            Quiet(1, False),
        ],
    ]
    for number, entries in enumerate(lives):
        with (tmp_path / f"{number}.operations").open("w") as file:
            for each in entries:
                HistoryFile(file).write(each)
            file.write('{"kind": "Seen", "str')  # it was killed
    operated = read_operations(sorted(tmp_path.glob("*.operations")))
    assert operated.counts == {
        "parked": 2,
        "retried": 3,
        "retried in the quiet": 1,
        "skipped": 2,
        "maybe skipped": 2,
    }
    assert {skip.event: skip.certain for skip in operated.skips} == {
        "told": True,
        "later": True,
        "failed": False,
        "killed": False,
    }


def in_streams(name):
    """Return an event of a stream that may fail, and one of a stream that may not."""
    names = [f"stream-{n}" for n in range(100)]
    fails = next(each for each in names if may_fail(name, each))
    other = next(each for each in names if not may_fail(name, each))
    return event("a", 1, fails), event("a", 1, other)


def test_bad_events_can_be_changed_during_the_run(tmp_path):
    fail_if_bad = Failing(tmp_path)
    bad, good = in_streams(ROWS)
    fail_if_bad(ROWS, bad)
    write_bad(tmp_path, [class_of(ROWS, bad)])
    with pytest.raises(Bad):
        fail_if_bad(ROWS, bad)
    fail_if_bad(ROWS, good)
    write_bad(tmp_path, [])
    fail_if_bad(ROWS, bad)


def test_each_subscription_has_its_own_bad_events():
    assert len({class_of(name, A) for name in EVERYWHERE}) > 1


# --- those that are bad -----------------------------------------------------


@pytest.fixture
def sql(tmp_path, monkeypatch, django_db_blocker):
    """The alias of an SQL database that has the checkpoints' table."""
    if not apps.is_installed("ossy_event_store.relational"):
        pytest.skip("the default database is no SQL database")
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}
    known = {**settings.DATABASES, SQL: database}
    complete = connections.configure_settings(known)[SQL]
    monkeypatch.setitem(connections.settings, SQL, complete)
    with django_db_blocker.unblock(), closing(connections[SQL]):
        call_command(
            "migrate", "ossy_event_store_relational", database=SQL, verbosity=0
        )
        yield
    del connections[SQL]


@pytest.fixture
def play(store, history, quick, monkeypatch, request):
    """Play a scenario in an empty store; return what is left."""
    monkeypatch.setattr(Sequencer, "scan_batch_size", 10)  # events a round trip

    def play(variant, seed, kind):
        if variant.in_sql:
            request.getfixturevalue("sql")
        return variant.scenario(store, seed, kind)

    return play


@pytest.mark.faults
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_our_subscriptions_withstand_what_weaker_ones_do_not(name, seed, play):
    variant = VARIANTS[name]
    assert check(play(variant, seed, variant.as_it_is)) == {}


@pytest.mark.faults
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_weaker_ones_are_found_out(name, seed, play):
    variant = VARIANTS[name]
    assert variant.finds in check(play(variant, seed, variant.weak))
