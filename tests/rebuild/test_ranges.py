"""Ranges of streams with about as many events each, and shares by a hash."""

import pytest

from ossy_event_store import AggregateRebuild
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive, drive_each
from ossy_event_store.rebuild import ranges
from ossy_event_store.rebuild.ranges import Part, Partition, Span
from ossy_event_store.rebuild.report import RebuildReport
from tests.support.rebuild import in_span, profiled, states
from tests.support.verification import rebuild_indexes

# --- shares -----------------------------------------------------------------


def test_every_id_is_in_exactly_one_share():
    for number in range(200):
        shares = [n for n in range(7) if f"stream-ä-{number}" in Partition(n, 7)]
        assert len(shares) == 1


def test_a_share_is_the_same_in_every_release():
    """Else two machines in a rolling deploy would leave streams out."""
    found = [next(n for n in range(4) if i in Partition(n, 4)) for i in ("a", "b", "ü")]
    assert found == [3, 1, 1]


@pytest.mark.parametrize("stale", [False, True])
def test_shares_fold_every_stream_once_while_streams_are_created(
    store, face, lend, books, small, stale
):
    folded = []
    for share in range(3):
        before = set(states())
        lend(f"between-{share}", "BookBought")
        report = face(
            AggregateRebuild.build_and_save_all, partition=(share, 3), stale=stale
        )
        new = set(states()) - before
        assert all(i in Partition(share, 3) for i in new)
        assert report.streams == report.saved == len(new)
        folded += new
    assert len(folded) == len(set(folded))
    assert {f"b-{n:02}" for n in range(20)} | {"r-1"} <= set(folded)


def test_a_share_reads_the_events_of_no_other(history, books):
    found = profiled(
        history.database,
        lambda: AggregateRebuild.build_and_save_all(types=["Book"], partition=(0, 4)),
        {"ns": {"$regex": "eventstore$"}},
    )
    own = [n for n in range(20) if f"b-{n:02}" in Partition(0, 4)]
    assert 0 < len(own) < 20
    assert sum(p["docsExamined"] for p in found) == sum(1 + n % 3 for n in own)
    (ids,) = [p for p in found if p["command"].get("aggregate")]
    assert ids["keysExamined"] <= 20 + 1


def test_ids_of_a_share_are_read_in_pages_and_in_order(store, books, small):
    pages = drive_each(ranges.ids_of(store, Span("Book", "b-04"), Partition(0, 1)))
    assert [i for page in pages for i in page] == [f"b-{n:02}" for n in range(5, 20)]


@pytest.mark.parametrize("stale", [False, True])
def test_a_share_is_complete_though_an_index_once_held_a_list(
    history, store, books, monkeypatch, stale
):
    # Out of order by so much that chance does not put a page in order.
    monkeypatch.setattr(ranges, "IDS_PAGE_SIZE", 10)
    history.insert_one(
        {"aggregateId": ["b-99", "b-00"], "aggregateType": "Book", "type": "BookBought"}
    )
    for is_there in (True, False):  # the index stays as it is when the list goes
        connection.raw(store.snapshots).delete_many({})
        for share in range(3):
            AggregateRebuild.build_and_save_all(
                types=["Book"], partition=(share, 3), stale=stale
            )
        assert set(states()) == {f"b-{n:02}" for n in range(20)}
        if is_there:
            history.delete_one({"aggregateId": ["b-99", "b-00"]})
    rebuild_indexes(history.database)


# --- ranges -----------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 5, 100])
def test_each_stream_is_in_one_range(store, books, small, number):
    spans = drive(ranges.split(store, Span("Book"), number))
    assert len(spans) <= number
    found = [set(in_span(span)) for span in spans]
    assert sum(map(len, found)) == 20
    assert set.union(*found) == {f"b-{n:02}" for n in range(20)}


def test_ranges_have_about_the_same_number_of_events(store, lend, small):
    for number in range(60):
        lend(f"b-{number:02}", *["BookReturned"] * (1 + number % 2))
    counts = [len(in_span(s)) for s in drive(ranges.split(store, Span("Book"), 6))]
    assert len(counts) == 6
    assert all(10 <= count <= 17 for count in counts)


def test_a_long_stream_is_in_one_range(store, lend, small):
    lend("a", "BookBought")
    lend("b", *["BookReturned"] * 40)
    lend("c", "BookBought")
    spans = drive(ranges.split(store, Span("Book"), 8))
    assert [sorted(set(in_span(span))) for span in spans] in (
        [["a", "b"], ["c"]],
        [["a"], ["b"], ["c"]],
    )


def test_ranges_are_found_on_an_index_alone(history, store, books, small):
    found = profiled(
        history.database,
        lambda: drive(ranges.split(store, Span("Book"), 4)),
        {"ns": {"$regex": "eventstore$"}},
    )
    assert found
    assert sum(p["docsExamined"] for p in found) == 0


def test_few_events_are_not_split(store, books):
    assert drive(ranges.split(store, Span("Book"), 8)) == [Span("Book")]


def test_a_range_as_text():
    assert str(Span("Book")) == "Book"
    assert str(Span("Book", "a", "b")) == "Book after 'a' up to 'b'"


def test_what_is_done_of_a_part_becomes_a_part_of_its_own():
    part = Part(Span("Book", "a", "z"))
    part.count(RebuildReport(streams=3, events=7), "m")
    assert part.rest == Span("Book", "m", "z")
    done, *rest = part.divided([Span("Book", "m", "t"), Span("Book", "t", "z")])
    assert (done.span, done.ended) == (Span("Book", "a", "m"), True)
    assert (done.streams, done.events) == (3, 7)
    assert [one.span for one in rest] == [
        Span("Book", "m", "t"),
        Span("Book", "t", "z"),
    ]
    assert not any(one.ended for one in rest)
