"""Fixtures of the tests of rebuilds."""

import pytest
from django.conf import settings

from ossy_event_store import AggregateRebuild
from ossy_event_store.mongodb import resumable_scan
from ossy_event_store.rebuild import ranges
from ossy_event_store.rebuild.fold_streams import SnapshotBuilder
from ossy_event_store.rebuild.progress import RebuildProgress
from tests.library.aggregate import Book
from tests.support.rebuild import shout as shout
from tests.support.rebuild import twenty_books as twenty_books


@pytest.fixture(autouse=True)
def _same_server(monkeypatch):
    """Spare a spawned process the start of a server, which its settings would need."""
    monkeypatch.setenv("TEST_MONGODB_URL", settings.SERVER)


@pytest.fixture
def books(twenty_books):
    """Twenty books of one to three events, and a reader."""


@pytest.fixture
def small(monkeypatch):
    """Ranges, pages, batches and writes of few."""
    monkeypatch.setattr(ranges, "MIN_RANGE_EVENTS", 2)
    monkeypatch.setattr(ranges, "IDS_PAGE_SIZE", 3)
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    monkeypatch.setattr(SnapshotBuilder, "write_batch", 2)
    monkeypatch.setattr(RebuildProgress, "save_seconds", 0)


@pytest.fixture
def interrupted(store, books, small, monkeypatch):
    """Interrupt a rebuild at a stream, as a kill would."""

    def interrupted(at="b-10", **options):
        whole = Book.view

        def view(events, state):
            if events[0]["aggregateId"] == at:
                raise KeyboardInterrupt
            return whole(events, state)

        with monkeypatch.context() as patch:
            patch.setattr(Book, "view", staticmethod(view))
            with pytest.raises(KeyboardInterrupt):
                AggregateRebuild.build_and_save_all(**options)

    return interrupted


@pytest.fixture
def folded(monkeypatch):
    """The books that are folded from now on."""
    seen, whole = [], Book.view

    def view(events, state):
        seen.append(events[0]["aggregateId"])
        return whole(events, state)

    monkeypatch.setattr(Book, "view", staticmethod(view))
    return seen


@pytest.fixture
def broken(monkeypatch):
    """Make the reducer of books raise at every event of one type."""

    def break_at(event_type):
        whole = Book.view

        def view(events, saved_state):
            for event in events:
                if event["type"] == event_type:
                    raise ZeroDivisionError(event["type"])
            return whole(events, saved_state)

        monkeypatch.setattr(Book, "view", staticmethod(view))

    return break_at
