"""Impure upcasters are found by calling them twice."""

import itertools

import pytest

from ossy_event_store import UpcasterError, upcaster
from ossy_event_store.documents.catalogue.purity import check_upcasters
from tests.support.catalogue import stored

numbers = itertools.count()
seen = {}


def counts(payload):
    return {**payload, "number": next(numbers)}


def first_of_each(payload):
    return {**payload, "is_first": seen.setdefault("first", payload) == payload}


def changes(payload):
    payload["number"] = 7
    return payload


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (counts, "called twice with the same payload, it returned {'n': 1, 'number':"),
        (changes, "it changed what it got"),
    ],
)
def test_an_impure_upcaster_is_found(declarations, function, said):
    upcaster("Lent", 1)(function)
    with pytest.raises(UpcasterError) as caught:
        check_upcasters([stored(n=0), stored(n=1)])
    assert caught.value.upcaster.endswith(function.__name__)
    assert said in caught.value.reason


def test_pure_upcasters_are_counted(declarations):
    upcaster("Lent", 1)(lambda payload: [payload, payload])
    upcaster("Lent", 2)(lambda payload: {**payload, "weeks": 3})
    events = [stored(n=0), stored("Lent", 2), stored("Lent", 3), stored("Other")]
    assert check_upcasters(events) == 2 * (3 + 1)
    assert check_upcasters([]) == 0
