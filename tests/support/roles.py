"""
The roles of docs/howto/roles.md, on a server with authentication.

The page's own commands make roles and users here, so that what it says is what is
tested.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bson import ObjectId
from django.conf import settings as django_settings
from django.core.management import call_command
from pymongo import MongoClient, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from ossy_event_store.mongodb import connection

guarded_marks = [
    pytest.mark.skipif(sys.platform == "win32", reason="starts a mongod of its own"),
    pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL"),
]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/howto/roles.md").read_text()
ADMIN, PASSWORD = "admin", "s3cret"
NOT_ALLOWED = 13
# A site that runs its subscriptions in its own processes; what the handlers and the
# projections of the tests write to is granted by a role of its own.
BOTH = {
    "user": "shop_both",
    "pwd": PASSWORD,
    "roles": ["eventStoreAppender", "eventStoreFollower", "handlers"],
}
OF_HANDLERS = (
    "pages",
    "projection_large",
    "projection_loans",
    "projection_loans_2",
    "projection_loans_3",
    "projection_loans_4",
    "projection_loans_5",
    "projection_nights",
    "projection_odd_keys",
    "projection_parallel",
    "projection_per_reader",
    "projection_per_type",
    "projection_per_type_2",
    "projection_indexed",
    "projection_indexed_2",
    "projection_indexed_3",
    "projection_unstorable",
)
PROJECTION = "projection_orders"  # the one that the page names
BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}
LENT = {"type": "BookLent", "payload": {"to": "ann"}}
RETURNED = {"type": "BookReturned"}


def arguments(method):
    """Return the lists of arguments with which the page calls a method."""
    pattern = rf'^db\.getSiblingDB\("shop"\)\.{method}\((.*?)\)\n(?=db\.|```)'
    found = re.findall(pattern, PAGE, re.MULTILINE | re.DOTALL)
    return [
        json.loads(f"[{text}]".replace("passwordPrompt()", f'"{PASSWORD}"'))
        for text in found
    ]


def calls(method):
    """Return the argument with which the page calls a method of the database."""
    return [argument for (argument,) in arguments(method)]


def in_database(name, role):
    """Return a role's arguments for another database than the page's."""
    return json.loads(json.dumps(role).replace('"shop"', json.dumps(name)))


class Guarded:
    """A server with authentication, and one database with roles and users."""

    def __init__(self, started):
        self.started = started
        source = connection.resolve()
        self.name = source.name
        self.admin = MongoClient(self.url(ADMIN, "admin"))

    def url(self, user, source=None):
        options = {"authSource": source or self.name}
        login = f"{user}:{PASSWORD}@"
        return self.started.url(**options).replace("://", f"://{login}")

    @property
    def database(self):
        return self.admin[self.name]


def of_handlers(database):
    """Return for other collections what the page grants for a projection."""
    role, (privilege, *_) = arguments("grantPrivilegesToRole")[0]
    assert role == "eventStoreFollower"
    return [
        {**privilege, "resource": {"db": database, "collection": name}}
        for name in OF_HANDLERS
    ]


def begin(started):
    """Make the first user, through the exception for localhost, and then the page's."""
    with started.members[0].client() as client:
        client.admin.command("createUser", ADMIN, pwd=PASSWORD, roles=["root"])
    guarded = Guarded(started)
    for role in calls("createRole"):
        role = in_database(guarded.name, role)
        guarded.database.command("createRole", role.pop("role"), **role)
    for role, privileges in arguments("grantPrivilegesToRole"):
        privileges = in_database(guarded.name, privileges)
        guarded.database.command("grantPrivilegesToRole", role, privileges=privileges)
    guarded.database.command(
        "createRole", "handlers", privileges=of_handlers(guarded.name), roles=[]
    )
    for user in [*calls("createUser"), BOTH]:
        user = {**user}
        guarded.database.command("createUser", user.pop("user"), **user)
    return guarded


@contextlib.contextmanager
def refused():
    with pytest.raises((OperationFailure, BulkWriteError)) as caught:
        yield
    assert caught.value.code == NOT_ALLOWED, caught.value


def said(*command):
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=out)
    return out.getvalue()


