"""
The docs say what the code does: their code is run, their lists are complete.

A block of a page whose first line names a file, as ``# library/aggregate.py``, is
written to that file; any other block of Python is executed, one namespace a page. In a
block of ``console`` a line ``$ python manage.py NAME …`` with a command of the store is
run, and what stands below it is compared; one of ``sh`` is only read.
``run_subscriptions`` runs until nothing is left to do, and is then told to end. A block
of Python that cannot run has a comment above it that says why: ``<!-- not run: … -->``.
"""

import configparser
import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass, fields
from pathlib import Path

import from_code
import pytest
import rooms
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

import ossy_event_store
from ossy_event_store import EventStore, conf, embedded, exceptions, registry
from ossy_event_store.management.commands import run_subscriptions
from ossy_event_store.mongodb import connection, indexes, schema_validator
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring import metrics
from ossy_event_store.projections import projection
from ossy_event_store.projections.generations import in_use
from ossy_event_store.relational import outbox
from ossy_event_store.subscriptions import (
    declaration,
    operator_actions,
    snapshot_subscription,
)
from ossy_event_store.subscriptions.runner import Runner, assign_positions
from tests.support.servers import until

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
IN_SQL = "sql-models"  # the page whose code writes to an SQL database
GENERATED = {
    "settings": "all-settings",
    "checks": "all-checks",
    "commands": "all-commands",
    "exceptions": "all-exceptions",
    "documents": "all-indexes",
}


def in_a_test_database(test):
    """Mark a test so that Django renames the alias; djongo cannot flush one."""
    return pytest.mark.django_db(test) if settings.STORE == "mongodb" else test


# --- blocks of a page -------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, its line, and why it is not run."""

    language: str
    text: str
    line: int
    not_run: str | None = None

    @property
    def file(self):
        """The file that the first line names, or None."""
        named = re.match(r"# ([\w/]+\.py)\n", self.text)
        return named and named[1]


_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)[^\n]*\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(page):
    return [
        Block(
            found["language"],
            found["text"],
            page.count("\n", 0, found.start("text")) + 1,
            found["why"],
        )
        for found in _FENCE.finditer(page)
    ]


def commands_of(block):
    """Return pairs of a command line and the output shown below it."""
    if block.language == "sh":
        return [(line, "") for line in block.text.splitlines()]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [part.partition("\n")[::2] for part in parts]


def is_like(shown, actual):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown, actual, flags)


# --- running a page ---------------------------------------------------------


class Reader:
    """Follows a page as its reader would, in a folder of its own."""

    def __init__(self, name, folder, run_once, chosen):
        self.name = name
        self.settings = chosen  # those of the test, which end with it
        self.folder = folder
        self.run_once = run_once
        self.namespace = {"__name__": "page"}
        self.ran = 0

    def follow(self, block):
        if block.language == "python" and not block.not_run:
            self.ran += 1
            self.python(block)
        elif block.language == "console":
            for line, shown in commands_of(block):
                self.command(shlex.split(line), shown)

    def python(self, block):
        where = f"{self.name}, line {block.line}"
        code = compile("\n" * (block.line - 1) + block.text, where, "exec")
        if block.file is None:
            exec(code, self.namespace)
        elif block.file.endswith("settings.py"):
            self.use(check_settings(code))
        else:
            write(self.folder, block.file, block.text)
            if Path(block.file).stem in DISCOVERED:
                discover(block.file)

    def use(self, chosen):
        """Follow the settings of a page that do not say where the store is."""
        if declared := chosen.get("TYPE_BOUNDARIES"):
            changed = {**settings.OSSY_EVENT_STORE, "TYPE_BOUNDARIES": declared}
            self.settings.OSSY_EVENT_STORE = changed

    def command(self, words, shown):
        own = from_code.command_names()
        if words[:2] != ["python", "manage.py"] or words[2] not in own:
            return
        self.ran += 1
        out = io.StringIO()
        if words[2] == "run_subscriptions":
            out.write(self.run_once(*words[3:]))
        else:
            call_command(*words[2:], stdout=out, stderr=out)
        assert not shown or is_like(shown, out.getvalue()), out.getvalue()


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent != folder:
        (path.parent / "__init__.py").touch()
    path.write_text(text)


DISCOVERED = (registry.MODULE, projection.MODULE, declaration.MODULE, "urls")


def discover(name):
    """Import a module, anew if it has changed, as a new start would."""
    module = name.removesuffix(".py").replace("/", ".")
    sys.modules.pop(module, None)
    importlib.invalidate_caches()
    for known in (projection._registered, declaration._registered):
        for name, what in list(known.items()):
            if getattr(what, "handler", what).__module__ == module:
                del known[name]
    registry._register_exports(importlib.import_module(module))
    subscribe_the_snapshots()


