"""A run: the indexes that are missing, and the progress."""

import pytest

from ossy_event_store.mongodb import indexes
from tests.support.verification import (
    SMALL,
    UNIQUE,
    break_stream,
    event,
    found,
    look,
    rebuild_indexes,
)


@pytest.mark.parametrize("index", indexes.INDEXES, ids=lambda index: index.name)
def test_a_missing_index_is_found_and_the_rest_is_verified(store, library, index):
    collection = library.database[index.collection]
    collection.drop_index(index.name)
    try:
        break_stream(library, "a hole in the middle")
        report = look()
        (finding,) = (one for one in report.findings if one.kind == "index")
        assert finding.subject == f"{index.collection}.{index.name}"
        assert found(report) == [("hole", "b-10", (3, 3))]
        assert report.events == 59
    finally:
        collection.create_index(list(index.keys), **index.options)


def test_an_index_that_is_not_unique_is_found(library, loose, face):
    loose.create_index(list(UNIQUE.keys), name=UNIQUE.name)
    try:
        assert look(face).found == {"index": 1}
    finally:
        loose.drop_index(UNIQUE.name)


def test_a_store_without_any_index_is_verified(store, library, face):
    for name in {index.collection for index in indexes.INDEXES}:
        library.database[name].drop_indexes()
    try:
        library.insert_one(event("b-10", 1, aggregateType="Reader"))
        report = look(face)
        assert report.found["index"] == len(indexes.INDEXES)
        assert found(report) == [
            ("duplicate", "b-10", (1, 1)),
            ("type", "b-10", (1, 1)),
        ]
    finally:
        rebuild_indexes()


def test_progress_is_reported_during_the_run(library, face):
    seen = []
    report = look(
        face,
        sizes=SMALL,
        progress=lambda report: seen.append((report.events, report.reads)),
    )
    assert seen == sorted(seen)
    assert len(seen) >= 60 / SMALL.events  # with each batch, at least
    assert seen[-1][0] == 60
    assert report.seconds > 0
