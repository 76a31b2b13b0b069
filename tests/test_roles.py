"""
The roles of docs/howto/roles.md, on a server with authentication.

The page's own commands make roles and users here, so that what it says is what is
tested.
"""

import asyncio
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
from django.core.management import CommandError, call_command
from pymongo import MongoClient, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from ossy_event_store import Aggregate, AggregateRebuild, EventStore, Mongo, checks
from ossy_event_store.admin import overview
from ossy_event_store.mongodb import connection, indexes, leases, schema_validator
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring import health
from ossy_event_store.positions import reader as positions_reader
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.post_migrate import ensure_indexes
from ossy_event_store.rebuild.progress import RebuildProgress
from ossy_event_store.rebuild.ranges import Part, Span
from ossy_event_store.rebuild.tallies import tallies
from ossy_event_store.subscriptions import declaration, operator_actions
from ossy_event_store.subscriptions.declaration import subscription
from tests.library.aggregate import Book, Reader
from tests.support import servers
from tests.support.subscriptions import running

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform == "win32", reason="starts a mongod of its own"),
    pytest.mark.skipif(django_settings.STORE != "url", reason="connects by URL"),
]
ROOT = Path(__file__).parent.parent
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
    "projection_loans",
    "projection_loans_2",
    "projection_loans_3",
    "projection_loans_4",
    "projection_loans_5",
    "projection_odd_keys",
    "projection_per_type",
    "projection_per_type_2",
    "projection_indexed",
    "projection_indexed_2",
    "projection_indexed_3",
    "projection_unstorable",
)
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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "key"
    key.write_text("a key for tests alone")
    key.chmod(0o600)
    with servers.running(folder / "set", options=("--keyFile", str(key))) as started:
        guarded = begin(started)
        with guarded.admin:
            yield guarded


@pytest.fixture
def become(guarded, settings):
    """Become a user of the page; the store is empty and has its indexes."""
    own = settings.OSSY_EVENT_STORE

    def become(user):
        settings.OSSY_EVENT_STORE = {**own, "URL": guarded.url(user)}
        return connection.blocking()

    become("shop_deploy")
    said("ensure_event_store", "--no-validator")
    for name in (*connection.OPTIONS, PROJECTION):
        guarded.database[name].delete_many({})
    yield become
    Mongo.close()


@pytest.fixture
def appender(become):
    return become("shop_site")


@contextlib.contextmanager
def refused():
    with pytest.raises((OperationFailure, BulkWriteError)) as caught:
        yield
    assert caught.value.code == NOT_ALLOWED, caught.value


def said(*command):
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=out)
    return out.getvalue()


def test_a_server_with_authentication_refuses_who_does_not_log_in(guarded):
    with guarded.started.members[0].client() as client, refused():
        client[guarded.name].eventstore.find_one()


def test_the_page_makes_four_roles_and_a_user_of_each():
    roles = [role["role"] for role in calls("createRole")]
    assert roles == [
        "eventStoreAppender",
        "eventStoreFollower",
        "eventStoreReader",
        "eventStoreMigrator",
    ]
    assert [user["roles"] for user in calls("createUser")] == [[role] for role in roles]


# The appender does all that a site does

# These send every command that the store sends; "execute" and "concurrency", the
# awaitable face and what breaks servers send the same ones again.
MAIN = (
    "aggregate",
    "commands",
    "event_store",
    "leases",
    "queries",
    "rebuild",
    "snapshots",
    "startup",
    "transfer",
)
NOT_FOR_IT = "not indexes_are_made_once and not awaitable"


FOLLOWING = (
    "positions",
    "projections",
    "rebuild_projections",
    "run_subscriptions",
    "sequence",
    "subscriptions",
)


@pytest.mark.parametrize(
    ("user", "names"),
    [("shop_site", MAIN), ("shop_both", FOLLOWING)],
    ids=["the appender", "a site that follows"],
)
def test_the_tests_of_the_store_pass_as(user, names, become, guarded):
    files = [f"tests/test_{name}.py" for name in names]
    env = {
        **os.environ,
        "TEST_MONGODB_URL": guarded.url(user),
        "TEST_MONGODB_ADMIN_URL": guarded.url(ADMIN, "admin"),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", "not faults", "-k", NOT_FOR_IT, *files),
        ],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


def test_the_checks_have_nothing_to_say_to_the_appender(appender, monkeypatch):
    monkeypatch.setattr(checks.server, "FIXED_IN", {})  # the server may be an old one
    assert checks.check_server(None, ["default"]) == []
    assert "no issues" in said("check", "--database", "default")


