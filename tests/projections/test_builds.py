"""The steps of a rebuild in the database: numbers, abandoned builds, collections."""

import pytest

from ossy_event_store.mongodb import connection
from ossy_event_store.projections.rebuild import Rebuild
from ossy_event_store.subscriptions import parked_streams
from tests.support.projections import ANN, Loans, collections
from tests.support.subscriptions import checkpoint, parked, said

pytestmark = pytest.mark.usefixtures("quick")


def test_a_build_of_a_changed_class_starts_from_the_beginning(lent, store, changed):
    rebuild = Rebuild(Loans, beside=True)
    rebuild.stop()
    assert rebuild.run() is None
    documents = connection.raw(store.subscriptions)
    documents.update_one({"_id": "loans@2"}, {"$set": {"position": 3}})
    changed("2")
    said("rebuild_projections", "--blue-green")
    assert Loans.get("ann") == ANN
    assert checkpoint(store, "loans")["revision"] == "2"


def test_an_abandoned_build_is_neither_used_nor_in_the_way(lent, store, changed):
    rebuild = Rebuild(Loans, beside=True)
    rebuild.stop()
    assert rebuild.run() is None
    left = connection.raw(store.events).database.projection_loans_2
    left.insert_one({"_id": "bob", "state": {}, "position": 9})
    changed("2")
    said("rebuild_projections", "--blue-green")
    assert collections(store) == ["projection_loans", "projection_loans_3"]
    rebuild = Rebuild(Loans, beside=True)
    rebuild.stop()
    assert rebuild.run() is None
    said("rebuild_projections", "loans")
    assert checkpoint(store, "loans")["generation"] == 5
    assert checkpoint(store, "loans@4") is None
    assert collections(store) == ["projection_loans_5"]
    assert Loans.get("ann") == ANN
    assert Loans.get("bob") is None


def test_the_collection_of_a_forgotten_projection_is_not_built_on(lent, store):
    left = connection.raw(store.events).database.projection_loans_2
    left.insert_one({"_id": "ann", "state": {"lent": 0, "books": []}, "position": 9})
    for words in ["--blue-green"], []:
        said("rebuild_projections", "loans", *words)
        assert Loans.get("ann") == ANN
    assert checkpoint(store, "loans")["generation"] == 4


@pytest.mark.parametrize("words", [["--blue-green"], []], ids=["beside", "in place"])
def test_the_parked_streams_of_an_abandoned_build_are_deleted_page_by_page(
    lent, store, changed, monkeypatch, words
):
    monkeypatch.setattr(parked_streams, "PARKED_PER_READ", 2)
    rebuild = Rebuild(Loans, beside=True)
    rebuild.stop()
    assert rebuild.run() is None
    connection.raw(store.parked).insert_many(
        [
            {"_id": {"subscription": "loans@2", "aggregateId": f"b-{number}"}}
            | {"subscription": "loans@2"}
            for number in range(5)
        ]
    )
    changed("2")
    said("rebuild_projections", "loans", *words)
    assert parked(store) == []
    assert Loans.get("ann") == ANN
