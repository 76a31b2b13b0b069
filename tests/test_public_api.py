"""What a user can import."""

import inspect
import os
import subprocess
import sys
from pkgutil import iter_modules

import pytest

import ossy_event_store

pytestmark = pytest.mark.versions


def test_all_is_sorted_and_complete():
    # Pytest adds names with an @ where it rewrites statements.
    public = [one for one in vars(ossy_event_store) if not one.startswith(("_", "@"))]
    modules = {name for _, name, _ in iter_modules(ossy_event_store.__path__)}
    expected = {*public, *ossy_event_store._MODULE_OF, "__version__"} - modules
    assert sorted(expected) == ossy_event_store.__all__
    assert expected <= set(dir(ossy_event_store))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"has no attribute 'Agregate'"):
        _ = ossy_event_store.Agregate


LOADED = """
import sys
{statement}
names = [n for n in sys.modules if n.partition(".")[0] == "ossy_event_store"]
print(*names, "multiprocessing" if "multiprocessing" in sys.modules else "")
"""


def loaded(statement):
    code = LOADED.format(statement=statement)
    # Without the measurement of coverage, which loads modules of its own.
    env = {key: value for key, value in os.environ.items() if "COV" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    return done.stdout.split()


def test_the_package_loads_little_by_itself():
    names = loaded("import ossy_event_store")
    rooms = {name.split(".")[1] for name in names if "." in name}
    assert rooms == {"exceptions"}


def test_a_public_name_loads_only_the_rooms_that_it_needs():
    names = loaded("from ossy_event_store import Aggregate, EventStore")
    assert "multiprocessing" not in names
    rooms = {name.split(".")[1] for name in names if "." in name}
    assert rooms <= {
        *("aggregate", "conf", "documents", "event_store", "exceptions"),
        *("mongodb", "positions", "streams"),
    }


def test_only_a_rebuild_in_processes_loads_multiprocessing():
    names = loaded("from ossy_event_store import AggregateRebuild")
    assert "ossy_event_store.rebuild.api" in names
    assert "multiprocessing" not in names


def test_every_public_name_has_a_docstring():
    for name in ossy_event_store.__all__:
        value = getattr(ossy_event_store, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            for member, thing in inspect.getmembers_static(value):
                if not member.startswith("_") and inspect.isroutine(thing):
                    assert inspect.getdoc(thing), f"{name}.{member}"


def test_all_errors_form_one_tree():
    base = ossy_event_store.EventStoreError
    errors = [
        value
        for value in vars(ossy_event_store.exceptions).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__.startswith("ossy_event_store.exceptions.")
    ]
    assert all(issubclass(error, base) for error in errors)
    for error in errors:
        assert error.__name__ in ossy_event_store.__all__
        assert error.__name__ in ossy_event_store.exceptions.__doc__
