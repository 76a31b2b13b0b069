"""The checker is checked: it names what is wrong, and fails stores that are bad."""

import datetime as dt
from contextlib import ExitStack

import pytest
from bson import ObjectId

from ossy_event_store import EventStore, Mongo
from ossy_event_store.mongodb import connection, indexes
from ossy_event_store.mongodb.ports import drive
from tests.chaos.checker import CHECKS, check, name_of
from tests.chaos.database import Database, Write, read_database
from tests.chaos.history import (
    ACKNOWLEDGED,
    KILLED,
    REFUSED,
    UNDECIDED,
    UNSENT,
    Failure,
    History,
    HistoryFile,
    Intent,
    Observation,
    Operation,
    Reading,
    content,
    digest,
    known_of,
    read,
)
from tests.chaos.ledger import Ledger, entry
from tests.chaos.report import report
from tests.chaos.variants import VARIANTS, Stage
from tests.support import servers

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def stored(token, version, stream="s", **more):
    return {
        "_id": f"id-{token}",
        "aggregateId": stream,
        "aggregateVersion": version,
        **entry(token, 1),
        "created": NOW,
        "metadata": {},
        **more,
    }


def told(*events, outcome=ACKNOWLEDGED, **more):
    """The operation that appended these events and was told that it did."""
    return Operation(
        "writer",
        events[0]["aggregateId"],
        "add",
        [event["payload"]["token"] for event in events],
        [content(event) for event in events],
        outcome,
        [[e["_id"], e["aggregateVersion"], digest(e)] for e in events],
        **more,
    )


def untold(*events, outcome):
    operation = told(*events, outcome=outcome)
    operation.returned = []
    return operation


A, B, C = (stored(token, version) for version, token in enumerate("abc", 1))
STATES = [Ledger.view([A], {}), Ledger.view([A, B], {}), Ledger.view([A, B, C], {})]


def snapshot(version, state):
    return {"_id": "s", "aggregateVersion": version, "state": state}


def saved(*versions):
    return [Write("aggregates", "update", "s", version) for version in versions]


def judged(token, version, known, **more):
    """An event of a decision on the tag x."""
    payload = {"token": token, "note": 1, "query": [[[], ["x"]]], "known": known}
    return {**stored(token, version, **more), "payload": payload}


def tagged(event, *numbers):
    places = [{"t": "x", "n": number} for number in numbers]
    return {**event, "tags": ["x"], **({"places": places} if places else {})}


NONE, ONE = known_of([]), known_of([A])
FIRST = tagged(A, 1)
SECOND = tagged(judged("b", 2, ONE), 2)
MISJUDGED = tagged(judged("b", 2, NONE), 2)


def inserts(*events):
    return [Write("eventstore", "insert", event["_id"]) for event in events]


CLEAN = {
    "a decision that knew all": (
        History(told(FIRST), told(SECOND)),
        Database([FIRST, SECOND], [], inserts(FIRST, SECOND)),
    ),
    "nothing": (History(), Database()),
    "appends": (History(told(A), told(B, C)), Database([A, B, C])),
    "a refused decision that is not there": (
        History(told(A), untold(B, outcome=REFUSED), untold(C, outcome=UNSENT)),
        Database([A]),
    ),
    "a stream a writer": (
        History(told(A), told(stored("z", 1, "t"))),
        Database([A, stored("z", 1, "t")]),
    ),
    "readings": (
        History(
            told(A),
            told(B),
            Reading("s", 0, [[1, "id-a"]]),
            Reading("s", 1, [[2, "id-b"]]),
        ),
        Database([A, B]),
    ),
    "states": (
        History(told(A), told(B), Observation("s", 1, STATES[0])),
        Database([A, B], [snapshot(2, STATES[1])], saved(1, 2)),
    ),
    "a snapshot that was discarded": (
        History(told(A)),
        Database(
            [A],
            [snapshot(1, STATES[0])],
            [*saved(2), Write("aggregates", "delete", "s"), *saved(1)],
        ),
    ),
    "an announced error": (History(Failure("add", "StoreUnavailable")), Database()),
}

