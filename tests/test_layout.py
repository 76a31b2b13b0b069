"""
The layout of the package: its sizes, the direction of its imports, its words.

Each check is a function that returns what is wrong, and is proven on a small tree
that breaks its rule beside a tree that just keeps it.
"""

import ast
import re
from pathlib import Path

import picture
import pytest
import rooms

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ossy_event_store"

ENTRIES, MODULES = 32, 14
MODULE_LINES, FUNCTION_LINES, METHODS = 450, 50, 25
FACES = {"EventStore", "Aggregate"}  # a method for each operation, twice

# Test modules of a room that mirror no module of it, each with its reason.
WITHOUT_MODULE = {
    "admin/test_every_page.py": "no page fails, on any site",
    "admin/test_stream_history.py": "the mixin and the tag, on a page of a project",
    "admin/test_translations.py": "the texts of all pages",
    "checks/test_connection_options.py": "checks.settings, of the connection",
    "checks/test_register.py": "when Django runs which checks",
    "checks/test_warnings_are_true.py": "what the checks warn of happens",
    "management/test_base.py": "what all commands share: commands._base",
    "management/test_events_fuzzed.py": "commands.events, with any filters",
    "management/test_events_golden.py": "commands.events, and all that it prints",
    "management/test_terminals.py": "every command, on any terminal",
    "mongodb/test_sharding.py": "every module on a sharded cluster",
    "mongodb/test_walk.py": "the other scan of resumable_scan",
    "relational/test_parked_streams.py": "subscriptions.parked_streams in SQL",
    "subscriptions/test_takeover.py": "what one process leaves to the next one",
    "testing/test_example_faults.py": "what tests with the kit find",
    "verification/test_verify_event_store.py": "the command, with this room's fixtures",
}

WORDS = r"\b(anew|whoever|mends?|mended|hands?\s+on|handed\s+on|at\s+hand)\b"
TEXTS = (".css", ".html", ".js", ".md", ".po", ".py", ".rst", ".svg", ".txt")


# --- sizes ------------------------------------------------------------------


def crowded_root(root):
    package = root / "ossy_event_store"
    entries = {path.name for path in package.iterdir()} - {"__pycache__"}
    if len(entries) > ENTRIES:
        yield f"ossy_event_store has {len(entries)} entries"


def crowded_folders(root):
    package = root / "ossy_event_store"
    for folder in {path.parent for path in package.rglob("*.py")} - {package}:
        modules = list(folder.glob("*.py"))
        if len(modules) > MODULES:
            yield f"{folder.relative_to(root)} has {len(modules)} modules"


def long_modules(root):
    for path, _ in trees(root):
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MODULE_LINES:
            yield f"{path.relative_to(root)} has {lines} lines"


def long_functions(root):
    for path, tree in trees(root):
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = lines_of(node)
                if lines > FUNCTION_LINES:
                    yield f"{path.relative_to(root)}: {node.name} has {lines} lines"


