"""Whatever folds gets events as the code knows them; what reads the store does not."""

import pytest

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    EventStore,
    ReducerError,
    UnknownEventVersion,
)
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.streams.past.state_at_version import load_state_at
from ossy_event_store.verify import verify_event_store
from tests.support.old_loans import KINDS, NEW, STATE, Broken, Shelf, store_events


def types_of(events):
    return [(one["type"], one.get("typeVersion", 1)) for one in events]


AS_STORED = [(kind, 1) if isinstance(kind, str) else kind for kind in KINDS]


def test_a_loaded_aggregate_folds_events_as_the_code_knows_them(library, face):
    store_events(*KINDS)
    shelf = face(Aggregate.of, Shelf, "a")
    assert shelf.view() == STATE
    given = []
    shelf.validate(lambda events, state: given.extend(events))
    assert [e["payload"] for e in given if e["type"] == "Lent"] == [NEW] * 5
    assert {e["aggregateVersion"] for e in given if e["type"] == "Visited"} == {5}
    face(shelf.save)
    assert face(Aggregate.find, "a")["state"] == STATE
    again = face(Aggregate.of, Shelf, "a")
    assert (again.saved_version, again.events, again.view()) == (7, [], STATE)


def test_what_reads_the_store_returns_events_as_stored(library, face):
    store_events(*KINDS)
    assert types_of(face(Aggregate.of, Shelf, "a").events) == AS_STORED
    assert types_of(face(EventStore.get_event_stream, "a")) == AS_STORED
    assert types_of(EventStore.collection.find().sort("aggregateVersion")) == AS_STORED
    found = face(EventStore.find_event, {"type": "lent"})
    assert found["payload"] == {"book": "Emma", "who": "ann"}


def test_a_state_at_a_version_has_all_results_of_its_event(library):
    store_events(*KINDS)
    found = drive(load_state_at(library, Shelf, "a", 5, most=100))
    assert found.before == {"loans": 3, "weeks": 9, "visits": 0, "others": []}
    assert found.state == {"loans": 4, "weeks": 12, "visits": 1, "others": ["Scanned"]}


def test_a_rebuild_folds_what_the_code_knows_and_verification_agrees(library):
    for stream in "abc":
        store_events(*KINDS, stream=stream)
    store_events("Noise", stream="d")
    assert AggregateRebuild.build_and_save_all().ok
    states = {one["_id"]: one["state"] for one in Aggregate.collection.find()}
    nothing = {"loans": 0, "weeks": 0, "visits": 0, "others": []}
    assert states == {"a": STATE, "b": STATE, "c": STATE, "d": nothing}
    dry = AggregateRebuild.dry_run().dry_run["Shelf"]
    assert (dry.current, dry.altered) == (4, 0)
    report = verify_event_store(sample=None)
    assert (report.compared, report.findings) == (4, [])


@pytest.mark.parametrize("reason", ["version", "upcaster"])
def test_a_stream_that_cannot_be_read_is_reported_and_the_others_go_on(
    library, face, reason
):
    unknown = reason == "version"
    store_events("Lent", "Lent", ("Lent", 4) if unknown else "Lent", book="Persuasion")
    store_events("Lent", stream="b")
    if not unknown:
        Broken.books.add("Persuasion")
    with pytest.raises(ReducerError) as caught:
        face(Aggregate.of, Shelf, "a").view()
    name = "UnknownEventVersion" if unknown else "UpcasterError"
    assert name in str(caught.value)
    assert caught.value.version == (3 if unknown else 1)
    report = face(AggregateRebuild.build_and_save_all)
    assert [error.aggregate_id for error in report.failures] == ["a"]
    assert report.saved == 1


def test_a_function_gets_the_error_as_it_is(library):
    store_events(("Lent", 9))
    with pytest.raises(UnknownEventVersion, match="up to version 3"):
        Aggregate.of(Shelf, "a").view(lambda events, state: 1)


class Visits:
    aggregate_type = "Shelf"
    event_types = ["Visited"]

    @staticmethod
    def view(events, saved_state):
        return {"visits": saved_state.get("visits", 0) + len(events)}


def test_a_reducer_gets_only_its_own_types(library):
    store_events("Lent", "Scanned", ("Lent", 9), "Scanned")
    assert Aggregate.of(Visits, "a").view() == {"visits": 2}
