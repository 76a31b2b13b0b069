"""Fixtures of the verification tests: sound stores, and stores without indexes."""

import pytest

from ossy_event_store import AggregateRebuild, EventStore
from tests.support.projections import Loans
from tests.support.projections import loans as loans
from tests.support.projections import nights as nights
from tests.support.subscriptions import reached, running
from tests.support.verification import NODE, UNIQUE, rebuild_indexes, stream


@pytest.fixture
def library(store, history):
    """A sound store of 21 streams with snapshots; b-09 and b-10 have seven events."""
    events = []
    for number in range(21):
        fields = NODE if number == 3 else {}
        kind = "Reader" if number % 5 == 4 else "Book"
        length = 7 if number in (9, 10) else number % 4 + 1
        events += stream(f"b-{number:02}", length, aggregateType=kind, **fields)
    history.insert_many(events)
    AggregateRebuild.build_and_save_all()
    return history


@pytest.fixture
def loose(history):
    """The events without their unique index, which is created again afterwards."""
    history.drop_index(UNIQUE.name)
    yield history
    history.delete_many({})
    history.create_index(list(UNIQUE.keys), **UNIQUE.options)


@pytest.fixture
def with_lists(library):
    """A library for ids that are lists: an index that once held one is never as new."""
    yield library
    rebuild_indexes()


# --- projections ------------------------------------------------------------


@pytest.fixture
def borrow(quick, loans, store):
    """Let readers borrow a book, one after the other."""

    def borrow(book, *readers):
        lent = {"aggregateId": book, "aggregateType": "Book", "type": "BookLent"}
        EventStore.append_events([{**lent, "payload": {"to": r}} for r in readers])

    return borrow


@pytest.fixture
def catch_up(store):
    """Run a projection until it is up to date, and stop it."""

    def catch_up(position, name="loans"):
        with running(name):
            reached(store, name, position)

    return catch_up


@pytest.fixture
def built(borrow, catch_up):
    """Five events of two readers, all of them in their documents."""
    borrow("a", "ann", "bob", "ann")
    borrow("b", "ann", "bob")
    catch_up(5)
    return Loans.collection


@pytest.fixture
def many(borrow, catch_up):
    """40 documents, each of two events of two books."""
    readers = [f"reader-{number:02}" for number in range(40)]
    borrow("a", *readers)
    borrow("b", *readers)
    catch_up(80)
    return Loans.collection