def test_the_checks_see_the_validator_as_the_appender(become, guarded):
    become("shop_deploy")
    said("ensure_event_store", "--validator")
    guarded.database.command("collMod", connection.EVENTS, validationAction="warn")
    become("shop_site")
    found = [message.id for message in checks.check_server(None, ["default"])]
    assert "ossy_event_store.W012" in found


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "awaitable"])
def test_the_appender_appends_several_with_the_validator_on(become, is_async):
    become("shop_deploy")
    said("ensure_event_store", "--validator")
    become("shop_site")
    if is_async:
        assert asyncio.run(lend_and_save()) == 3
        return
    book = Aggregate.of(Book, BOUGHT).add(LENT, RETURNED).save()
    assert Aggregate.of(Book, book.id).version == 3


async def lend_and_save():
    await Mongo.aconnect()
    book = await Aggregate.aof(Book, BOUGHT)
    await book.aadd(LENT, RETURNED)
    await book.asave()
    return (await Aggregate.aof(Book, book.id)).version


def test_the_appender_settles_what_it_cannot_know(appender, guarded):
    event = {**BOUGHT, "id": "e-1", "aggregateId": "b-1", "aggregateType": "Book"}
    stored = EventStore.append_event(event)
    read = appender.client.find_after_all_writes(appender.events, {"_id": "e-1"})
    assert drive(read) == [stored]


# and nothing that changes an event

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


