"""
Facts of the docs that come from the code, as lines of reStructuredText.

``conf.py`` makes a directive of each function in ``GENERATED``. Nothing here needs
Sphinx, so tests can check a page without building it; Django must be set up.
"""

import ast
import functools
import inspect
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from statistics import mean

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
    """Return what a command's parser takes in addition to what every command takes."""
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
            attributes = ", ".join(f"``{attribute}``" for attribute in names)
            lines += [f"   Attributes: {attributes}.", ""]
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

# The rooms of the package, from the top down. A module imports only from its own room
# and from the floors below it. Nothing inside imports the top floor.
FLOORS = (
    ("__init__", "health", "management", "metrics", "templatetags", "verify"),
    ("admin", "apps"),
    ("checks", "monitoring", "post_migrate", "push", "verification"),
    ("projections",),
    ("rebuild", "subscriptions"),
    ("registry",),
    ("aggregate",),
    ("event_store",),
    ("positions", "streams"),
    ("mongodb",),
    ("documents", "embedded", "models", "relational"),
    ("conf", "exceptions"),
)

# The boxes of the picture: what each is about, and its rooms.
BOXES = {
    "commands": ("manage.py", {"management"}),
    "admin": ("pages, template tag", {"admin", "models", "templatetags"}),
    "Django hooks": (
        "apps, checks, post_migrate",
        {"apps", "checks", "post_migrate"},
    ),
    "push": ("server-sent events", {"push"}),
    "monitoring": ("status, health, metrics", {"health", "metrics", "monitoring"}),
    "verification": ("is the store sound?", {"verification", "verify"}),
    "projections": ("read models", {"projections"}),
    "subscriptions": ("handlers, checkpoints", {"relational", "subscriptions"}),
    "rebuild": ("snapshots from events", {"rebuild"}),
    "aggregates": (
        "aggregate, event_store, registry",
        {"aggregate", "event_store", "registry"},
    ),
    "positions": ("the global order", {"positions"}),
    "streams": ("append, load, fold", {"streams"}),
    "mongodb": ("connection, indexes, leases", {"mongodb"}),
    "documents": ("events and values, no I/O", {"documents"}),
    "foundation": (
        "conf, embedded, exceptions",
        {"conf", "embedded", "exceptions"},
    ),
}


def modules(package=PACKAGE):
    """Return every module of the package by its dotted name, with its path."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if "migrations" not in parts:
            folder = [part for part in parts if part != "__init__"]
            found[".".join(folder) or "__init__"] = path
    return found


@functools.cache
def tree_of(path):
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text("utf-8"))


def imports(package=PACKAGE):
    """Return every module with the modules of the package that it imports, anywhere."""
    known = modules(package)
    found = {name: set() for name in known}
    for name, path in known.items():
        for imported in imported_names(path, package):
            root, _, module = imported.partition(".")
            while module and module not in known:  # the name of a function or class
                module = module.rpartition(".")[0]
            if root == package.name:
                found[name].add(module or "__init__")
    return {name: used - {name} for name, used in found.items()}


def imported_names(path, package=PACKAGE):
    """Yield the full dotted name of everything that a module imports."""
    folder = path.relative_to(package.parent).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            base += (node.module,) if node.module else ()
            yield from (".".join([*base, alias.name]) for alias in node.names)


def room_of(module):
    """Return the room that a module is in: a folder of the package, or itself."""
    return module.partition(".")[0]


def grouped(arrows, group_of):
    """Return the arrows between groups, from the arrows between their members."""
    found = {}
    for name, uses in arrows.items():
        if group := group_of(name):
            others = {group_of(other) for other in uses} - {group, None}
            found[group] = found.get(group, set()) | others
    return found


def rooms(package=PACKAGE):
    """Return every room with the other rooms that its modules import."""
    return grouped(imports(package), room_of)


def layers(arrows):
    """
    Return names in layers: each imports only from layers before its own.

    Args:
        arrows: each name with those that it imports.

    Raises:
        ValueError: some import each other in a circle.
    """
    remaining = dict(arrows)
    result = []
    while remaining:
        placed = {name for layer in result for name in layer}
        layer = sorted(name for name, uses in remaining.items() if uses <= placed)
        if not layer:
            raise ValueError(f"a circle of imports among {_circle(remaining)}")
        result.append(layer)
        for name in layer:
            del remaining[name]
    return result


def _circle(arrows):
    """Return those names that are in a circle, or between two."""
    while True:
        used = set().union(*arrows.values())
        if arrows.keys() <= used:
            return sorted(arrows)
        arrows = {name: uses for name, uses in arrows.items() if name in used}


def summary(path):
    """Return the first sentence or paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(tree_of(path)) or ""
    return " ".join(text.split("\n\n")[0].split())


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


# --- the picture of the architecture ----------------------------------------


