"""Declare event types and upcasters: what is refused, with which text."""

import functools
import re
from dataclasses import dataclass

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import event, upcaster


async def coroutine(payload):
    return payload


async def generated(payload):
    yield payload


def generator(payload):
    yield payload


def nothing():
    return {}


def plain(payload):
    return payload


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (coroutine, "must be a plain function"),
        (generator, "must be a plain function"),
        (generated, "must be a plain function"),
        (7, "must be a plain function"),
        (nothing, "must take (payload) or (payload, event), not ()"),
        (lambda a, b, c: a, "must take (payload) or (payload, event), not (a, b, c)"),
    ],
)
def test_what_is_no_upcaster_is_refused(declarations, function, said):
    with pytest.raises(ImproperlyConfigured, match=re.escape(said)) as caught:
        upcaster("Lent", 1)(function)
    assert str(caught.value).startswith("@upcaster('Lent', 1) of ")
    assert declarations.upcasters == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": ""}, "name"),
        ({"version": 0}, "version is 0; it must be 1 or more"),
        ({"version": "1"}, "version must be a whole number, not str"),
        ({"into": ["Card"]}, "into must be a dict such as {'CardIssued': 1}"),
        ({"into": {"Card": 0}}, "into['Card'] is 0"),
        ({"into": {7: 1}}, "each type of into"),
    ],
)
def test_a_wrong_argument_of_an_upcaster_is_named(declarations, arguments, said):
    options = {"name": "Lent", "version": 1, **arguments}
    declare = upcaster(options.pop("name"), options.pop("version"), **options)
    with pytest.raises(ImproperlyConfigured, match=re.escape(said)):
        declare(plain)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": 7}, "name"),
        ({"version": True}, "version must be a whole number, not bool"),
        ({"aliases": "lent"}, "aliases must be a list of strings, not str"),
        ({"tags": 7}, "tags must be a list of strings, not int"),
    ],
)
def test_a_wrong_argument_of_an_event_is_named(declarations, arguments, said):
    options = {"name": "Lent", **arguments}
    with pytest.raises(ImproperlyConfigured, match=re.escape(said)) as caught:
        event(options.pop("name"), **options)(dataclass(type("Lent", (), {})))
    assert f"{__name__}.Lent" in str(caught.value)


def test_an_upcaster_gets_the_event_if_it_has_a_second_parameter(declarations):
    def both(payload, event):
        return payload

    for function in (plain, both, functools.partial(both, event={})):
        upcaster("Lent", 1)(function)
    takes = [one.takes_event for one in declarations.upcasters]
    assert takes == [False, True, False]


def test_a_module_that_is_imported_again_replaces_its_declarations(declarations):
    def declare():
        event("Lent", version=2)(dataclass(type("Lent", (), {})))
        upcaster("Lent", 1)(lambda payload: payload)

    declare(), declare()
    assert len(declarations.types) == len(declarations.upcasters) == 1
    assert declarations.edition == 4