WRITES = {
    **CHANGES,
    "an event": lambda c: c.insert_one(dict(COPY)),
    "a snapshot": lambda c: c.database.aggregates.insert_one({"_id": "s"}),
    "a snapshot's update": lambda c: c.database.aggregates.update_one({}, CHANGED),
    "a snapshot's end": lambda c: c.database.aggregates.delete_one({}),
    "a lease": lambda c: c.database.leases.insert_one({"_id": "l"}),
    **in_others(*FOLLOWED),
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
    found = {name: list(guarded.database[name].find()) for name in connection.OPTIONS}
    return found | {"indexes": guarded.database.eventstore.index_information()}


def test_the_appender_may_not_change_events(appender, guarded):
    Aggregate.of(Book, BOUGHT).save()
    may_not(appender, CHANGES, guarded)


def test_the_appender_may_not_change_positions(appender, guarded):
    Aggregate.of(Book, BOUGHT)
    guarded.database.positions.insert_one({"_id": 1})
    may_not(appender, in_others(connection.POSITIONS), guarded)


def test_the_appender_rebuilds_and_resumes(appender, guarded, monkeypatch):
    Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
    notes = RebuildProgress(appender, [Book, Reader], None)
    drive(notes.begin([Part(Span("Book"), "a"), Part(Span("Reader"))]))
    report = AggregateRebuild.build_and_save_all(resume=True)
    assert (report.restart_reason, report.saved) == ("", 1)
    assert guarded.database.leases.find_one({"_id": notes.id})["parts"] == []


def test_the_appender_sees_new_positions_and_tends_what_is_parked(appender, guarded):
    with contextlib.closing(
        ChangeStream(connection.raw(appender.positions), fields=())
    ) as new:
        guarded.database.positions.insert_one({"_id": 1})
        assert [entry["_id"] for entry, _ in new.fetch(10)] == [1]
    guarded.database.parked.insert_one({"_id": "p"})
    guarded.database.subscriptions.insert_one({"_id": "s"})
    connection.raw(appender.parked).update_one({"_id": "p"}, {"$set": {"retry": True}})
    connection.raw(appender.subscriptions).update_one(
        {"_id": "s"}, {"$set": {"seen": 1}}
    )
    connection.raw(appender.skipped).insert_one({"_id": "e", "reason": "a bad day"})
    connection.raw(appender.parked).delete_one({"_id": "p"})
    assert guarded.database.skipped.count_documents({}) == 1


def test_the_appender_may_not_install_the_validator(appender):
    with pytest.raises(CommandError, match="needs collMod on the collection"):
        said("ensure_event_store", "--validator")


def test_the_appender_that_lacks_an_index_is_told_so(appender, guarded, caplog):
    guarded.database.eventstore.drop_indexes()
    ensure_indexes(using="default")
    with pytest.raises(CommandError, match="not authorized"):
        said("ensure_event_store")
    found = {message.id for message in checks.check_server(None, ["default"])}
    assert "ossy_event_store.W004" in found


# The follower


@pytest.fixture
def follower(become):
    """The store as the follower, with one book of two events."""
    become("shop_site")
    Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"}).add(LENT)
    return become("shop_follow")


def test_the_follower_gives_positions_to_what_there_is_and_to_what_comes(
    follower, guarded
):
    with contextlib.closing(Sequencer(follower)) as sequencer:
        assert sequencer.advance(0.1) == 2
        guarded.database.eventstore.insert_one(
            {"_id": "new", "aggregateId": "b-2", "aggregateVersion": 1}
        )
        servers.until(lambda: sequencer.advance(0.1))
    assert [event["position"] for event in EventStore.read_all(limit=2)] == [1, 2]
    assert drive(positions_reader.head_position(follower)) == 3


def test_the_follower_takes_leases_and_saves_snapshots(follower):
    assert drive(leases.acquire(follower, "l", "me", 1)) == 1
    drive(leases.release(follower, "l", "me"))
    assert Aggregate.of(Book, "b-1").save().version == 2
    AggregateRebuild.build_and_save_all()


def test_the_follower_writes(follower):
    for name, change in in_others(*FOLLOWED, ways=("insert", "update")).items():
        assert code_of(change, connection.raw(follower.events)) is None, name


def test_the_follower_may_not_drop_or_index(follower, guarded):
    changes = in_others(*FOLLOWED, ways=("drop", "createIndex"))
    may_not(follower, changes, guarded)


def test_the_follower_may_not_change_events(follower, guarded):
    may_not(follower, CHANGES, guarded)


def test_the_follower_may_not_append(follower, guarded):
    before = everything(guarded)
    book = Aggregate.of(Book, "b-1")
    for several in ([LENT], [LENT, RETURNED]):
        with refused():
            book.add(*several)
    assert everything(guarded) == before


def test_the_checks_have_nothing_to_say_to_the_follower(follower, monkeypatch):
    monkeypatch.setattr(checks.server, "FIXED_IN", {})
    assert checks.check_server(None, ["default"]) == []


def test_the_follower_parks_a_stream_and_the_appender_has_its_event_skipped(
    follower, become, guarded, monkeypatch
):
    monkeypatch.setattr(declaration, "_registered", {})
    got = []

    @subscription("reader", retries=0)
    def read(event):
        got.append(event["aggregateVersion"])
        if event["aggregateVersion"] == 1:
            raise ValueError("an old one")

    with running("reader"):
        servers.until(lambda: guarded.database.parked.count_documents({}))
    become("shop_site")
    assert operator_actions.skip("reader", "b-1", "known")["type"] == "BookBought"
    become("shop_follow")
    with running("reader"):
        servers.until(lambda: not guarded.database.parked.count_documents({}))
    assert got == [1, 2]
    assert [one["reason"] for one in guarded.database.skipped.find()] == ["known"]


PROJECTION = "projection_orders"


@pytest.mark.parametrize("name", [PROJECTION, f"{PROJECTION}_2"])
def test_the_follower_builds_and_drops_a_projection_that_is_named(
    name, follower, become
):
    rows = connection.raw(follower.events).database[name]
    rows.drop()
    rows.create_index("customer")
    rows.insert_one({"_id": 1, "customer": "ann", "total": 0})
    rows.update_one({"_id": 1}, {"$inc": {"total": 5}})
    rows.delete_many({"total": 0})
    site = connection.raw(become("shop_site").events).database[name]
    assert [row["total"] for row in site.find()] == [5]
    with refused():
        site.update_one({"_id": 1}, {"$set": {"total": 0}})
    follower = become("shop_follow")
    connection.raw(follower.events).database[name].drop()


def test_the_follower_may_not_touch_a_projection_that_is_not_named(follower):
    rows = connection.raw(follower.events).database["projection_loans"]
    for change in WAYS.values():
        with refused():
            change(rows)


# The reader


@pytest.fixture
def reader(become):
    """The store as the reader, with one book of two events and its snapshot."""
    become("shop_site")
    book = Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
    book.add(LENT).save()
    with contextlib.closing(Sequencer(become("shop_follow"))) as sequencer:
        sequencer.advance(0.1)
    return become("shop_report")


def test_the_reader_reads_all(reader, tmp_path, monkeypatch):
    assert Aggregate.of(Book, "b-1").version == 2
    assert Aggregate.find("b-1")["aggregateVersion"] == 2
    assert len(EventStore.get_event_stream("b-1")) == 2
    assert [stream["aggregateId"] for stream in EventStore.get_event_streams()] == [
        "b-1"
    ]
    assert EventStore.find_event({"type": "BookLent"})["aggregateVersion"] == 2
    assert len(EventStore.find_events({"aggregateId": "b-1"})) == 2
    assert EventStore.aggregate([{"$count": "events"}]) == [{"events": 2}]
    assert [event["position"] for event in EventStore.read_all()] == [1, 2]
    said("export_events", "--output", str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 2
    monkeypatch.setattr(checks.server, "FIXED_IN", {})
    assert checks.check_server(None, ["default"]) == []


def test_the_reader_sees_what_the_pages_of_the_admin_show(reader, guarded):
    guarded.database.parked.insert_one({"_id": "p"})
    assert [stream["_id"] for stream in drive(reader.parked.find({}))] == ["p"]
    for other in (reader.subscriptions, reader.skipped):
        assert drive(other.find({})) == []
    assert drive(tallies(reader)) == []
    assert drive(overview.health(reader)).missing == []
    with contextlib.closing(
        ChangeStream(connection.raw(reader.positions), fields=())
    ) as new:
        guarded.database.positions.insert_one({"_id": 3})
        assert [entry["_id"] for entry, _ in new.fetch(10)] == [3]


def test_the_reader_asks_for_the_health(reader):
    found = health.figures()
    assert found["store"] == {"reachable": True, "error": None}
    assert found["positions"]["events"] == found["positions"]["head"] == 2


def test_the_reader_verifies_the_store(reader):
    assert said("verify_event_store")


def test_the_reader_reads_a_stream_whose_snapshot_is_ahead_of_it(reader, guarded):
    guarded.database.eventstore.delete_one({"aggregateVersion": 2})
    assert Aggregate.of(Book, "b-1").version == 1


def test_the_reader_tries_a_rebuild(reader, guarded):
    before = everything(guarded)
    assert AggregateRebuild.dry_run().dry_run["Book"].streams == 1
    assert "nothing was written" in said("rebuild_aggregates", "--diff")
    assert everything(guarded) == before


def test_the_reader_may_not_write(reader, guarded):
    may_not(reader, WRITES, guarded)


def test_the_reader_appends_saves_and_rebuilds_nothing(reader, guarded):
    before = everything(guarded)
    book = Aggregate.of(Book, "b-1")
    for attempt in (
        lambda: book.add(LENT),
        lambda: book.add(LENT, RETURNED),
        book.save,
        AggregateRebuild.build_and_save_all,
        lambda: drive(leases.acquire(reader, "l", "me", 1)),
    ):
        with refused():
            attempt()
    assert everything(guarded) == before


# The migrator


def test_the_migrator_makes_all_in_an_empty_database(become, guarded):
    for name in connection.OPTIONS:
        guarded.database[name].drop()
    store = become("shop_deploy")
    assert said("ensure_event_store", "--validator").count("Created ") == len(
        indexes.INDEXES
    )
    assert drive(indexes.missing(store)) == []
    assert drive(schema_validator.standing(store)) is schema_validator.Standing.CURRENT
    assert "Removed the validator" in said("ensure_event_store", "--no-validator")


@pytest.mark.django_db
def test_the_migrator_migrates(become, guarded, monkeypatch):
    for name in connection.OPTIONS:
        guarded.database[name].drop()
    store = become("shop_deploy")
    monkeypatch.setattr("ossy_event_store.post_migrate._done", set())
    said("migrate")
    assert drive(indexes.missing(store)) == []


def test_the_migrator_is_told_of_events_that_do_not_fit(become, guarded):
    guarded.database.eventstore.insert_one({"_id": "n-1"})
    become("shop_deploy")
    assert "'n-1'" in said("ensure_event_store", "--validator")


def test_a_migrator_that_may_not_read_events_installs_it_too(become, guarded):
    role = in_database(guarded.name, calls("createRole")[3])
    privileges = role["privileges"]
    privileges[0]["actions"].remove("find")
    guarded.database.command("createRole", "blind", privileges=privileges, roles=[])
    guarded.database.command("createUser", "blind", pwd=PASSWORD, roles=["blind"])
    become("blind")
    text = said("ensure_event_store", "--validator")
    assert "Installed the validator" in text
    assert "Stored events were not checked: this user may not read them." in text


@pytest.mark.parametrize("several", [[LENT], [LENT, RETURNED]], ids=["one", "two"])
def test_the_migrator_may_not_append(become, guarded, several):
    become("shop_site")
    book = Aggregate.of(Book, BOUGHT)
    become("shop_deploy")
    before = everything(guarded)
    with refused():
        book.add(*several)
    with refused():
        Aggregate.of(Book, BOUGHT)
    assert everything(guarded) == before


def test_the_migrator_may_not_change_events(become, guarded):
    become("shop_site")
    Aggregate.of(Book, BOUGHT)
    names = ("update", "delete", "drop", "rename", "$out", "dropIndexes")
    changes = {name: CHANGES[name] for name in (*names, "findAndModify")}
    may_not(become("shop_deploy"), changes, guarded)