def boxes():
    """Return every box of the picture with the boxes that it imports directly."""
    box_of = {room: box for box, (_, members) in BOXES.items() for room in members}
    return reduced(grouped(rooms(), box_of.get))


def reduced(arrows):
    """Return arrows without those that a longer way over other arrows implies."""
    reach = {}
    for layer in layers(arrows):
        for name in layer:
            reach[name] = arrows[name].union(*(reach[other] for other in arrows[name]))
    return {
        name: {used for used in uses if not any(used in reach[one] for one in uses)}
        for name, uses in arrows.items()
    }


WIDTH, HEIGHT = 208, 52  # of a box
LANE = 14  # the width that an arrow gets in a row that it passes
GAP, FLOOR = 18, 92  # between boxes of a row; from row to row


def picture_lines():
    """Draw the boxes and arrows as an SVG, in the colour of the text around it."""
    arrows = boxes()
    rows, ways = routed(arrows)
    at = _places(rows)
    width = max(x + _size(stop) / 2 for stop, (x, _) in at.items()) + 4
    height = (len(rows) - 1) * FLOOR + HEIGHT + 8
    words = "; ".join(
        f"{name} imports {' and '.join(sorted(uses))}"
        for name, uses in arrows.items()
        if uses
    )
    svg = [
        '<div style="overflow-x: auto" tabindex="0">',
        f'<svg role="img" aria-label="The parts of the package: {words}." '
        f'viewBox="0 0 {width:g} {height:g}" '
        f'style="width: 100%; min-width: 38rem; max-width: {width:g}px">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/>'
        "</marker></defs>",
        '<g fill="none" stroke="currentColor" stroke-opacity="0.6">',
        *(_arrow([at[stop] for stop in way]) for way in ways),
        '</g><g text-anchor="middle" fill="currentColor">',
        *(line for name in arrows for line in _box(name, *at[name])),
        "</g></svg></div>",
    ]
    return [".. raw:: html", "", *_indented("\n".join(svg)), ""]


def _box(name, x, y):
    yield (
        f'<rect x="{x - WIDTH / 2:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" '
        'rx="6" fill-opacity="0.07" stroke="currentColor"/>'
    )
    for text, down, font in (
        (name, 23, 'font-size="17" font-weight="600"'),
        (BOXES[name][0], 41, 'font-size="12"'),
    ):
        yield f'<text x="{x:g}" y="{y + down:g}" {font}>{text}</text>'


def _arrow(points):
    """Return the line of an arrow from one box down to another."""
    (x, y), *rest = points
    path = f"M{x:g} {y + HEIGHT:g}"
    for to_x, to_y in rest:
        middle = (y + HEIGHT + to_y) / 2
        path += f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
        if (to_x, to_y) != rest[-1]:
            path += f"V{to_y + HEIGHT:g}"
        x, y = to_x, to_y
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def routed(arrows):
    """
    Return the rows of the picture, from the top down, and the way of each arrow.

    An arrow that passes rows gets a stop in each: a tuple of its ends and the row.
    """
    floors = list(reversed(layers(arrows)))
    floor_of = {name: n for n, floor in enumerate(floors) for name in floor}
    rows = [sorted(floor, key=list(arrows).index) for floor in floors]
    ways = []
    for name, uses in arrows.items():
        for other in sorted(uses):
            passed = range(floor_of[name] + 1, floor_of[other])
            stops = [(name, other, n) for n in passed]
            for n, stop in zip(passed, stops, strict=True):
                rows[n].append(stop)
            ways.append([name, *stops, other])
    near = {stop: [] for row in rows for stop in row}
    for way in ways:
        for one, other in pairwise(way):
            near[one].append(other)
            near[other].append(one)
    for _ in range(12):
        for row in [*rows, *reversed(rows)]:
            _sort_by_neighbours(row, near, _places(rows))
    return rows, ways


def _sort_by_neighbours(row, near, at):
    """Order a row by the middle of each stop's neighbours, so that few arrows cross."""
    row.sort(key=lambda stop: mean(at[one][0] for one in near[stop] or [stop]))


def _places(rows):
    """Return the middle of each stop's upper side; the rows are centred."""
    widths = [sum(_size(stop) + GAP for stop in row) for row in rows]
    at = {}
    for n, row in enumerate(rows):
        x = (max(widths) - widths[n]) / 2 + 4
        for stop in row:
            at[stop] = (x + _size(stop) / 2, n * FLOOR + 4)
            x += _size(stop) + GAP
    return at


def _size(stop):
    return WIDTH if isinstance(stop, str) else LANE


GENERATED = {
    "all-settings": settings_lines,
    "all-checks": checks_lines,
    "all-commands": commands_lines,
    "all-exceptions": exceptions_lines,
    "all-indexes": indexes_lines,
    "all-modules": modules_lines,
    "all-rooms": picture_lines,
}
