"""
Pages whose facts stand in the code: each function returns lines of reStructuredText.

``conf.py`` makes a directive of each. Nothing here needs Sphinx, so the tests can
ask what a page says without building it; Django must be set up.
"""

import ast
import inspect
from dataclasses import MISSING, fields
from pathlib import Path

from django.core.management import find_commands, load_command_class
from django.core.management.base import BaseCommand

import ossy_event_store
from ossy_event_store import checks, conf, exceptions
from ossy_event_store.mongodb import indexes

PACKAGE = Path(ossy_event_store.__file__).parent


def _indented(text, by="   "):
    return [by + line if line else "" for line in text.splitlines()]


def _table(header, rows):
    """Return a list-table; a cell is one line of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        for first, cell in zip("*" + " " * (len(row) - 1), row, strict=True):
            lines.append(f"   {first} - {cell}")
    return [*lines, ""]


# --- settings ---------------------------------------------------------------


def settings_lines():
    """Every key of ``OSSY_EVENT_STORE``: type, default, meaning."""
    lines = []
    for setting in fields(conf.Settings):
        factory = setting.default_factory
        default = setting.default if factory is MISSING else factory()
        lines += [
            f".. confval:: {setting.name}",
            f"   :type: ``{setting.type}``",
            f"   :default: ``{default!r}``",
            "",
            *_indented(setting.metadata["doc"]),
            "",
        ]
        if setting.name == "HEALTH":
            lines += _indented("\n".join(_limits()))
    return lines


def _limits():
    rows = [
        (f"``{limit.name}``", f"``{limit.default!r}``", limit.metadata["doc"])
        for limit in fields(conf.HealthLimits)
    ]
    return [*_table(("Key", "Default", "Meaning"), rows), ""]


# --- checks -----------------------------------------------------------------

_LEVELS = {"E": "error", "W": "warning"}


def checks_lines():
    """Every system check: its id, its level, what it found."""
    rows = [
        (f"``ossy_event_store.{number}``", _LEVELS[number[0]], meaning)
        for number, meaning in checks.CATALOGUE.items()
    ]
    return _table(("Id", "Level", "What it says"), rows)


# --- commands ---------------------------------------------------------------


def command_names():
    """Return the names of the store's management commands."""
    return sorted(find_commands(PACKAGE / "management"))


def own_options(name):
    """Return what a command's parser takes besides what every command takes."""
    parser = load_command_class("ossy_event_store", name).create_parser("", name)
    common = {
        option
        for action in BaseCommand().create_parser("", "")._actions
        for option in action.option_strings
    }
    return [a for a in parser._actions if not common & set(a.option_strings)]


def commands_lines():
    """Every command: what it does, and its own options."""
    lines = []
    for name in command_names():
        command = load_command_class("ossy_event_store", name)
        lines += [name, "-" * len(name), "", command.help, "", f".. program:: {name}"]
        for action in own_options(name):
            value = f" {action.metavar}" if action.metavar else ""
            spelled = [option + value for option in action.option_strings]
            spelling = ", ".join(spelled) or action.metavar
            lines += ["", f".. option:: {spelling}", "", *_indented(action.help)]
        lines.append("")
    return lines


# --- exceptions -------------------------------------------------------------


def exceptions_lines():
    """Every error: its meaning, and its attributes by the names of its arguments."""
    lines = []
    for name in exceptions.__all__:
        error = getattr(exceptions, name)
        lines += [
            f".. py:exception:: {name}",
            f"   :canonical: {error.__module__}.{name}",
            "",
            *_indented(inspect.getdoc(error)),
            "",
        ]
        if "__init__" in vars(error) or issubclass(error, exceptions._Refused):
            names = list(inspect.signature(error.__init__).parameters)[1:]
            told = ", ".join(f"``{attribute}``" for attribute in names)
            lines += [f"   Attributes: {told}.", ""]
    return lines


# --- indexes ----------------------------------------------------------------


def indexes_lines():
    """Every index: its collection, its keys, its kind, its reason."""
    rows = []
    for index in indexes.INDEXES:
        kinds = ["unique"] if index.unique else []
        if index.partial:
            kinds.append(f"partial: ``{index.partial}``")
        keys = ", ".join(f"``{key}: {direction}``" for key, direction in index.keys)
        rows.append((index.collection, keys, ", ".join(kinds), index.reason))
    return _table(("Collection", "Keys", "Kind", "What it is for"), rows)


# --- architecture -----------------------------------------------------------


# Django and the command line look for these; nothing imports them.
_RIM = ("management", "migrations", "templatetags")


def modules():
    """Return every module of the package by its dotted name, with its path."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if not set(parts) & set(_RIM) and parts != ("__init__",):
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports_of(name):
    """Return the modules of the package that a module imports, first or last."""
    known = modules()
    path = known[name]
    package = name.split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += (node.module or "").split(".") if node.module else []
            for alias in node.names:
                child = ".".join([*base, alias.name])
                found.add(child if child in known else ".".join(base))
    return found & set(known) - {name}


def room_of(name):
    """Return the part of the package that a module is in: a folder, or itself."""
    return name.partition(".")[0]


def rooms():
    """Return every room with the other rooms that its modules import."""
    found = {}
    for name in modules():
        room = room_of(name)
        used = {room_of(other) for other in imports_of(name)} - {room}
        found[room] = found.get(room, set()) | used
    return found


def layers(arrows):
    """
    Return names in layers: each imports only from layers before its own.

    Args:
        arrows: each name with those that it imports.

    Raises:
        ValueError: some import each other in a circle.
    """
    waiting = dict(arrows)
    result = []
    while waiting:
        placed = {name for layer in result for name in layer}
        layer = sorted(name for name, uses in waiting.items() if uses <= placed)
        if not layer:
            raise ValueError(f"a circle of imports among {sorted(waiting)}")
        result.append(layer)
        for name in layer:
            del waiting[name]
    return result


def _summary(path):
    """Return the first sentence or paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def modules_lines():
    """Every module by layer of its room: what it is, and what it imports."""
    known = modules()
    rows = []
    for number, layer in enumerate(layers(rooms()), 1):
        for name in sorted(known):
            if room_of(name) in layer:
                uses = ", ".join(f"``{other}``" for other in sorted(imports_of(name)))
                rows.append((str(number), f"``{name}``", _summary(known[name]), uses))
    return _table(("Layer", "Module", "What it is", "Imports"), rows)


GENERATED = {
    "all-settings": settings_lines,
    "all-checks": checks_lines,
    "all-commands": commands_lines,
    "all-exceptions": exceptions_lines,
    "all-indexes": indexes_lines,
    "all-modules": modules_lines,
}
