"""
Facts of the docs that come from the code, as lines of reStructuredText.

``conf.py`` makes a directive of each function in ``GENERATED``. Nothing here needs
Sphinx, so tests can check a page without building it; Django must be set up.
"""

import argparse
import inspect
from dataclasses import MISSING, fields

from django.core.management import find_commands, load_command_class
from django.core.management.base import BaseCommand
from picture import svg_lines
from rooms import PACKAGE, imports, layers, modules, room_of, rooms, summary

from ossy_event_store import checks, conf, exceptions
from ossy_event_store.mongodb import indexes


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
        if setting.name in _INNER:
            lines += _indented("\n".join(_keys(_INNER[setting.name])))
    return lines


_INNER = {"CONTEXT": conf.ContextOptions, "HEALTH": conf.HealthLimits}


def _keys(options):
    rows = [
        (f"``{key.name}``", f"``{key.default!r}``", key.metadata["doc"])
        for key in fields(options)
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
    """Return what a command's parser takes in addition to what every command takes."""
    parser = load_command_class("ossy_event_store", name).create_parser("", name)
    common = {
        option
        for action in BaseCommand().create_parser("", "")._actions
        for option in action.option_strings
    }
    return [a for a in parser._actions if not common & set(a.option_strings)]


def option_strings(name):
    """Return the options of a command, and of its subcommands, as they are written."""
    actions = list(own_options(name))
    for action in actions:  # which grows meanwhile
        if isinstance(action, argparse._SubParsersAction):
            for parser in action.choices.values():
                actions += parser._actions
    return {option for action in actions for option in action.option_strings}


def commands_lines():
    """Every command: what it does, and its own options."""
    lines = []
    for name in command_names():
        command = load_command_class("ossy_event_store", name)
        lines += [name, "-" * len(name), "", command.help, "", f".. program:: {name}"]
        for action in own_options(name):
            if isinstance(action, argparse._SubParsersAction):
                lines += _actions_lines(name, action)
            else:
                lines += _option_lines(action)
        lines.append("")
    return lines


def _actions_lines(name, actions):
    lines = [""]
    for action, parser in actions.choices.items():
        title = f"{name} {action}"
        lines += [title, "~" * len(title), "", parser.description, ""]
        lines.append(f".. program:: {name}-{action}")
        shown = [one for one in parser._actions if one.help != argparse.SUPPRESS]
        for option in shown:
            if "--help" not in option.option_strings:
                lines += _option_lines(option)
        lines.append("")
    return lines


def _option_lines(action):
    value = f" {action.metavar}" if action.metavar else ""
    spelled = [option + value for option in action.option_strings]
    spelling = ", ".join(spelled) or action.metavar
    return ["", f".. option:: {spelling}", "", *_indented(action.help)]


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
        if "__init__" in vars(error) or issubclass(error, exceptions.errors.Refused):
            names = list(inspect.signature(error.__init__).parameters)[1:]
            attributes = ", ".join(f"``{attribute}``" for attribute in names)
            lines += [f"   Attributes: {attributes}.", ""]
    return lines


# --- indexes ----------------------------------------------------------------


def indexes_lines():
    """Every index: its collection, its keys, its kind, its reason."""
    rows = []
    for index in indexes.INDEXES:
        kinds = [index.kind.name.lower(), *(["unique"] if index.unique else [])]
        if index.partial:
            kinds.append(f"partial: ``{index.partial}``")
        keys = ", ".join(f"``{key}: {direction}``" for key, direction in index.keys)
        rows.append((index.collection, keys, ", ".join(kinds), index.reason))
    return _table(("Collection", "Keys", "Kind", "What it is for"), rows)


# --- architecture -----------------------------------------------------------


def modules_lines():
    """Every module by layer of its room: what it is, and what it imports."""
    known, arrows = modules(), imports()
    rows = []
    for number, layer in enumerate(layers(rooms()), 1):
        for name in sorted(known):
            if room_of(name) in layer:
                uses = ", ".join(f"``{other}``" for other in sorted(arrows[name]))
                rows.append((str(number), f"``{name}``", summary(known[name]), uses))
    return _table(("Layer", "Module", "What it is", "Imports"), rows)


def picture_lines():
    """The picture of the rooms."""
    return [".. raw:: html", "", *_indented("\n".join(svg_lines())), ""]


GENERATED = {
    "all-settings": settings_lines,
    "all-checks": checks_lines,
    "all-commands": commands_lines,
    "all-exceptions": exceptions_lines,
    "all-indexes": indexes_lines,
    "all-modules": modules_lines,
    "all-rooms": picture_lines,
}
