"""What is wrong with declarations as a whole: each is found, and named."""

from dataclasses import dataclass

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import event, upcaster
from ossy_event_store.documents.catalogue.catalogue import Catalogue
from ossy_event_store.documents.catalogue.problems import problems


def cls(name):
    return dataclass(type(name, (), {"__module__": "library"}))


def first(payload):
    return payload


def second(payload):
    return payload


def two_classes():
    event("Lent")(cls("Lent"))
    event("Lent")(cls("Loan"))


def two_upcasters():
    upcaster("Lent", 1)(first)
    upcaster("Lent", 1)(second)


def alias_of_a_class():
    event("Lent")(cls("Lent"))
    event("Loan", aliases=["Lent"])(cls("Loan"))


def alias_of_two():
    event("Lent", aliases=["old"])(cls("Lent"))
    event("Loan", aliases=["old"])(cls("Loan"))


def alias_with_an_upcaster():
    event("Lent", aliases=["old"])(cls("Lent"))
    upcaster("old", 1)(first)


def into_an_alias():
    event("Lent", aliases=["old"])(cls("Lent"))
    upcaster("Loan", 1, into={"old": 1})(first)


def gap():
    event("Lent", version=3)(cls("Lent"))
    upcaster("Lent", 2)(first)


def gap_without_a_class():
    upcaster("Lent", 2)(first)


def class_that_was_forgotten():
    event("Lent")(cls("Lent"))
    upcaster("Lent", 1)(first)


def into_no_version():
    upcaster("Lent", 1, into={"Card": 2})(first)


def cycle():
    upcaster("Lent", 1, into={"Card": 1})(first)
    upcaster("Card", 1, into={"Lent": 1})(second)


def cycle_with_itself():
    upcaster("Lent", 1, into={"Lent": 1})(first)


@pytest.mark.parametrize(
    ("declare", "kind", "said"),
    [
        (two_classes, "doubled", "2 classes: library.Lent and library.Loan. Give each"),
        (two_upcasters, "doubled", "2 upcasters from version 1"),
        (alias_of_a_class, "alias", "'Lent', which is the name of library.Lent"),
        (alias_of_two, "alias", "'old', which is an alias of library.Lent"),
        (alias_with_an_upcaster, "alias", "which is the type of "),
        (into_an_alias, "alias", "which is an alias. Write 'Lent'."),
        (gap, "gap", "at version 3, but has no upcaster from version 1"),
        (gap_without_a_class, "gap", "Declare @upcaster('Lent', 1)"),
        (class_that_was_forgotten, "gap", "Raise the version of the class"),
        (into_no_version, "gap", "into 'Card' at version 2, but that type has"),
        (cycle, "cycle", "Lent version 1 -> Card version 1 -> Lent version 1"),
        (cycle_with_itself, "cycle", "Lent version 1 -> Lent version 1"),
    ],
)
def test_a_contradiction_is_found(declarations, declare, kind, said):
    declare()
    (found,) = problems(declarations)
    assert found.kind == kind
    assert said in found
    with pytest.raises(ImproperlyConfigured) as caught:
        Catalogue(declarations)
    assert str(caught.value) == found


def test_all_contradictions_are_listed_at_once(declarations):
    two_upcasters(), gap(), into_no_version()
    kinds = [one.kind for one in problems(declarations)]
    # gap() finds its first upcaster in the others.
    assert kinds == ["doubled", "gap"]
    with pytest.raises(ImproperlyConfigured) as caught:
        Catalogue(declarations)
    assert len(str(caught.value).splitlines()) == 2


def test_a_split_and_two_ways_to_one_type_are_no_contradiction(declarations):
    event("Card", version=2, aliases=["card"])(cls("Card"))
    upcaster("Card", 1)(first)
    upcaster("Lent", 1, into={"Card": 1, "Other": 1})(first)
    upcaster("Lent", 2, into={"Card": 2})(second)
    assert list(problems(declarations)) == []
