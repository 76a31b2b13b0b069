"""What a user can import."""

import inspect

import pytest

import ossy_event_store

pytestmark = pytest.mark.versions


def test_all_is_sorted_and_complete():
    public = [
        name
        for name, value in vars(ossy_event_store).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    ]
    assert sorted([*public, "__version__"]) == ossy_event_store.__all__
    assert list(ossy_event_store.__all__) == sorted(ossy_event_store.__all__)


def test_every_public_name_says_what_it_is():
    for name in ossy_event_store.__all__:
        value = getattr(ossy_event_store, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            for member, thing in vars(value).items():
                if not member.startswith("_") and inspect.isroutine(thing):
                    assert inspect.getdoc(thing), f"{name}.{member}"


def test_every_error_stands_in_one_tree():
    base = ossy_event_store.EventStoreError
    errors = [
        value
        for value in vars(ossy_event_store.exceptions).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__ == "ossy_event_store.exceptions"
    ]
    assert all(issubclass(error, base) for error in errors)
    for error in errors:
        if not error.__name__.startswith("_"):
            assert error.__name__ in ossy_event_store.__all__
            assert error.__name__ in ossy_event_store.exceptions.__doc__
