"""Queries over types and tags."""

import pickle

import pytest

from ossy_event_store import InvalidBoundary, Query, all_events, any_of, item
from ossy_event_store.documents.boundaries.query import Item, check_query

EVENT = {"type": "A", "tags": ["x", "y"]}


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        (item("A"), True),
        (item("B", "A"), True),
        (item("B"), False),
        (item(tags=["x"]), True),
        (item(tags=["y", "x"]), True),
        (item(tags=["x", "z"]), False),
        (item("A", tags=["y"]), True),
        (item("B", tags=["y"]), False),
        (any_of(item("B"), item(tags=["x"])), True),
        (any_of(item("B"), item(tags=["z"])), False),
        (all_events(), True),
    ],
)
def test_an_event_matches_one_item_by_type_and_all_tags(query, matches):
    assert query.matches(EVENT) is matches


def test_an_event_without_tags_matches_an_item_without_tags():
    assert item("A").matches({"type": "A"})
    assert not item("A", tags=["x"]).matches({"type": "A"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (item, "needs a type or a tag"),
        (lambda: item(tags=["x", "x"]), "given twice"),
        (lambda: item(tags=["type:x"]), "is reserved"),
        (lambda: item(tags=["x" * 256]), "255 characters"),
        (lambda: item(tags=[f"t{n}" for n in range(17)]), "at most 16"),
        (lambda: item(tags="x"), "must be a list"),
        (lambda: item(*(f"T{n}" for n in range(33))), "at most 32"),
        (any_of, "needs an item"),
        (lambda: any_of(*(item(f"T{n}") for n in range(33))), "at most 32"),
    ],
)
def test_what_is_no_query_is_refused(make, message):
    with pytest.raises(InvalidBoundary, match=message):
        make()


@pytest.mark.parametrize("value", [None, "A", {"type": "A"}, [item("A")], Item, 7])
def test_only_what_item_and_any_of_return_is_a_query(value):
    with pytest.raises(TypeError, match=r"item\(\) or any_of\(\)"):
        check_query(value)
    with pytest.raises(TypeError, match=r"items must be made by item\(\)"):
        any_of(value)


def test_equal_items_are_one():
    assert any_of(item("A"), item("A")) == any_of(item("A")) == item("A")


def test_a_query_can_be_pickled_and_compared():
    query = any_of(item("B", "A", tags=["y", "x"]), item(tags=["z"]))
    assert pickle.loads(pickle.dumps(query)) == query
    assert query == any_of(item(tags=["z"]), item("A", "B", tags=["x", "y"]))
    assert isinstance(query, Query)


def test_a_guard_of_an_item_is_one_of_its_tags_or_all_of_its_types():
    query = any_of(item("A", tags=["x", "y"]), item("B", "C"))
    guards = query.guards(["B", "C"])
    names = [guard.names for guard in guards]
    assert names == [("x", "y"), ("type:B",), ("type:C",)]
    assert all_events().guards(["*"])[0].names == ("*",)


@pytest.mark.parametrize("query", [item("A"), any_of(item(tags=["x"]), item("A", "B"))])
def test_a_type_that_is_not_declared_cannot_be_guarded(query):
    with pytest.raises(InvalidBoundary, match="TYPE_BOUNDARIES"):
        query.guards(["B", "*"])