def lines_of(function):
    """Return the number of lines of a function, without those of its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def large_classes(root):
    for path, tree in trees(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name not in FACES:
                kinds = [type(child) for child in node.body]
                methods = kinds.count(ast.FunctionDef) + kinds.count(
                    ast.AsyncFunctionDef
                )
                if methods > METHODS:
                    yield f"{path.relative_to(root)}: {node.name} has {methods} methods"


def trees(root):
    for path in sorted((root / "ossy_event_store").rglob("*.py")):
        yield path, rooms.tree_of(path)


# --- imports ----------------------------------------------------------------


def upward_imports(root):
    """Report imports that do not go down in the table of rooms."""
    floor_of = {room: n for n, floor in enumerate(rooms.FLOORS) for room in floor}
    for name, used in rooms.imports(root / "ossy_event_store").items():
        room = rooms.room_of(name)
        if room not in floor_of:
            yield f"{room} is not in the table of rooms"
            continue
        for other in sorted(used):
            to = rooms.room_of(other)
            if to != room and not floor_of[room] < floor_of.get(to, -1):
                yield f"{name} imports {other}"


def circular_imports(root):
    try:
        rooms.layers(rooms.imports(root / "ossy_event_store"))
    except ValueError as error:
        yield str(error)


def drivers_in_documents(root):
    package = root / "ossy_event_store"
    for path in sorted((package / "documents").rglob("*.py")):
        for name in sorted(rooms.imported_names(path, package)):
            if name.partition(".")[0] in {"pymongo", "gridfs", "motor"}:
                yield f"{path.relative_to(root)} imports {name}"


# --- tests and words --------------------------------------------------------


def unmirrored_tests(root):
    package = root / "ossy_event_store"
    left = dict(WITHOUT_MODULE)
    for path in sorted((root / "tests").glob("*/test_*.py")):
        room = package / path.parent.name
        if not room.is_dir():
            continue
        name = path.stem.removeprefix("test_")
        mirrored = {p.stem for p in room.rglob("*.py")}
        mirrored |= {p.name for p in room.rglob("*/")}
        if not left.pop(f"{room.name}/{path.name}", None) and name not in mirrored:
            yield f"{path.relative_to(root)}: {room.name} has no module {name}"
    if root == ROOT:
        yield from (f"tests/{path} does not exist" for path in left)


def refused_words(root):
    paths = [root / "README.md"]
    for folder in ("ossy_event_store", "docs"):
        paths += sorted((root / folder).rglob("*"))
    for path in paths:
        if path.suffix in TEXTS and "_build" not in path.parts:
            text = path.read_text("utf-8")
            for found in re.finditer(WORDS, text, re.IGNORECASE):
                line = text.count("\n", 0, found.start()) + 1
                yield f"{path.relative_to(root)}:{line}: {found[0]!r}"


# --- the checks, and what proves them ---------------------------------------


def lines(count):
    return "x = 1\n" * count


def function(count, docstring=""):
    return f'def f():\n    """{docstring}"""\n' + "    x = 1\n" * (count - 1)


def class_of(count, name="A"):
    methods = "".join(f"    def m{n}(self): pass\n" for n in range(count))
    return f"class {name}:\n{methods}"


def modules(count, folder="ossy_event_store/streams"):
    return {f"{folder}/m{n}.py": "" for n in range(count)}


CHECKS = {
    # check: trees that break the rule, with what is said; trees that keep it
    crowded_root: (
        [(modules(33, "ossy_event_store"), "ossy_event_store has 33 entries")],
        [modules(32, "ossy_event_store") | {"ossy_event_store/__pycache__/a.pyc": ""}],
    ),
    crowded_folders: (
        [(modules(15), "ossy_event_store/streams has 15 modules")],
        [modules(14)],
    ),
    long_modules: (
        [
            (
                {"ossy_event_store/a.py": lines(451)},
                "ossy_event_store/a.py has 451 lines",
            )
        ],
        [{"ossy_event_store/a.py": lines(450)}],
    ),
    long_functions: (
        [
            ({"ossy_event_store/a.py": function(51)}, "a.py: f has 51 lines"),
            (
                {"ossy_event_store/a.py": "class A:\n async " + function(51)},
                "a.py: f has 51 lines",
            ),
        ],
        [{"ossy_event_store/a.py": function(50, "A.\n\n    B.\n    ")}],
    ),
    large_classes: (
        [({"ossy_event_store/a.py": class_of(26)}, "a.py: A has 26 methods")],
        [
            {"ossy_event_store/a.py": class_of(25)},
            {"ossy_event_store/a.py": class_of(30, "Aggregate")},
        ],
    ),
    upward_imports: (
        [
            (
                {
                    "ossy_event_store/streams/a.py": text,
                    "ossy_event_store/push/__init__.py": "",
                    "ossy_event_store/push/m0.py": "",
                },
                f"streams.a imports {used}",
            )
            for text, used in [
                ("from ..push.m0 import x", "push.m0"),
                ("from ..push import m0", "push.m0"),
                ("def f():\n    from .. import push", "push"),
                ("import ossy_event_store.push.m0 as x", "push.m0"),
                ("from ossy_event_store.push import m0", "push.m0"),
                ("from .. import __version__", "__init__"),
            ]
        ]
        + [
            ({"ossy_event_store/a.py": ""}, "a is not in the table of rooms"),
            (
                {"ossy_event_store/positions/a.py": "from ..streams import m0"}
                | modules(1),
                "positions.a imports streams.m0",
            ),
        ],
        [
            {
                "ossy_event_store/push/a.py": "from ..streams.m0 import x\nimport b",
                "ossy_event_store/push/b.py": "from ..conf import x\nfrom . import a",
                "ossy_event_store/conf.py": "",
            }
            | modules(1)
        ],
    ),
    circular_imports: (
        [
            (
                {
                    "ossy_event_store/streams/a.py": "from .b import x",
                    "ossy_event_store/streams/b.py": "def f():\n    from . import a",
                },
                "circle of imports among ['streams.a', 'streams.b']",
            )
        ],
        [
            {
                "ossy_event_store/streams/a.py": "from .b import x",
                "ossy_event_store/streams/b.py": "from pymongo import a",
            }
        ],
    ),
    drivers_in_documents: (
        [
            (
                {"ossy_event_store/documents/a.py": text},
                f"documents/a.py imports {name}",
            )
            for text, name in [
                ("import pymongo.errors", "pymongo.errors"),
                (
                    "def f():\n    from pymongo import MongoClient",
                    "pymongo.MongoClient",
                ),
            ]
        ],
        [{"ossy_event_store/documents/a.py": "import bson\nfrom django import x"}],
    ),
    unmirrored_tests: (
        [
            (
                {"tests/streams/test_m1.py": ""} | modules(1),
                "tests/streams/test_m1.py: streams has no module m1",
            )
        ],
        [
            {
                "tests/streams/test_m0.py": "",
                "tests/streams/conftest.py": "",
                "tests/support/test_x.py": "",
                "tests/management/test_run.py": "",
                "tests/management/test_commands.py": "",
                "ossy_event_store/management/commands/run.py": "",
            }
            | modules(1)
        ],
    ),
    refused_words: (
        [
            ({"README.md": "a\nit is built anew"}, "README.md:2: 'anew'"),
            ({"README.md": "at\nhand"}, "README.md:1: 'at\\nhand'"),
            ({"docs/howto/a.md": "Whoever reads"}, "docs/howto/a.md:1: 'Whoever'"),
            ({"ossy_event_store/a.py": "# mended"}, "a.py:1: 'mended'"),
            ({"ossy_event_store/templates/a.html": "hands on"}, "a.html:1: 'hands on'"),
        ],
        [
            {
                "README.md": "hand-written, on the other hand, a mendicant",
                "docs/_build/a.html": "anew",
                "tests/a.py": "anew",
            }
        ],
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_has_no(check):
    problems = list(check(ROOT))
    assert not problems, "\n".join(problems)


def tree(folder, files):
    for name, text in {"README.md": "", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("check", "files", "problem"),
    [(check, *broken) for check, (trees, _) in CHECKS.items() for broken in trees],
    ids=lambda value: getattr(value, "__name__", "") or None,
)
def test_a_check_finds_what_breaks_its_rule(tmp_path, check, files, problem):
    (found,) = check(tree(tmp_path, files))
    assert problem in found


@pytest.mark.parametrize(
    ("check", "files"),
    [(check, files) for check, (_, trees) in CHECKS.items() for files in trees],
    ids=lambda value: getattr(value, "__name__", "") or None,
)
def test_a_check_finds_nothing_where_its_rule_is_kept(tmp_path, check, files):
    assert list(check(tree(tmp_path, files))) == []


# --- the picture ------------------------------------------------------------


def test_the_picture_shows_every_room_once():
    shown = [room for _, members in picture.BOXES.values() for room in members]
    known = set(rooms.rooms()) - {"__init__"}
    assert sorted(shown) == sorted(known)


def test_the_picture_leaves_out_arrows_that_others_imply():
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"d"}}
    assert picture.reduced(arrows) == {
        "a": {"b"},
        "b": {"c"},
        "c": {"d"},
        "d": set(),
        "e": {"d"},
    }


def test_an_arrow_gets_a_place_in_each_row_that_it_passes():
    arrows = {"a": {"b", "e"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"d"}}
    rows, ways = picture.routed(arrows)
    assert [sorted(map(str, row)) for row in rows] == [
        ["a"],
        ["('a', 'e', 1)", "b"],
        ["c", "e"],
        ["d"],
    ]
    assert ["a", ("a", "e", 1), "e"] in ways


def test_the_picture_names_every_box_and_has_a_text_instead_of_it():
    svg = "\n".join(picture.svg_lines())
    for name, uses in picture.boxes().items():
        assert f">{name}</text>" in svg
        assert not uses or f"{name} imports {' and '.join(sorted(uses))}" in svg