def subscribe_the_snapshots():
    """Subscribe the snapshots, as ``ready()`` does."""
    declaration._registered.pop(snapshot_subscription.NAME, None)
    snapshot_subscription.register()


class Kept(Runner):
    """A runner that is known to whoever wants it to end."""

    last = None

    def __init__(self, names):
        super().__init__(names)
        Kept.last = self


def run_until_done(words, out):
    """Run the command until all events are handed on that can be."""
    thread = threading.Thread(target=call_command, args=words, kwargs={"stdout": out})
    Kept.last = None
    thread.start()
    try:
        runner = until(lambda: Kept.last)
        until(lambda: is_done([consumer.name for consumer in runner.consumers]))
    finally:
        if Kept.last is not None:
            Kept.last.stop.set()
        thread.join(30)
        assert not thread.is_alive()


def is_done(names):
    store = connection.blocking()
    head = EventStore.head_position()
    if head < connection.raw(store.events).count_documents({}):
        return False
    if connection.raw(store.parked).find_one({"retry": True}):
        return False
    found = {one["_id"]: one for one in connection.raw(store.subscriptions).find()}
    return all(
        name in found and (found[name]["stopped"] or found[name]["position"] == head)
        for name in names
    )


def check_settings(code):
    """Execute a fragment of settings, and ask the checks about it."""
    given = {"INSTALLED_APPS": [], "BASE_DIR": Path("/mysite")}
    exec(code, given)
    assert list(conf.problems(given["OSSY_EVENT_STORE"])) == []
    return given["OSSY_EVENT_STORE"]


@pytest.fixture
def run_once(monkeypatch):
    """Run the subscriptions, or some, until nothing is left to do."""
    monkeypatch.setattr(run_subscriptions, "Runner", Kept)

    def run_once(*names):
        out = io.StringIO()
        run_until_done(["run_subscriptions", *names], out)
        return out.getvalue()

    return run_once


