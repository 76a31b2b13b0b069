"""The checker of positions and subscriptions is checked: it names what is wrong."""

import pytest

from ossy_event_store import sequence
from tests.chaos.database import Database
from tests.chaos.history import History
from tests.chaos.ledger import Ledger, entry
from tests.chaos.subscribed.checker import CHECKS, chains, check, name_of
from tests.chaos.subscribed.effects import DIARY, EFFECTS, ROWS, Effect, Effects
from tests.chaos.subscribed.report import report
from tests.chaos.subscribed.variants import SCAN, VARIANTS

SEEDS = range(5)


def event(token, version, stream="s"):
    return {
        "_id": f"id-{token}",
        "aggregateId": stream,
        "aggregateVersion": version,
        **entry(token, 1),
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
        None,
        {"s": 2, "t": 1},
        {EFFECTS: 3, DIARY: 3},
    )
    clean.chains = chains(clean)
    for name, value in other.items():
        setattr(clean, name, value)
    return clean


CLEAN = {
    "nothing": Effects(),
    "a whole run": whole(),
    "deliveries that came again": whole(delivered={DIARY: [*ALL, ALL[0], ALL[2]]}),
    "effects in the order of their ids": whole(exact={EFFECTS: ALL[::-1], ROWS: ALL}),
}

BAD = {
    "without a position": Effects(STORED, ENTRIES[:2]),
    "with two positions": Effects([A], [placed(1, A), placed(2, A)]),
    "position of nothing": Effects([A], [placed(1, A), placed(2, B)]),
    "gap": Effects([A, C], [placed(1, A), placed(3, C)]),
    "against the stream": Effects([A, B], [placed(1, B), placed(2, A)]),
    "missed": whole(delivered={DIARY: ALL[:2]}),
    "doubled": whole(exact={EFFECTS: [*ALL, ALL[0]], ROWS: ALL}),
    "of nothing": whole(delivered={DIARY: [*ALL, done(4, C)]}),
    "out of order": whole(delivered={DIARY: [ALL[2], ALL[0], ALL[1]]}),
    "rows out of order": whole(exact={EFFECTS: ALL, ROWS: [ALL[1], ALL[0], ALL[2]]}),
    "wrong total": whole(totals={"s": (3, [1, 2, 2]), "t": (1, [1])}),
    "wrong projection": whole(chains={1: Ledger.view([A, B, C], {})}),
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
        ("chains", "wrong projection"),
        ("snapshots", "late snapshot"),
    ],
)
def test_what_is_empty_at_the_end_has_not_been_done(part, name):
    assert set(check(whole(**{part: {}}))) == {name}


def test_the_report_counts_what_was_missed_and_doubled_and_what_came_again():
    effects = whole(
        exact={EFFECTS: [*ALL, ALL[0]], ROWS: ALL},
        delivered={DIARY: [ALL[0], ALL[1], ALL[0]]},
    )
    facts = {"seed": 7, "seconds": 1.0, "settled": 0.5, "fail_overs": 2}
    made = report(
        History(), Database(), effects, met={"286": 2}, nemesis={}, crew={}, **facts
    )
    assert (made.events, made.positions, made.missed, made.doubled) == (3, 3, 1, 1)
    assert made.delivered == {EFFECTS: 3, ROWS: 3, DIARY: 2}
    assert made.again == {EFFECTS: 1, ROWS: 0, DIARY: 1}
    assert made.history_lost == 2
    assert set(made.violations) == {"missed", "doubled"}
    assert made.as_dict()["ok"] is False


def test_a_run_in_which_the_history_was_never_lost_shows_nothing():
    facts = {"seed": 7, "seconds": 1.0, "settled": 0.5, "fail_overs": 2}
    made = report(History(), Database(), whole(), met={}, nemesis={}, crew={}, **facts)
    assert set(made.violations) == {"nothing shown"}


def test_a_subscription_that_did_nothing_has_missed_all():
    assert len(check(whole(delivered={DIARY: []}))["missed"]) == len(STORED)


# --- those that are bad -----------------------------------------------------


@pytest.fixture
def play(store, history, quick, monkeypatch):
    """Play a scenario in an empty store; return what is left."""
    monkeypatch.setattr(sequence, "SCAN", SCAN)
    return lambda variant, seed, kind: variant.scenario(store, seed, kind)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_ours_stand_what_weaker_ones_do_not(name, seed, play):
    variant = VARIANTS[name]
    assert check(play(variant, seed, variant.as_it_is)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_weaker_ones_are_found_out(name, seed, play):
    variant = VARIANTS[name]
    assert variant.finds in check(play(variant, seed, variant.weak))
