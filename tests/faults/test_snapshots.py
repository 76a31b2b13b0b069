"""Snapshots never go back to an older state."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from ossy_event_store import Aggregate, StoreUnavailable
from tests.library.aggregate import Book
from tests.support.faults import (
    SOME,
    blocking,
    bought,
    by_url,
    fail_command,
    lent,
    new_ids,
)
from tests.support.servers import until

pytestmark = [pytest.mark.faults, by_url]


@pytest.mark.parametrize("losses", ["none", *SOME])
def test_a_late_save_of_an_older_state_changes_nothing(line, face, losses):
    old = bought(face)
    new = face(Aggregate.of, Book, old.id)
    face(new.add, *lent(*new_ids()))
    for book in (new, old, new, old):
        line.lose("update", *losses.split())
        # Without the driver's retries a cut is an error; the caller may save again.
        until(lambda b=book: is_saved(face, b))
        assert face(Aggregate.find, old.id)["aggregateVersion"] == 2
    again = face(Aggregate.of, Book, old.id)
    assert (again.saved_version, again.events) == (2, [])
    assert again.view()["loans"] == 1


def is_saved(face, book):
    try:
        face(book.save)
    except StoreUnavailable:
        return False
    return True


def test_saves_amid_cuts_never_go_back(member):
    book = bought()
    books = [book]
    for _ in range(8):
        book = Aggregate.of(Book, book.id).add(*lent(*new_ids()))
        books.append(book)
    seen = []
    all_saved = threading.Event()
    chance = {"activationProbability": 0.3}

    def look():
        while not all_saved.is_set():
            found = Aggregate.find(book.id)
            seen.append(found["aggregateVersion"] if found else 0)

    with ThreadPoolExecutor(1 + len(books)) as pool:
        looking = pool.submit(look)
        with fail_command(member, chance, "update", closeConnection=True):
            saving = [
                pool.submit(until, lambda b=b: is_saved(blocking, b)) for b in books
            ]
            wait(saving)
        all_saved.set()
        looking.result(30)
    assert all(saved.result() for saved in saving)
    assert seen == sorted(seen)
    assert Aggregate.find(book.id)["aggregateVersion"] == len(books)
