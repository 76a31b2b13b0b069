"""Declaring a projection, and reading its documents."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import Aggregate, EventStore, Projection, register_projection
from tests.library.aggregate import Book
from tests.support.projections import Loans
from tests.support.subscriptions import reached, running, said

pytestmark = pytest.mark.usefixtures("quick")


def test_each_key_has_a_document_with_the_fold_of_its_events(loans, store, lend, face):
    lend("a", "BookBought", "BookLent", "BookReturned", "BookLent")
    lend("b", "BookLent")
    with running():
        reached(store, "loans", 5)
    assert face(Loans.get, "ann") == {"lent": 3, "books": ["a", "a", "b"]}
    assert face(Loans.get, "bob") is None
    (found,) = Loans.collection.find({"state.lent": {"$gt": 2}})
    assert found["_id"] == "ann"
    assert found["position"] == 5


def test_a_view_that_appends_reads_its_own_write(loans, store, lend, face):
    lend("a", "BookBought")
    with running():
        for lent in range(1, 6):
            book = Aggregate.of(Book, "a")
            book.add({"type": "BookLent", "payload": {"to": "ann"}})
            assert face(Loans.wait_for, book, 30)
            assert Loans.get("ann")["lent"] == lent
        assert face(Loans.wait_for, EventStore.get_event_stream("a")[-1])
        assert face(EventStore.wait_for, book, subscription="loans")
        with pytest.raises(TypeError, match="a position, an event as stored, or an"):
            face(Loans.wait_for, {"type": "BookLent"})
    assert not face(Loans.wait_for, 7, 0.01)


class Indexed(Loans):
    name = "indexed"
    indexes = ["state.lent", [("state.books", 1), ("state.lent", -1)]]


def test_its_indexes_are_created_with_the_others_and_with_each_build(
    loans, store, lend
):
    register_projection(Indexed)
    names = ["_id_", "state.lent_1", "state.books_1_state.lent_-1"]
    shown = said("ensure_event_store")
    assert "Created projection_indexed.state.lent_1 for a projection." in shown
    assert said("ensure_event_store") == "All indexes exist.\n"
    assert sorted(Indexed.collection.index_information()) == sorted(names)
    lend("a", "BookLent")
    for words in (["--blue-green"], []):
        said("rebuild_projections", "indexed", *words)
        assert Indexed.get("ann")["lent"] == 1
        assert sorted(Indexed.collection.index_information()) == sorted(names)


WRONG = {
    "indexes": (
        lambda: type("P", (Loans,), {"name": "p", "indexes": "state.lent"}),
        r"indexes must be a list of indexes, .*\['state.lent'\]",
    ),
    "no class": (
        lambda: Projection.get,
        "Expected a class that inherits from Projection",
    ),
    "no name": (
        lambda: type("P", (Projection,), {}),
        "name must consist of letters, digits and _, as .work_per_clerk.; found None",
    ),
    "no collection": (
        lambda: type("P", (Projection,), {"name": "a.b"}),
        "found 'a.b'",
    ),
    "no key": (
        lambda: type("P", (Projection,), {"name": "p"}),
        "must have a static method key",
    ),
    "aggregate_types": (
        lambda: type("P", (Loans,), {"name": "p", "aggregate_types": "Book"}),
        "aggregate_types must be a list of strings",
    ),
    "method": (
        lambda: type("P", (Loans,), {"name": "p", "apply": lambda self: {}}),
        "must take .event, state.",
    ),
    "a collection of another": (
        lambda: type("P", (Loans,), {"name": "loans_2"}),
        "The projection names 'loans_2' and 'loans' collide",
    ),
    "name twice": (
        lambda: type("P", (Loans,), {}),
        "Two projections have the name 'loans'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused(loans, name):
    make, message = WRONG[name]
    with pytest.raises(ImproperlyConfigured, match=message):
        register_projection(make())


@pytest.mark.parametrize("key", [None, True, {"$gt": ""}, ["a"], b"a", 1.5])
def test_a_key_must_be_a_string_or_an_integer(loans, face, key):
    with pytest.raises(TypeError, match="key must be a string or an integer"):
        face(Loans.get, key)
