"""The migrator makes indexes and the validator, and changes no event."""

import pytest

from ossy_event_store import Aggregate
from ossy_event_store.mongodb import connection, indexes, schema_validator
from ossy_event_store.mongodb.ports import drive
from tests.library.aggregate import Book
from tests.support.roles import (
    BOUGHT,
    CHANGES,
    LENT,
    PASSWORD,
    RETURNED,
    calls,
    everything,
    guarded_marks,
    in_database,
    may_not,
    refused,
    said,
)

pytestmark = [pytest.mark.faults, *guarded_marks]


def test_the_migrator_makes_all_in_an_empty_database(become, guarded):
    for name in connection.COLLECTION_OPTIONS:
        guarded.database[name].drop()
    store = become("shop_deploy")
    assert said("ensure_event_store", "--validator").count("Created ") == len(
        indexes.INDEXES
    )
    assert drive(indexes.missing(store)) == []
    assert drive(schema_validator.standing(store)) is schema_validator.Standing.CURRENT
    assert "Removed the validator" in said("ensure_event_store", "--no-validator")


@pytest.mark.django_db
def test_the_migrator_migrates(become, guarded, monkeypatch):
    for name in connection.COLLECTION_OPTIONS:
        guarded.database[name].drop()
    store = become("shop_deploy")
    monkeypatch.setattr("ossy_event_store.post_migrate._done", set())
    said("migrate")
    assert drive(indexes.missing(store)) == []


def test_the_migrator_is_told_of_events_that_do_not_fit(become, guarded):
    guarded.database.eventstore.insert_one({"_id": "n-1"})
    become("shop_deploy")
    assert "'n-1'" in said("ensure_event_store", "--validator")


def test_a_migrator_that_may_not_read_events_installs_it_too(become, guarded):
    role = in_database(guarded.name, calls("createRole")[-1])
    privileges = role["privileges"]
    privileges[0]["actions"].remove("find")
    guarded.database.command("createRole", "blind", privileges=privileges, roles=[])
    guarded.database.command("createUser", "blind", pwd=PASSWORD, roles=["blind"])
    become("blind")
    text = said("ensure_event_store", "--validator")
    assert "Installed the validator" in text
    assert "Stored events were not checked: this user may not read them." in text


@pytest.mark.parametrize("several", [[LENT], [LENT, RETURNED]], ids=["one", "two"])
def test_the_migrator_may_not_append(become, guarded, several):
    become("shop_site")
    book = Aggregate.of(Book, BOUGHT)
    become("shop_deploy")
    before = everything(guarded)
    with refused():
        book.add(*several)
    with refused():
        Aggregate.of(Book, BOUGHT)
    assert everything(guarded) == before


def test_the_migrator_may_not_change_events(become, guarded):
    become("shop_site")
    Aggregate.of(Book, BOUGHT)
    names = ("update", "delete", "drop", "rename", "$out", "dropIndexes")
    changes = {name: CHANGES[name] for name in (*names, "findAndModify")}
    may_not(become("shop_deploy"), changes, guarded)
