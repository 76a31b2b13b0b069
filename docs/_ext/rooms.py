"""The rooms of the package, and which of them import which, read from the code."""

import ast
import functools
from pathlib import Path

import ossy_event_store

PACKAGE = Path(ossy_event_store.__file__).parent

# The rooms of the package, from the top down. A module imports only from its own room
# and from the floors below it. Nothing inside imports the top floor.
FLOORS = (
    (
        *("__init__", "health", "management", "metrics", "middleware"),
        *("templatetags", "testing", "verify"),
    ),
    ("admin", "apps"),
    ("checks", "monitoring", "post_migrate", "push", "verification"),
    ("projections",),
    ("rebuild", "subscriptions"),
    ("aggregate",),
    ("event_store", "relational"),
    ("positions", "streams"),
    ("mongodb",),
    ("documents", "embedded", "models"),
    ("conf", "exceptions"),
)


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
