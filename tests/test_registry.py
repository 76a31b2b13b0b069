"""Discovery: which classes are found, and how a wrong module is reported."""

import importlib
import sys
import textwrap
import traceback

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import AggregateRebuild
from ossy_event_store.aggregate import registry
from ossy_event_store.aggregate.registry import (
    discover,
    register_aggregate,
    registered_aggregates,
    root_of,
)
from ossy_event_store.exceptions import UnknownAggregateType
from tests.library.aggregate import Book, Reader

pytestmark = pytest.mark.versions

CLASS = """
class {name}:
    aggregate_type = "{kind}"

    @staticmethod
    def view(events, saved_state):
        return {{}}
"""


def source(name="Shelf", kind="Shelf"):
    return CLASS.format(name=name, kind=kind)


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def app(tmp_path, monkeypatch, settings):
    """Install an app with these modules for the length of a test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before, names = set(sys.modules), []

    def app(name="shelves", **modules):
        folder = tmp_path / name
        folder.mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        names.append(name)
        # Without our own app, whose ready() discovers as well.
        settings.INSTALLED_APPS = names

    yield app
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in names:
            del sys.modules[module]


def refusal():
    with pytest.raises(ImproperlyConfigured) as caught:
        discover()
    return str(caught.value)


# Discovered


def test_modules_of_installed_apps_are_discovered():
    assert "tests.library.aggregate" in discover()
    assert list(registered_aggregates()) == [
        "Book"
    ]  # its decorator ran at the first import


def test_an_export_of_aggregate_and_id_is_registered(app):
    app(aggregate=source("Aggregate") + 'id = "Shelf"')
    discover()
    assert list(registered_aggregates()) == ["Shelf"]


def test_every_decorated_class_of_a_module_is_registered(app):
    decorated = "from ossy_event_store import register_aggregate\n"
    for kind in ("One", "Two"):
        decorated += "@register_aggregate" + source(kind, kind)
    app(aggregate=decorated)
    discover()
    assert list(registered_aggregates()) == ["One", "Two"]


def test_a_package_is_a_module_too(app, tmp_path):
    app()
    (tmp_path / "shelves" / "aggregate").mkdir()
    text = source("Aggregate") + 'id = "Shelf"'
    (tmp_path / "shelves" / "aggregate" / "__init__.py").write_text(text)
    discover()
    assert list(registered_aggregates()) == ["Shelf"]


def test_an_app_without_the_module_is_skipped(app):
    app(models="")
    assert discover() == []


def test_a_module_without_exports_registers_nothing(app):
    app(aggregate="x = 1")
    assert (discover(), registered_aggregates()) == (["shelves.aggregate"], {})


def test_a_module_that_imports_our_aggregate_does_not_export_it(app):
    app(aggregate="from ossy_event_store import Aggregate\n" + source())
    discover()
    assert registered_aggregates() == {}


def test_discovery_can_be_repeated(app):
    app(aggregate=source("Aggregate") + 'id = "Shelf"')
    assert discover() == discover()
    assert list(registered_aggregates()) == ["Shelf"]


def test_a_class_that_is_exported_and_decorated_is_registered_once(app):
    text = "from ossy_event_store import register_aggregate\n@register_aggregate"
    app(aggregate=text + source() + 'Aggregate = Shelf\nid = "Shelf"')
    discover()
    assert list(registered_aggregates()) == ["Shelf"]


def test_the_builtin_id_is_not_an_export(app):
    app(aggregate="from builtins import id")
    discover()
    assert registered_aggregates() == {}


# Refused


def test_an_id_that_differs_from_the_type_is_refused(app):
    app(aggregate=source("Aggregate") + 'id = "Shelves"')
    assert refusal() == (
        "shelves.aggregate: id is 'Shelves', but shelves.aggregate.Aggregate."
        "aggregate_type is 'Shelf'. They must be equal."
    )


def test_an_aggregate_without_an_id_is_refused(app):
    app(aggregate=source("Aggregate"))
    assert refusal() == (
        "shelves.aggregate exports Aggregate (shelves.aggregate.Aggregate) but no id. "
        "Add id = 'Shelf'."
    )


def test_an_id_without_an_aggregate_is_refused(app):
    app(aggregate=source() + 'id = "Shelf"')
    assert refusal().startswith(
        "shelves.aggregate exports id = 'Shelf' but no Aggregate."
    )


def test_an_id_beside_our_own_aggregate_is_refused(app):
    app(aggregate='from ossy_event_store import Aggregate\nid = "Shelf"')
    assert "exports id = 'Shelf' but no Aggregate" in refusal()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class Aggregate: pass", "Aggregate needs an attribute aggregate_type"),
        (
            "class Aggregate:\n    aggregate_type = 'Shelf'",
            "Aggregate needs a static method view",
        ),
        (
            "class Aggregate:\n    aggregate_type = 'Shelf'\n"
            "    def view(self, events, state): return {}",
            "Aggregate.view must take (events, saved_state)",
        ),
        ("Aggregate = 5", "5 is not an aggregate class"),
        ("def Aggregate(): pass", "is not an aggregate class"),
        ("Aggregate = None", "exports id = 'Shelf' but no Aggregate"),
    ],
)
def test_an_export_that_is_not_a_reducer_is_refused(app, text, reason):
    app(aggregate=text + '\nid = "Shelf"')
    error = refusal()
    assert error.startswith("shelves.aggregate")
    assert reason in error


def test_two_classes_of_one_type_are_refused(app):
    app("one", aggregate=source("Aggregate") + 'id = "Shelf"')
    app("two", aggregate=source("Aggregate") + 'id = "Shelf"')
    assert refusal() == (
        "Two aggregate classes have the aggregate_type 'Shelf': "
        "one.aggregate.Aggregate and two.aggregate.Aggregate. Give each class its own."
    )


def test_a_subclass_needs_its_own_type():
    class Novel(Book):
        pass

    register_aggregate(Book)
    with pytest.raises(ImproperlyConfigured, match="Two aggregate classes have"):
        register_aggregate(Novel)
    assert root_of("Book") is Book


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module", ModuleNotFoundError),
        ("1 / 0", ZeroDivisionError),
        ("def", SyntaxError),
        ("from .missing import x", ModuleNotFoundError),
        ("raise ImportError('no')", ImportError),
    ],
)
def test_an_error_of_a_module_keeps_its_traceback(app, text, error):
    with pytest.raises(error) as caught:
        app(aggregate=text)
        discover()
    printed = "".join(traceback.format_exception(caught.value))
    assert "shelves/aggregate.py" in printed


def test_a_module_that_imports_a_broken_one_is_not_skipped(app):
    app(aggregate="import shelves.other", other="import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        discover()


# Registered


def test_the_decorator_returns_the_class():
    assert register_aggregate(Book) is Book


def test_a_class_can_be_registered_twice():
    register_aggregate(Book)
    register_aggregate(Book)
    assert registered_aggregates() == {"Book": Book}


def test_a_class_of_a_reimported_module_replaces_the_old_one():
    twin = type("Book", (), {**vars(Book), "__module__": Book.__module__})
    register_aggregate(Book)
    register_aggregate(twin)
    assert root_of("Book") is twin


def test_classes_are_in_order_of_type():
    register_aggregate(Reader)
    register_aggregate(Book)
    assert list(registered_aggregates()) == ["Book", "Reader"]


def test_changing_the_returned_classes_changes_no_registration():
    registered_aggregates()["Book"] = Book
    assert registered_aggregates() == {}


def test_the_rebuild_can_register_a_class():
    AggregateRebuild.register_aggregate(Book)
    assert root_of("Book") is Book


def test_an_unknown_type_is_answered_with_the_registered_ones():
    register_aggregate(Reader)
    register_aggregate(Book)
    with pytest.raises(UnknownAggregateType) as caught:
        root_of("Cook")
    assert caught.value.registered == ("Book", "Reader")


@pytest.mark.parametrize("kind", [None, 5, {}, ["Book"]])
def test_a_type_that_is_not_a_string_is_an_error(kind):
    with pytest.raises((UnknownAggregateType, TypeError)):
        root_of(kind)


def test_django_setup_discovers(app, settings):
    app(aggregate=source("Aggregate") + 'id = "Shelf"')
    settings.INSTALLED_APPS = ["ossy_event_store", "shelves"]
    assert "Shelf" in registered_aggregates()


def test_django_setup_fails_if_discovery_fails(app, settings):
    app(aggregate=source("Aggregate"))
    with pytest.raises(ImproperlyConfigured, match="but no id"):
        settings.INSTALLED_APPS = ["ossy_event_store", "shelves"]