def run_tests_as(user, names, guarded):
    """Run tests in another process, which knows no other user of the server."""
    files = [f"tests/{name}" for name in names]
    # All of it has been measured where the tests ran as any user.
    measured = ("COVERAGE_", "COV_", "PYTEST_ADDOPTS")
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(measured)},
        "TEST_MONGODB_URL": guarded.url(user),
        "TEST_MONGODB_ADMIN_URL": guarded.url(ADMIN, "admin"),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", "not faults and not chaos", "-k", "not awaitable", *files),
        ],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


# --- what changes an event, and other collections ---------------------------

COPY = {"_id": ObjectId(), "aggregateId": "s", "aggregateVersion": 1, "type": "T"}
CHANGED = {"$set": {"type": "Other"}}


def merge(when_matched):
    return [{"$merge": {"into": "eventstore", "whenMatched": when_matched}}]


CHANGES = {
    "update": lambda c: c.update_one({}, CHANGED),
    "update of many": lambda c: c.update_many({}, CHANGED),
    "replace": lambda c: c.replace_one({}, COPY),
    "upsert": lambda c: c.update_one({"_id": 1}, CHANGED, upsert=True),
    "delete": lambda c: c.delete_one({}),
    "delete of many": lambda c: c.delete_many({}),
    "findAndModify": lambda c: c.find_one_and_update({}, CHANGED),
    "findAndModify that deletes": lambda c: c.find_one_and_delete({}),
    "bulk update": lambda c: c.bulk_write([UpdateOne({}, CHANGED)]),
    "bulk replace": lambda c: c.bulk_write([ReplaceOne({}, COPY)]),
    "drop": lambda c: c.drop(),
    "drop of the database": lambda c: c.database.client.drop_database(c.database.name),
    "rename": lambda c: c.rename("old"),
    "rename onto it": lambda c: c.database.aggregates.rename(c.name, dropTarget=True),
    "collMod": lambda c: c.database.command("collMod", c.name, validator={}),
    "createIndex": lambda c: c.create_index("type"),
    "dropIndexes": lambda c: c.drop_indexes(),
    "convertToCapped": lambda c: c.database.command(
        "convertToCapped", c.name, size=1000
    ),
    "$out": lambda c: c.aggregate([{"$out": c.name}]),
    "$out from another": lambda c: c.database.aggregates.aggregate([{"$out": c.name}]),
    "$merge": lambda c: c.aggregate(merge("replace")),
    "$merge from another": lambda c: c.database.aggregates.aggregate(merge("merge")),
    "mapReduce": lambda c: c.database.command(
        "mapReduce", c.name, map="function(){}", reduce="function(){}", out=c.name
    ),
    "bypassDocumentValidation": lambda c: c.insert_one(
        dict(COPY), bypass_document_validation=True
    ),
    "the oplog": lambda c: c.database.client.local["oplog.rs"].find_one(),
    "applyOps": lambda c: c.database.client.admin.command("applyOps", []),
    "a role for itself": lambda c: c.database.command(
        "grantRolesToUser", "shop_site", roles=["eventStoreMigrator"]
    ),
}

FOLLOWED = (
    connection.POSITIONS,
    connection.SUBSCRIPTIONS,
    connection.PARKED,
    connection.SKIPPED,
    connection.DAMAGED,
)
WAYS = {
    "insert": lambda c: c.insert_one({}),
    "update": lambda c: c.update_many({}, CHANGED),
    "delete": lambda c: c.delete_many({}),
    "drop": lambda c: c.drop(),
    "createIndex": lambda c: c.create_index("type"),
}


def in_others(*names, ways=tuple(WAYS)):
    """Return changes like those above, of other collections than the events."""
    return {
        f"{way} in {name}": lambda c, name=name, way=way: WAYS[way](c.database[name])
        for name in names
        for way in ways
    }


def may_not(store, changes, guarded):
    """Try the changes; each is refused, and nothing comes of it."""
    before = everything(guarded)
    for name, change in changes.items():
        assert code_of(change, connection.raw(store.events)) == NOT_ALLOWED, name
        assert everything(guarded) == before, name


def code_of(change, events):
    """Return the code of the error of a change; None if there was none."""
    try:
        change(events)
    except (OperationFailure, BulkWriteError) as error:
        return error.code
    return None


def everything(guarded):
    found = {
        name: list(guarded.database[name].find())
        for name in connection.COLLECTION_OPTIONS
    }
    return found | {"indexes": guarded.database.eventstore.index_information()}
