"""
The docs say what the code does: their code is run, their lists are complete.

A block of a page whose first line names a file, as ``# library/aggregate.py``, is
written to that file; any other block of Python is executed, one namespace a page. In a
block of ``console`` a line ``$ python manage.py NAME …`` with a command of the store is
run, and what stands below it is compared; one of ``sh`` is only read.
``run_subscriptions`` runs until nothing is left to do, and is then told to end. A block
of Python that cannot run has a comment above it that says why: ``<!-- not run: … -->``.
"""

import importlib
import io
import re
import shlex
import sys
import threading
from pathlib import Path

import from_code
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from ossy_event_store import EventStore, conf, embedded
from ossy_event_store.aggregate import registry
from ossy_event_store.documents.catalogue import catalogue, discovery
from ossy_event_store.documents.catalogue import declaration as event_types
from ossy_event_store.management.commands import run_subscriptions
from ossy_event_store.mongodb import connection, indexes, schema_validator
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.projections import projection
from ossy_event_store.projections.generations import in_use
from ossy_event_store.relational import outbox
from ossy_event_store.subscriptions import (
    declaration,
    operator_actions,
    snapshot_subscription,
)
from ossy_event_store.subscriptions.runner import Runner, assign_positions
from tests.support.docs import DOCS, PAGES, Block, blocks_of, commands_of, is_like, run
from tests.support.servers import until

IN_SQL = "sql-models"  # the page whose code writes to an SQL database


def in_a_test_database(test):
    """Mark a test so that Django renames the alias; djongo cannot flush one."""
    return pytest.mark.django_db(test) if settings.STORE == "mongodb" else test


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


DISCOVERED = (
    discovery.MODULE,
    registry.MODULE,
    projection.MODULE,
    declaration.MODULE,
    "urls",
)


def discover(name):
    """Import a module, anew if it has changed, as a new start would."""
    module = name.removesuffix(".py").replace("/", ".")
    sys.modules.pop(module, None)
    importlib.invalidate_caches()
    for known in (projection._registered, declaration._registered):
        for name, what in list(known.items()):
            if getattr(what, "handler", what).__module__ == module:
                del known[name]
    forget_event_types(module)
    registry._register_exports(importlib.import_module(module))
    subscribe_the_snapshots()


def forget_event_types(module):
    declared = event_types.declarations
    declared.types[:] = [t for t in declared.types if t.cls.__module__ != module]
    declared.upcasters[:] = [
        one for one in declared.upcasters if one.function.__module__ != module
    ]
    declared.edition += 1


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
    empty = event_types.Declarations()
    monkeypatch.setattr(catalogue, "declarations", empty)
    monkeypatch.setattr(event_types, "declarations", empty)
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


@pytest.mark.docs
def test_the_tests_on_the_page_of_rules_pass_without_a_server(tmp_path):
    for block in blocks_of((DOCS / "howto/test-rules.md").read_text()):
        if block.file:
            write(tmp_path, block.file, block.text)
    write(
        tmp_path,
        "docs_settings.py",
        "INSTALLED_APPS = ['ossy_event_store', 'library']\n"
        "OSSY_EVENT_STORE = {'URL': 'mongodb://127.0.0.1:1', 'NAME': 'docs'}\n",
    )
    pytest_of_rules = ("-m", "pytest", "-q", "--ds=docs_settings", "test_rules.py")
    assert "3 passed" in run(*pytest_of_rules, "-p", "no:cacheprovider", cwd=tmp_path)


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


def test_the_page_of_documents_names_every_field(store, quick, lend, run_once):
    declaration.subscription("mail", retries=0)(lambda event: 1 / 0)
    lend("a", "BookBought")
    run_once()
    assign_positions(threading.Event())  # to the end, which the last of them notes
    operator_actions.skip("mail", "a", "why not")
    text = (DOCS / "reference/documents.rst").read_text()
    fields = {
        field
        for name in ("positions", "subscriptions", "parked", "skipped", "leases")
        for document in connection.raw(getattr(store, name)).find()
        for field in document
    }
    assert {"token", "fence", "tries", "skippedBy", "until"} <= fields
    for field in fields:
        assert re.search(rf"``{field}``", text), field