@pytest.fixture
def reader(store, quick, run_once, tmp_path, monkeypatch, settings, request):
    """A reader in an empty folder, with an empty store where nothing is registered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(projection, "_registered", {})
    # Who reads is another process than the command, and asks for itself.
    monkeypatch.setattr(in_use, "fresh_seconds", 0.0)
    drop_projections(store)
    known = set(sys.modules)
    yield Reader(request.node.name, tmp_path, run_once, settings)
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    # A page may have dropped an index, or ended before it removed the validator.
    drive(indexes.ensure(store))
    drive(schema_validator.remove(store))


def drop_projections(store):
    database = connection.raw(store.events).database
    for name in database.list_collection_names(filter={"name": {"$regex": "^proj"}}):
        database[name].drop()


@in_a_test_database
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.stem != IN_SQL],
    ids=lambda page: page.stem,
)
def test_the_code_of_a_page_runs(reader, page):
    for block in blocks_of(page.read_text()):
        reader.follow(block)
    assert reader.ran


@pytest.mark.django_db(transaction=True)
def test_the_code_of_the_page_on_sql_runs(reader, monkeypatch):
    if not outbox.is_installed():
        pytest.skip("the default database is no SQL database")
    monkeypatch.setattr(outbox, "candidates", lambda: ["default"])
    for block in blocks_of((DOCS / "howto" / f"{IN_SQL}.md").read_text()):
        reader.follow(block)
    assert reader.ran


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_page_names_its_language(page):
    assert all(block.language for block in blocks_of(page.read_text()))


def test_a_block_that_is_not_run_says_why():
    page = "<!-- not run: no server -->\n```python\n1 / 0\n```\n"
    (block,) = blocks_of(page)
    assert block.not_run == "no server"


def test_a_reader_notices_code_that_is_wrong(reader):
    (block,) = blocks_of("```python\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError):
        reader.follow(block)


def test_a_reader_notices_a_setting_that_does_not_exist(reader):
    text = "# mysite/settings.py\nOSSY_EVENT_STORE = {'URI': 'mongodb://a'}\n"
    with pytest.raises(AssertionError):
        reader.follow(Block("python", text, 1))


def test_a_reader_notices_another_output(reader):
    text = "$ python manage.py ensure_event_store\nMade coffee.\n"
    with pytest.raises(AssertionError):
        reader.follow(Block("console", text, 1))


# --- with real processes ----------------------------------------------------


def run(*command, cwd, **env):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.docs
def test_the_tests_on_the_testing_page_pass(tmp_path):
    for block in blocks_of((DOCS / "howto/testing.md").read_text()):
        if block.file and not block.file.endswith("settings.py"):
            write(tmp_path, block.file, block.text)
    write(
        tmp_path,
        "docs_settings.py",
        "INSTALLED_APPS = ['ossy_event_store', 'library']\n"
        f"OSSY_EVENT_STORE = {{'URL': {settings.SERVER!r}, 'NAME': 'docs'}}\n",
    )
    out = run(
        *("-m", "pytest", "-q", "--ds=docs_settings", "-p", "no:cacheprovider"),
        *("test_library.py", "test_mails.py", "library/tests.py"),
        cwd=tmp_path,
    )
    assert "6 passed" in out


@pytest.fixture
def mongod():
    try:
        return embedded.find_mongod(None)
    except ImproperlyConfigured:
        pytest.skip("needs a mongod for embedded://")


@pytest.mark.docs
@pytest.mark.skipif(sys.platform == "win32", reason="embedded:// needs flock")
def test_the_tutorial_works_in_a_project_of_its_own(tmp_path, mongod):
    env = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
    for block in blocks_of((DOCS / "tutorial.md").read_text()):
        if block.language == "console":
            for line, shown in commands_of(block):
                follow_command(tmp_path, shlex.split(line), shown, env)
        elif block.file and block.file.endswith("settings.py"):
            with (tmp_path / block.file).open("a") as file:
                file.write(block.text)
        elif block.file:
            write(tmp_path, block.file, block.text)
        elif block.language == "python":
            run("manage.py", "shell", "-c", block.text, cwd=tmp_path, **env)


def follow_command(folder, words, shown, env):
    if words[1:3] == ["-m", "pip"]:
        return  # it is installed here
    program = ["-m", "django"] if words[0] == "django-admin" else []
    env = {} if words[1] == "startproject" else env
    out = run(*program, *words[1:], cwd=folder, **env)
    assert not shown or is_like(shown, out), out


# --- nothing is left out ----------------------------------------------------


def reference(name):
    return (DOCS / f"reference/{name}.rst").read_text()


@pytest.mark.parametrize(("page", "directive"), GENERATED.items())
def test_a_reference_page_takes_its_facts_from_the_code(page, directive):
    assert f".. {directive}::\n" in reference(page)


def test_the_settings_page_names_every_setting():
    text = "\n".join(from_code.settings_lines())
    for setting in fields(conf.Settings):
        assert f".. confval:: {setting.name}\n" in text
        assert setting.metadata["doc"] in text
    for key in (*fields(conf.HealthLimits), *fields(conf.ContextOptions)):
        assert key.metadata["doc"] in text


def test_the_checks_page_names_every_check_that_the_source_can_report():
    files = (ROOT / "ossy_event_store/checks").glob("*.py")
    source = "\n".join(file.read_text() for file in files)
    text = "\n".join(from_code.checks_lines())
    reported = set(re.findall(r'\b(?:error|warning)\(\s*"([EW]\d+)"', source))
    assert reported
    assert reported == set(re.findall(r"ossy_event_store\.([EW]\d+)", text))


def test_a_check_that_any_page_names_exists():
    known = "\n".join(from_code.checks_lines())
    for page in [README, *DOCS.rglob("*.md"), *DOCS.rglob("*.rst")]:
        for named in re.findall(r"ossy_event_store\.[EW]\d+", page.read_text()):
            assert named in known, page


def test_the_commands_page_names_every_command_and_its_options():
    text = "\n".join(from_code.commands_lines())
    files = (ROOT / "ossy_event_store/management/commands").glob("[!_]*.py")
    names = {file.stem for file in files}
    assert names == set(from_code.command_names())
    for name in names:
        assert f".. program:: {name}\n" in text
        source = (ROOT / f"ossy_event_store/management/commands/{name}.py").read_text()
        section = text.split(f".. program:: {name}\n")[1].split(".. program::")[0]
        for option in re.findall(r'"(--?[a-z][a-z-]*)"', source):
            assert option in section, (name, option)


def test_an_option_that_any_page_uses_exists():
    blocks = [block for page in PAGES for block in blocks_of(page.read_text())]
    lines = [line for block in blocks for line, _ in commands_of(block)]
    uses = [shlex.split(line)[2:] for line in lines if " manage.py " in line]
    own = [(name, words) for name, *words in uses if name in from_code.command_names()]
    assert own
    for name, words in own:
        actions = from_code.own_options(name)
        known = {option for action in actions for option in action.option_strings}
        assert {word for word in words if word.startswith("-")} <= known, name


def test_the_exceptions_page_names_every_exception_and_its_attributes():
    text = "\n".join(from_code.exceptions_lines())
    for name in exceptions.__all__:
        assert f".. py:exception:: {name}\n" in text
    conflict = text.split(":: ConcurrencyError\n")[1].split("..")[0]
    assert "``aggregate_id``, ``expected_version``, ``actual_version``" in conflict


@pytest.mark.parametrize("name", exceptions.__all__)
def test_the_tree_of_exceptions_holds_every_exception(name):
    assert name in exceptions.__doc__


@pytest.mark.parametrize("name", ossy_event_store.__all__)
def test_every_public_name_is_on_the_api_page(name):
    assert re.search(rf"\bossy_event_store\.{name}\b", reference("api"))


def test_the_indexes_page_gives_every_index_its_reason():
    text = "\n".join(from_code.indexes_lines())
    for index in indexes.INDEXES:
        assert index.reason in text


def test_the_page_of_documents_names_every_field(store, quick, lend, run_once):
    declaration.subscription("mail", retries=0)(lambda event: 1 / 0)
    lend("a", "BookBought")
    run_once()
    assign_positions(threading.Event())  # to the end, which the last of them notes
    operator_actions.skip("mail", "a", "why not")
    text = reference("documents")
    fields = {
        field
        for name in ("positions", "subscriptions", "parked", "skipped", "leases")
        for document in connection.raw(getattr(store, name)).find()
        for field in document
    }
    assert {"token", "fence", "tries", "skippedBy", "until"} <= fields
    for field in fields:
        assert re.search(rf"``{field}``", text), field


def test_the_page_on_monitoring_names_every_metric():
    text = (DOCS / "howto/monitoring.md").read_text()
    given = dict.fromkeys(("head", "events", "running", "lag_seconds", "damaged"), 0)
    figures = {"ok": True, "store": {"reachable": True}, "positions": given}
    figures |= {"subscriptions": [], "outboxes": []}
    for metric in metrics.metrics(figures):
        name = metric.name + ("_total" if metric.type == "counter" else "")
        assert f"| `{name}` | " in text


def test_the_architecture_page_shows_the_picture_and_every_module():
    page = (DOCS / "architecture.rst").read_text()
    assert page.index(".. all-rooms::\n") < page.index(".. all-modules::\n")
    known, text = rooms.modules(), "\n".join(from_code.modules_lines())
    assert len(known) > 100
    for name, path in known.items():
        assert f" - ``{name}``\n" in text
        assert rooms.summary(path), name


def test_the_architecture_page_names_modules_that_exist():
    page = (DOCS / "architecture.rst").read_text()
    named = re.findall(r"``([a-z_]+(?:\.[a-z_]+)+)``", page)
    assert named
    assert set(named) <= set(rooms.modules())


def test_a_module_is_in_a_layer_after_those_that_it_imports():
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"b"}}
    assert rooms.layers(arrows) == [["c"], ["b"], ["a", "d"]]


def test_a_circle_of_imports_is_found_and_named():
    arrows = {"a": {"b"}, "b": {"a", "c"}, "c": set(), "d": {"a"}}
    with pytest.raises(ValueError, match=r"circle of imports among .'a', 'b'.$"):
        rooms.layers(arrows)


# --- README, CHANGELOG, CONTRIBUTING ----------------------------------------


def dev_names():
    """Return the names that dev.py accepts, as it says itself."""
    command = [sys.executable, "dev.py"]
    usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 1
    return set(re.findall(r"\w+", usage.stderr.split("NAME:")[1]))


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=str)
def test_the_commands_of_dev_py_that_a_page_names_exist(page):
    named = set(re.findall(r"python3 dev\.py (\w+)", page.read_text()))
    assert named
    assert named <= dev_names()


def test_contributing_names_every_command_of_dev_py():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert dev_names() <= set(re.findall(r"dev\.py (\w+)", text))


def test_pre_commit_and_tox_ask_for_the_same_ruff():
    asked = [
        set(re.findall(r"ruff[>=][^\s\"\]]+", (ROOT / name).read_text()))
        for name in (".pre-commit-config.yaml", "tox.ini")
    ]
    assert asked[0] == asked[1] != set()


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text().splitlines()) <= 110


def test_the_readme_names_the_versions_of_the_package_metadata():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = README.read_text()
    for line in setup["metadata"]["classifiers"].split("\n"):
        if found := re.fullmatch(r"(?:Framework|Programming).* :: (\d+\.\d+)", line):
            assert found[1] in text, line
    requirements = setup["options"]["install_requires"] + str(
        dict(setup["options.extras_require"])
    )
    for version in ("4.2", "4.13.1", "5.2", "1.3.15"):
        assert version in requirements
        assert version in text


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=str)
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_changelog_begins_with_the_version_of_the_package():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[(.+?)\]", text, re.M)[1] == ossy_event_store.__version__


@pytest.mark.docs
def test_the_docs_build_without_a_warning(tmp_path):
    for needed in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(needed)
    run("-m", "sphinx", "-n", "-W", "-q", "-b", "html", DOCS, tmp_path, cwd=ROOT)
    page = (tmp_path / "reference/settings.html").read_text()
    assert all(setting.name in page for setting in fields(conf.Settings))
