"""The checker of the outbox finds what is wrong, in made-up runs and in real ones."""

import random

import pytest
from django.apps import apps

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

from tests.chaos.outbox.checker import Block, Left, check
from tests.chaos.outbox.run import Options, report, run
from tests.chaos.outbox.variants import FINDS


def event(worker, number, part, version):
    return {
        "aggregateVersion": version,
        "payload": {"worker": worker, "number": number, "part": part},
    }


def events(*places):
    return [event(*place, version) for version, place in enumerate(places, 1)]


A0, A1 = ("a", 0, 0), ("a", 0, 1)
B0, B1 = ("b", 7, 0), ("b", 7, 1)
C0, C1 = ("a", 1, 0), ("a", 1, 1)
# "b" ran at the same time as both blocks of "a".
BLOCKS = {
    ("a", 0): Block("s", 1.0, 2.0),
    ("b", 7): Block("s", 1.5, 9.0),
    ("a", 1): Block("s", 3.0, 4.0),
}
RUNS = {
    "all is well": ([A0, A1, C0, C1, B0, B1], set()),
    "mixed with one that ran at the same time": ([A0, B0, A1, C0, B1, C1], set()),
    "one lost": ([A0, A1, C0, C1, B0], {"lost"}),
    "one twice": ([A0, A1, A1, C0, C1, B0, B1], {"twice"}),
    "one rolled back": ([A0, A1, C0, C1, B0, B1, ("b", 8, 0)], {"phantom"}),
    "one of a savepoint": ([A0, A1, C0, C1, B0, B1, ("b", 7, "x")], {"phantom"}),
    "the parts of a block": ([A1, A0, C0, C1, B0, B1], {"out of order"}),
    "the blocks of a writer": ([C0, C1, A0, A1, B0, B1], {"out of order"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_checker_finds(name):
    places, found = RUNS[name]
    assert set(check(Left(BLOCKS, {"s": events(*places)}))) == found


def test_a_block_that_had_committed_before_another_began_comes_before_it():
    blocks = {**BLOCKS, ("b", 7): Block("s", 5.0, 6.0)}
    places = [A0, A1, B0, B1, C0, C1]
    assert set(check(Left(blocks, {"s": events(*places)}))) == {"out of order"}
    unknown = {**blocks, ("a", 1): Block("s", 3.0)}  # killed before it said so
    assert check(Left(unknown, {"s": events(*places)})) == {}


def test_rows_that_are_left_holes_and_other_streams_are_found():
    all_of_them = events(A0, A1, C0, C1, B0, B1)
    assert set(check(Left(BLOCKS, {"s": all_of_them}, rows=1))) == {"left"}
    all_of_them[-1]["aggregateVersion"] += 1
    assert set(check(Left(BLOCKS, {"s": all_of_them}))) == {"hole"}
    others = {"s": events(A0, A1, C0, C1), "t": events(B0, B1)}
    assert set(check(Left(BLOCKS, others))) == {"phantom"}


def test_the_report_counts():
    left = Left(BLOCKS, {"s": events(A0, A1, C0, C1, B0)}, lags=[0.001, 0.25])
    made = report(left, Options(7, writers=1, blocks=5), 1.0)
    assert (made.committed, made.rolled_back, made.events, made.lost) == (3, 2, 5, 1)
    assert (made.lag_p50, made.lag_p99, made.longest_lag) == (250, 250, 250)
    assert not made.ok
    assert "FAILED" in str(made)


# --- those that are bad -----------------------------------------------------

DEADLY = {"writers": 2, "blocks": 40, "relays": 1, "deadly": 0.06}


@pytest.mark.faults
@pytest.mark.parametrize("variant", FINDS, ids=lambda variant: variant.__name__)
def test_weaker_outboxes_are_found_out(variant, tmp_path):
    seed = random.randrange(10**6)
    made = run(tmp_path, Options(seed, variant=variant.__name__, **DEADLY))
    assert FINDS[variant] in made.violations, made


@pytest.mark.faults
def test_the_outbox_withstands_what_weaker_ones_do_not(tmp_path):
    made = run(tmp_path, Options(random.randrange(10**6), **DEADLY))
    assert made.violations == {}
    assert sum(made.kills.values()) >= 3
