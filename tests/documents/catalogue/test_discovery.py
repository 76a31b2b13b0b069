"""The modules ``events`` of apps are imported at the start of a process."""

import importlib
import sys

import pytest
from django.apps import AppConfig, apps

from ossy_event_store.documents.catalogue.discovery import discover

DECLARES = """
from dataclasses import dataclass
from ossy_event_store import event

@event("Lent")
@dataclass
class Lent:
    book: str
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Install an app with a module ``events``."""
    monkeypatch.syspath_prepend(tmp_path)

    names = []

    def app(name, source):
        names.append(name)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "events.py").write_text(source, "utf-8")
        importlib.invalidate_caches()
        config = AppConfig(name, importlib.import_module(name))
        monkeypatch.setitem(apps.app_configs, name, config)

    yield app
    for module in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[module]


def test_the_module_events_of_an_app_is_imported(declarations, app):
    app("shelves_that_declare", DECLARES)
    app("concerts", "EVENTS = ['an unrelated module']")
    discover()
    assert [one.name for one in declarations.types] == ["Lent"]


def test_a_module_that_cannot_be_imported_says_why_it_is(app):
    app("broken_concerts", "import a_library_that_nobody_has")
    with pytest.raises(ModuleNotFoundError, match="a_library_that_nobody") as caught:
        discover()
    (note,) = caught.value.__notes__
    assert "imports the module events of each installed app" in note
