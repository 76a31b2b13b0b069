"""Of any number of racers exactly one commits; weaker stores are found out."""

import os
from contextlib import nullcontext

import pytest

from tests.boundaries import races
from tests.boundaries.races import (
    be_alone,
    check_before_the_heads,
    committed,
    look_and_insert,
    read_late,
    register,
    take_no_guards,
    without_unique_index,
)

ROUNDS = int(os.environ.get("RACE_ROUNDS", "50"))
EACH_START = pytest.mark.parametrize(
    "staggered", [False, True], ids=["at once", "staggered"]
)


@EACH_START
@pytest.mark.parametrize("race", [register, be_alone])
def test_one_of_some_racers_commits(store, monkeypatch, race, staggered):
    monkeypatch.setattr(races, "RACERS", 8)
    assert committed(race, 10, staggered=staggered) == {1: 10}


@EACH_START
@pytest.mark.faults
@pytest.mark.parametrize("race", [register, be_alone])
def test_one_of_many_racers_commits_in_every_round(store, race, staggered):
    assert committed(race, ROUNDS, staggered=staggered) == {1: ROUNDS}


def without_index(monkeypatch, history):
    return without_unique_index(history)


def without_guards(monkeypatch, history):
    take_no_guards(monkeypatch)
    return nullcontext()


def checked_first(monkeypatch, history):
    check_before_the_heads(monkeypatch)
    return nullcontext()


def as_it_is(monkeypatch, history):
    return nullcontext()


@pytest.mark.faults  # it is long
@pytest.mark.parametrize(
    ("weaken", "race"),
    [
        (without_index, register),
        (as_it_is, read_late),
        (checked_first, register),
        (as_it_is, look_and_insert),
        (without_guards, be_alone),
    ],
    ids=[
        "index not unique",
        "token read after the events",
        "matches looked for before the heads",
        "look and insert",
        "no guard",
    ],
)
def test_a_weaker_store_is_found_out(store, history, monkeypatch, weaken, race):
    with weaken(monkeypatch, history):
        for rounds in (20, 200, 2000):
            counts = committed(race, rounds, staggered=True)
            if any(count > 1 for count in counts):
                return
            history.delete_many({})
    pytest.fail("each round had one commit")
