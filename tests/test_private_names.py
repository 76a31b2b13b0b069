"""
The private names of others that the package uses, and that they exist.

A release of PyMongo, Django or asgiref may drop them without notice. Then this fails,
not a user's site. If you need another one, say why in the code and add it here.
"""

import ast
import asyncio
import inspect
import io
from pathlib import Path

import pymongo
import pytest
from asgiref.sync import SyncToAsync
from django.conf import settings
from django.core.management.base import OutputWrapper
from django.test import runner, utils
from django.utils import log
from pymongo import AsyncMongoClient, MongoClient
from pymongo.common import VALIDATORS
from pymongo.write_concern import WriteConcern

import ossy_event_store
from ossy_event_store.mongodb import ports

pytestmark = pytest.mark.versions

FILES = sorted(Path(ossy_event_store.__file__).parent.rglob("*.py"))
# Documented, in spite of their names.
STANDARD_LIBRARY = {"_exit", "_fields", "_getframe", "_replace"}


def resets_pools(client):
    (server,) = client._topology._servers.values()
    return callable(server.pool.reset_without_pause)


def resets_blocking_pools():
    with MongoClient(settings.SERVER) as client:
        client.admin.command("ping")
        return resets_pools(client)


def resets_awaitable_pools():
    async def resets():
        async with AsyncMongoClient(settings.SERVER) as client:
            await client.admin.command("ping")
            return resets_pools(client)

    return asyncio.run(resets())


def keeps_options_of_a_transaction():
    with MongoClient(connect=False) as client, client.start_session() as session:
        session.start_transaction(write_concern=WriteConcern(1))
        return session._transaction.opts.write_concern.document == {"w": 1}


PRIVATE = {
    "_transaction": keeps_options_of_a_transaction,
    "_topology": resets_blocking_pools,
    "_servers": resets_awaitable_pools,
    "_worker_id": lambda: isinstance(runner._worker_id, int),
    "_TestState": lambda: hasattr(utils._TestState, "saved_data"),
    "_has_been_logged": lambda: "_has_been_logged" in inspect.getsource(log),
    "_out": lambda: hasattr(OutputWrapper(io.StringIO()), "_out"),
}
# Their names are no private ones, but no page documents them.
UNDOCUMENTED = {
    "thread_sensitive_context": lambda: SyncToAsync.thread_sensitive_context.get,
    "VALIDATORS": lambda: "maxpoolsize" in VALIDATORS,
    "context_to_thread_executor": lambda: SyncToAsync.context_to_thread_executor.pop,
}


def is_private(name):
    return name.startswith("_") and not name.endswith("__") and name.strip("_")


def used(tree):
    """Yield the private names that a module takes from what it has not defined."""
    nodes = list(ast.walk(tree))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    own = {node.name for node in nodes if isinstance(node, functions)}
    own |= {node.attr for node in nodes if _is_of_self(node)}
    for node in nodes:
        yield from (n for n in named(node) if is_private(n) and n not in own)


def named(node):
    """Yield the names that a node takes from something else than ``self``."""
    if isinstance(node, ast.Attribute) and not _is_of_self(node):
        yield node.attr
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from node.module.split(".")
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Call) and _name_of(node.func).endswith("attr"):
        name = getattr(node.args[1], "value", None)
        if isinstance(name, str):
            yield name


def _is_of_self(node):
    return isinstance(node, ast.Attribute) and _name_of(node.value) in ("self", "cls")


def _name_of(node):
    return node.id if isinstance(node, ast.Name) else ""


def test_the_package_uses_no_other_private_name():
    found = {name for file in FILES for name in used(ast.parse(file.read_text()))}
    assert found == PRIVATE.keys() | STANDARD_LIBRARY


@pytest.mark.parametrize(
    "code",
    [
        "client._topology.close()",
        "from django.test.utils import _topology",
        "from pymongo._topology import close",
        "getattr(client, '_topology', None)",
        "hasattr(client, '_topology')",
        "self.client._topology.close()",
    ],
)
def test_a_private_name_is_seen(code):
    assert list(used(ast.parse(code))) == ["_topology"]


def test_what_a_module_defines_is_its_own():
    code = "class A:\n def _b(self): self._c = 1\n def d(self, e): e._b(e._c, self._f)"
    assert list(used(ast.parse(code))) == []


def test_what_is_not_documented_is_still_used():
    text = "".join(file.read_text() for file in FILES)
    assert [name for name in UNDOCUMENTED if name not in text] == []


def test_names_of_pymongo_that_are_gone_are_reported_once(caplog):
    ports._warn_of.cache_clear()
    for _ in range(2):
        assert ports.pool_resets(object()) == []
    (record,) = caplog.records
    assert "'_topology'" in record.getMessage()
    assert pymongo.version in record.getMessage()


@pytest.mark.parametrize("name", [*PRIVATE, *UNDOCUMENTED])
def test_a_name_that_is_used_exists(name):
    assert (PRIVATE | UNDOCUMENTED)[name]()
