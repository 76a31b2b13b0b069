"""The appender does all that a site does, and changes no event."""

import asyncio
import contextlib

import pytest
from django.core.management import CommandError

from ossy_event_store import (
    Aggregate,
    AggregateRebuild,
    BoundaryConflict,
    Condition,
    EventStore,
    Mongo,
    checks,
    item,
)
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.change_stream import ChangeStream
from ossy_event_store.post_migrate import ensure_indexes
from ossy_event_store.rebuild.progress import RebuildProgress
from ossy_event_store.rebuild.ranges import Part, Span
from tests.library.aggregate import Book, Reader
from tests.support.roles import (
    BOUGHT,
    CHANGES,
    FOLLOWED,
    LENT,
    PASSWORD,
    RETURNED,
    calls,
    guarded_marks,
    in_database,
    in_others,
    may_not,
    refused,
    said,
)

pytestmark = [pytest.mark.faults, *guarded_marks]


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


def test_an_appender_that_may_not_look_appends_and_a_check_says_so(become, guarded):
    role = in_database(guarded.name, calls("createRole")[0])
    for privilege in role["privileges"]:
        privilege["actions"] = list({*privilege["actions"]} - {"listIndexes"})
    guarded.database.command(
        "createRole", "unsighted", privileges=role["privileges"], roles=[]
    )
    user = {"pwd": PASSWORD, "roles": ["unsighted"]}
    guarded.database.command("createUser", "unsighted", **user)
    become("unsighted")
    assert Aggregate.of(Book, BOUGHT).version == 1
    found = checks.check_server(None, ["default"])
    assert "Grant listIndexes" in found[-1].hint


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


# --- and changes no event ---------------------------------------------------


def test_the_appender_may_not_change_events(appender, guarded):
    Aggregate.of(Book, BOUGHT).save()
    may_not(appender, CHANGES, guarded)


def test_the_appender_may_not_change_positions_nor_subscriptions(appender, guarded):
    Aggregate.of(Book, BOUGHT)
    for name in FOLLOWED:
        guarded.database[name].insert_one({"_id": 1})
    may_not(appender, in_others(*FOLLOWED), guarded)


def test_the_appender_rebuilds_and_resumes(appender, guarded, monkeypatch):
    Aggregate.of(Book, {**BOUGHT, "aggregateId": "b-1"})
    notes = RebuildProgress(appender, [Book, Reader], None)
    drive(notes.begin([Part(Span("Book"), "a"), Part(Span("Reader"))]))
    report = AggregateRebuild.build_and_save_all(resume=True)
    assert (report.restart_reason, report.saved) == ("", 1)
    assert guarded.database.eventstore_leases.find_one({"_id": notes.id})["parts"] == []


def test_the_appender_sees_new_positions(appender, guarded):
    with contextlib.closing(
        ChangeStream(connection.raw(appender.positions), fields=())
    ) as new:
        guarded.database.eventstore_positions.insert_one({"_id": 1})
        assert [entry["_id"] for entry, _ in new.fetch(10)] == [1]


def test_an_appender_that_does_not_save_or_rebuild_needs_less(become, guarded):
    less = {"eventstore_leases": ["find"], "aggregates": ["find", "listIndexes"]}
    (role,) = (r for r in calls("createRole") if r["role"] == "eventStoreAppender")
    privileges = in_database(guarded.name, role)["privileges"]
    for privilege in privileges:
        name = privilege["resource"]["collection"]
        privilege["actions"] = less.get(name, privilege["actions"])
    database = guarded.database
    database.command("createRole", "less", privileges=privileges, roles=[])
    database.command("createUser", "shop_less", pwd=PASSWORD, roles=["less"])
    become("shop_less")
    book = Aggregate.of(Book, BOUGHT).add(LENT, RETURNED)
    assert Aggregate.of(Book, book.id).version == 3
    with refused():
        book.save()


def test_the_appender_may_not_install_the_validator(appender):
    with pytest.raises(CommandError, match="needs collMod on the collection"):
        said("ensure_event_store", "--validator")


def test_the_appender_that_lacks_an_index_is_told_so(appender, guarded):
    guarded.database.eventstore.drop_indexes()
    with pytest.raises(CommandError, match=r"not complete\. not authorized"):
        ensure_indexes(using="default")
    with pytest.raises(CommandError, match="not authorized"):
        said("ensure_event_store")
    found = {message.id for message in checks.check_server(None, ["default"])}
    assert found >= {"ossy_event_store.E004", "ossy_event_store.W004"}


def test_the_appender_decides_on_tags(appender, guarded):
    """A place is taken with the insert of its event: nothing is ever updated."""
    query = item(tags=["course:c1"])
    for number in range(3):
        token = EventStore.read_boundary(query).token
        event = {"type": "Subscribed", "tags": ["course:c1", f"student:{number}"]}
        EventStore.append_events([event], unless=Condition(query, token))
    with pytest.raises(BoundaryConflict):
        EventStore.append_events([event], unless=Condition(query))
    assert len(list(EventStore.read_boundary(query).events)) == 3
