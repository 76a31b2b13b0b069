"""The report of a rebuild and of a dry run; pure."""

import pytest

from ossy_event_store import RebuildReport, ReducerError
from ossy_event_store.documents.diff import changes
from ossy_event_store.rebuild.dry_run import COMPARED_CHANGES
from ossy_event_store.rebuild.report import (
    KEPT_ALTERATIONS,
    KEPT_CHANGES,
    KEPT_FAILURES,
    KEPT_PATHS,
    DryRun,
)


def altered(old, new, limit=COMPARED_CHANGES):
    seen = DryRun()
    seen.alter("b", 1, changes(old, new, limit))
    return seen


def test_paths_are_counted_once_per_stream_and_without_indexes():
    old = {"lines": [{"price": 1}, {"price": 2}], "a.b": {"x": 1}}
    new = {"lines": [{"price": 3}, {"price": 4}], "a.b": {"x": 2}}
    seen = altered(old, new)
    assert seen.paths == {"state.lines[].price": 1, 'state["a.b"].x': 1}
    seen.add(altered(old, new))
    assert (seen.altered, seen.paths["state.lines[].price"]) == (2, 2)


def test_the_report_of_alterations_is_bounded():
    some = {f"k{n}": n for n in range(KEPT_PATHS // 2 + 100)}
    seen = altered({}, some, limit=len(some) - 5)
    (first,) = seen.alterations
    assert (len(first.changes), first.more) == (KEPT_CHANGES, len(some) - KEPT_CHANGES)
    others = {f"other{n}": n for n in range(KEPT_PATHS // 2)}
    seen.add(altered({}, others, limit=len(others)))
    assert len(seen.paths) == KEPT_PATHS
    assert seen.other_paths == len(some) - 5 + len(others) - KEPT_PATHS
    assert seen.altered == len(seen.alterations) == 2
    for _ in range(KEPT_ALTERATIONS):
        seen.add(altered({}, {"k0": 1}))
    assert seen.altered == KEPT_ALTERATIONS + 2
    assert len(seen.alterations) == KEPT_ALTERATIONS
    seen.alter("b", 1, changes({}, {"k0": 1}, 9))
    assert len(seen.alterations) == KEPT_ALTERATIONS


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ({"a": 1}, {"a": 1.0}, ("state.a", "1", "1.0")),
        ({"a": "x" * 999}, {"a": "x" * 998}, None),
        ({}, {"a": None}, ("state.a", "", "null")),
        ({"a": 2}, {}, ("state.a", "2", "")),
        ({"a\x1b[2J": 1}, {}, ('state["a\\u001b[2J"]', "1", "")),
        ({"a": "\x1b[2J\u202e"}, {}, ("state.a", '"\\u001b[2J\\u202e"', "")),
    ],
)
def test_values_are_short_and_safe_to_print(old, new, texts):
    (found,) = altered(old, new).alterations[0].changes
    if texts:
        assert found == texts
    assert all(len(text) < 120 and text.isprintable() for text in found)
    assert found[1] != found[2] or old["a"] != new["a"]


def test_reports_add_up():
    one, other = RebuildReport(streams=1, failed=1), RebuildReport(streams=2, saved=2)
    one.add(other)
    assert (one.streams, one.saved, one.failed, one.ok) == (3, 2, 1, False)


def test_failures_are_counted_and_the_first_kept():
    report, other = RebuildReport(), RebuildReport()
    for number in range(KEPT_FAILURES + 1):
        report.fail(ReducerError("Book", f"b-{number}", 1, "torn"))
    other.fail(ReducerError("Book", "other", 1, "torn"))
    report.add(other)
    assert report.failed == KEPT_FAILURES + 2
    assert len(report.failures) == KEPT_FAILURES
    assert report.failures[0].aggregate_id == "b-0"


def test_a_report_as_a_line():
    report = RebuildReport(
        streams=21, events=1234, saved=20, newer=1, failed=2, seconds=2.0, resumed=3
    )
    assert str(report) == (
        "21 streams, 1,234 events in 2.0 s (617 events/s); 20 snapshots written, "
        "1 newer one kept, 3 streams done before, 2 FAILED"
    )
