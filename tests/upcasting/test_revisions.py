"""If only an upcaster changes, no stale snapshot or projection is used."""

import io

import pytest
from django.core.management import call_command

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    event,
    upcaster,
)
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring.status import status
from ossy_event_store.streams import snapshots
from ossy_event_store.streams.reducers import reducer_revision
from ossy_event_store.subscriptions import snapshot_subscription
from ossy_event_store.verification.report import CHANGED_CLASS
from ossy_event_store.verify import verify_event_store
from tests.support.catalogue import event_class
from tests.support.old_loans import Shelf, store_events
from tests.support.subscriptions import reached, running

pytestmark = pytest.mark.usefixtures("declarations")
STREAMS = 40


@pytest.fixture
def shelves(library):
    """Streams of one to four loans; each has a snapshot."""
    for number in range(STREAMS):
        kinds = ["Lent", ("Lent", 2), "lent", ("Lent", 3)][: 1 + number % 4]
        store_events(*kinds, stream=f"s-{number}")
    assert AggregateRebuild.build_and_save_all().saved == STREAMS


def change_upcaster(declarations, new):
    """Declare the types as another release does: loans had other weeks."""
    declarations.types.clear(), declarations.upcasters.clear()
    event("Lent", version=3, aliases=["lent"])(event_class("Lent"))

    @upcaster("Lent", 1)
    def renamed(payload):
        return {"book": payload["book"], "reader": payload["who"]}

    upcaster("Lent", 2)(lambda payload: {**payload, "weeks": new})


def weeks_of(number, changed):
    """Only events at version 3 have their weeks stored."""
    count = 1 + number % 4
    return changed * min(count, 3) + (3 if count == 4 else 0)


def wrong_states(face, release):
    """Load every stream; return those whose state is not that of a release."""
    return [
        number
        for number in range(STREAMS)
        if face(Aggregate.of, Shelf, f"s-{number}").view()["weeks"]
        != weeks_of(number, release)
    ]


@pytest.fixture
def blind(monkeypatch):
    """Snapshots do not know the revision of the catalogue."""
    monkeypatch.setattr(snapshots, "revision_of", reducer_revision)


def test_the_sweep_notices_stale_snapshots(blind, shelves, declarations, face):
    change_upcaster(declarations, 5)
    assert len(wrong_states(face, 5)) == STREAMS


@pytest.mark.parametrize("release", [5, 6])
def test_no_stale_snapshot_is_used_after_only_an_upcaster_changed(
    shelves, declarations, face, release
):
    change_upcaster(declarations, release)
    assert wrong_states(face, release) == []
    dry = face(AggregateRebuild.dry_run).dry_run["Shelf"]
    assert (dry.current, dry.other_revision, dry.altered) == (0, STREAMS, STREAMS)
    assert face(AggregateRebuild.build_and_save_all, stale=True).saved == STREAMS
    found = Aggregate.collection.find({}, {"state.weeks": 1})
    states = {one["_id"]: one["state"]["weeks"] for one in found}
    assert states == {f"s-{n}": weeks_of(n, release) for n in range(STREAMS)}
    assert face(AggregateRebuild.build_and_save_all, stale=True).streams == 0


def test_snapshots_stay_current_if_a_type_is_declared_that_changes_nothing(
    shelves, declarations, face
):
    event("Returned")(event_class("Returned"))
    assert face(AggregateRebuild.build_and_save_all, stale=True).streams == 0


def test_the_kept_snapshots_are_renewed_from_the_start(shelves, declarations, quick):
    change_upcaster(declarations, 5)
    store_events(("Lent", 3), stream="s-0")
    snapshot_subscription.register()
    with running():
        reached(connection.blocking(), "snapshots", 101)
    snapshot = Aggregate.find("s-0")
    assert (snapshot["aggregateVersion"], snapshot["state"]["weeks"]) == (2, 5 + 3)


@pytest.mark.parametrize("options", [[], ["--blue-green"]], ids=["in place", "beside"])
def test_a_projection_is_outdated_after_only_an_upcaster_changed(
    store,
    library,
    weeks,
    declarations,
    quick,
    options,
):
    store_events("Lent", ("Lent", 2), ("Lent", 3))
    with running():
        reached(store, "weeks", 3)
    assert weeks.get("ann")["weeks"] == 9
    assert not drive(status(store, "weeks")).changed
    change_upcaster(declarations, 5)
    assert drive(status(store, "weeks")).changed
    report = verify_event_store(projections=True)
    assert report.documents_not_compared == {"weeks": {CHANGED_CLASS: 2}}
    call_command("rebuild_projections", "weeks", *options, stdout=io.StringIO())
    assert weeks.get("ann")["weeks"] == 5 + 5 + 3
    assert not drive(status(store, "weeks")).changed