BAD = {
    "misjudged": (
        History(told(FIRST), told(MISJUDGED)),
        Database([FIRST, MISJUDGED], [], inserts(FIRST, MISJUDGED)),
    ),
    "hole in tag": (
        History(told(FIRST), told(tagged(B, 3))),
        Database([FIRST, tagged(B, 3)]),
    ),
    "lost": (History(told(A), told(B)), Database([A])),
    "doubled": (
        History(told(A), told(stored("b", 3))),
        Database([A, stored("b", 2, _id="id-0"), stored("b", 3)]),
    ),
    "acknowledged twice": (
        History(told(A), told(stored("z", 1, "t", _id="id-a"))),
        Database([A, stored("z", 1, "t", _id="id-a")]),
    ),
    "hole": (History(told(A), told(C)), Database([A, C])),
    "phantom": (History(told(A), untold(B, outcome=REFUSED)), Database([A, B])),
    "stranger": (History(told(A)), Database([A, B])),
    "moved": (History(told(A), told(B)), Database([A, {**B, "_id": "id-else"}])),
    "changed": (
        History(told(A)),
        Database([{**A, "payload": {"token": "a", "note": 2}}]),
    ),
    "torn": (
        History(told(A), untold(B, C, outcome=UNDECIDED)),
        Database([A, B]),
    ),
    "rewritten": (
        History(told(A)),
        Database([A], [], [Write("eventstore", "update", "id-a", 1)]),
    ),
    "undecided": (History(untold(A, outcome=UNDECIDED)), Database()),
    "unexpected": (History(Failure("add", "KeyError", "KeyError('x')")), Database()),
    "vanished": (
        History(told(A), Reading("s", 0, [[1, "id-else"]])),
        Database([A]),
    ),
    "gap": (
        History(told(A), told(B), Reading("s", 0, [[2, "id-b"]])),
        Database([A, B]),
    ),
    "leading": (History(told(A)), Database([A], [snapshot(2, STATES[1])])),
    "wrong state": (
        History(told(A), told(B), Observation("s", 1, STATES[1])),
        Database([A, B]),
    ),
    "replaced": (
        History(told(A), told(B)),
        Database([A, B], [snapshot(1, STATES[0])], saved(2, 1)),
    ),
}
BESIDES = {"torn": {"undecided"}}  # half a batch that somebody was told about is lost


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_history_is_clean(name):
    assert check(*CLEAN[name]) == {}


@pytest.mark.parametrize("name", BAD)
def test_a_violation_is_found_and_named_and_nothing_else_is(name):
    assert set(check(*BAD[name])) == {name} | BESIDES.get(name, set())


def test_every_check_has_a_history_that_it_fails():
    assert {name_of(find) for find in CHECKS} == set(BAD)


def test_a_tag_without_a_number_is_found():
    event = tagged(A)
    assert set(check(History(told(event)), Database([event]))) == {"hole in tag"}


def test_an_event_that_is_stored_under_two_ids_is_doubled():
    again = stored("a", 2, _id="another")
    assert set(check(History(told(A)), Database([A, again]))) == {"doubled"}


def test_two_writers_of_one_version_are_found_even_if_one_event_is_stored():
    rival = stored("z", 1)
    found = check(History(told(A), told(rival)), Database([A]))
    assert set(found) == {"acknowledged twice", "lost"}


def test_an_event_in_another_stream_than_the_one_returned_has_moved():
    elsewhere = {**A, "aggregateId": "t"}
    assert set(check(History(told(A)), Database([elsewhere]))) == {"changed", "moved"}


def test_an_event_that_differs_from_the_returned_one_is_changed():
    other = {**A, "metadata": {"more": 1}}
    assert set(check(History(told(A)), Database([other]))) == {"changed"}


def test_a_batch_with_a_stranger_in_between_is_torn():
    batch = told(A, stored("c", 3))
    found = check(History(batch, told(B)), Database([A, B, stored("c", 3)]))
    assert set(found) == {"torn"}


def test_a_batch_of_which_only_a_part_was_returned_is_undecided():
    batch = told(A, B)
    batch.returned.pop()
    assert set(check(History(batch), Database([A, B]))) == {"undecided"}


def test_a_stream_that_begins_late_has_a_hole():
    assert set(check(History(told(B)), Database([B]))) == {"hole"}


def test_a_snapshot_of_a_missing_stream_is_ahead():
    seen = Observation("s", 1, STATES[0])
    assert set(check(History(seen), Database())) == {"leading"}


def test_the_report_counts_answers_and_violations():
    operations = [
        told(A, unknowns=2, resolved="found stored", longest=3.0, seconds=7.5),
        told(B, C),
        untold(stored("d", 4), outcome=REFUSED),
    ]
    made = report(
        History(*operations, Failure("add", "OutcomeUnknown")), Database([A, C]), seed=7
    )
    assert (made.acknowledged, made.lost, made.holes) == (3, 1, 1)
    assert made.operations == {ACKNOWLEDGED: 2, REFUSED: 1}
    assert (made.unknowns, made.resolved) == (2, {"found stored": 1})
    assert (made.longest_append, made.longest_decision) == (3.0, 7.5)
    assert made.errors == {"OutcomeUnknown": 1}
    assert not made.ok
    assert made.as_dict()["violations"]["lost"] == ["b of s by add"]
    assert "VIOLATION, lost: 1\n  b of s by add\n" in str(made)


def test_the_last_append_of_a_killed_writer_may_be_stored_or_not(tmp_path):
    path = tmp_path / "ann.history"
    with path.open("w") as file:
        history = HistoryFile(file)
        for event in (A, B, C):
            sent = vars(told(event))
            fields = ("writer", "stream", "how", "tokens", "contents")
            history.write(Intent(**{name: sent[name] for name in fields}))
        history.write(told(A))
        file.write('{"kind": "Oper')  # here it was killed
    known = read([path])
    assert [o.outcome for o in known.operations] == [ACKNOWLEDGED, KILLED, KILLED]
    assert check(known, Database([A])) == {}
    assert check(known, Database([A, B])) == {}
    assert set(check(known, Database([B]))) == {"lost", "hole"}


# --- stores that are bad ----------------------------------------------------


@pytest.fixture(scope="module")
def servers_of(tmp_path_factory):
    """Give the replica set of a number of members, well and running."""
    sets = {}
    with ExitStack() as stack:

        def servers_of(members):
            if members not in sets:
                folder = tmp_path_factory.mktemp("set")
                sets[members] = stack.enter_context(
                    servers.running(folder, members, settings=servers.QUICK)
                )
            servers.heal(sets[members])
            return sets[members]

        yield servers_of


@pytest.fixture
def play(servers_of, settings):
    """Play a scenario in a database of its own; return history and database."""

    def play(variant):
        running = servers_of(variant.members)
        settings.OSSY_EVENT_STORE = {
            "URL": running.url(heartbeatFrequencyMS=500),
            "NAME": f"chaos_{ObjectId()}",
            "TIMEOUT": 3.0,
        }
        try:
            drive(indexes.ensure(connection.blocking()))
            stage = Stage(running)
            variant.scenario(stage)
            name = EventStore.collection.database.name
            with running.primary.client() as client:
                return stage.history, read_database(client, name)
        finally:
            Mongo.close()

    return play


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_the_store_withstands_what_a_weaker_one_does_not(name, play):
    history, database = play(VARIANTS[name])
    assert check(history, database) == {}
    assert {operation.outcome for operation in history.operations} == {ACKNOWLEDGED}
    assert history.operations[-1].unknowns or not VARIANTS[name].unknown


@pytest.mark.faults
@pytest.mark.parametrize("name", VARIANTS)
def test_a_weaker_store_is_found_out(name, play, monkeypatch):
    VARIANTS[name].weaken(monkeypatch)
    history, database = play(VARIANTS[name])
    assert VARIANTS[name].finds in check(history, database)
