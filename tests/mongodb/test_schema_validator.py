"""The validator: it accepts all that the store writes, and nothing else."""

import datetime as dt
import io

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from django.core.management import CommandError, call_command
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymongo.errors import (
    BulkWriteError,
    ExecutionTimeout,
    OperationFailure,
    WriteError,
)

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.documents.event_document import (
    FIELDS,
    RESERVED,
    build_event,
    check_event,
    checked_document,
)
from ossy_event_store.documents.extended_json import Malformed, dumps, encode
from ossy_event_store.documents.storable import COPY
from ossy_event_store.exceptions import InvalidEvent, InvalidLine
from ossy_event_store.mongodb import connection, schema_validator
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.mongodb.schema_validator import Standing
from ossy_event_store.post_migrate import ensure_indexes
from ossy_event_store.streams.event_lines import derived_id, line_of, read_line
from ossy_event_store.streams.import_events import import_events
from tests.library.aggregate import Book
from tests.support.bson_values import ANY, KEYS, LETTERS, VALUES
from tests.support.event_documents import NOW

VIOLATION = 121
BOUGHT = {"type": "BookBought", "payload": {"title": "Emma"}}


@pytest.fixture
def guarded(store):
    """The store with the validator, which is removed afterwards."""
    drive(schema_validator.install(store))
    yield store
    drive(schema_validator.remove(store))


@pytest.fixture
def unguarded(store):
    """The store without the validator, whatever a test does."""
    yield store
    drive(schema_validator.remove(store))


def ensure(*options):
    out = io.StringIO()
    call_command("ensure_event_store", *options, stdout=out)
    return out.getvalue()


def event(**fields):
    return {
        "_id": ObjectId(),
        "aggregateId": "s",
        "aggregateType": "S",
        "aggregateVersion": 1,
        "type": "Tested",
        "payload": {},
        "created": NOW,
        "createdBy": None,
        "metadata": {},
        **fields,
    }


def without(name):
    document = event()
    del document[name]
    return document


RESERVED_VALUES = {"subjects": [ObjectId()]}


def test_the_validator_knows_the_reserved_fields(guarded, history):
    assert set(RESERVED_VALUES) == set(RESERVED)
    history.insert_one(event(**RESERVED_VALUES, typeVersion=2))
    (read,) = EventStore.get_event_stream("s")
    assert read["typeVersion"] == 2


TAGS = {"tags": ["course:c1"], "places": [{"t": "course:c1", "n": 43}], "tick": 57}


def test_the_validator_accepts_tags_and_places(guarded, history):
    EventStore.append_event({"type": "Tested", "tags": ["course:c1", "student:s1"]})
    history.insert_one(event(**TAGS))
    assert EventStore.count("course:c1") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": []},
        {"tags": [1]},
        {"tags": [""]},
        {"tags": ["x" * 256]},
        {"tags": ["a", "a"]},
        {"tags": [f"t{n}" for n in range(17)]},
        {"places": []},
        {"places": [{"t": "course:c1"}]},
        {"places": [{"t": "course:c1", "n": 0}]},
        {"places": [{"t": "course:c1", "n": 1.5}]},
        {"places": [{"t": "course:c1", "n": 1, "more": 1}]},
        {"tick": 0},
    ],
)
def test_the_validator_refuses_tags_that_the_store_never_writes(
    guarded, history, wrong
):
    with pytest.raises(WriteError):
        history.insert_one(event(**{**TAGS, **wrong}))


# What the store accepts

ID = st.text(LETTERS, min_size=1, max_size=255).filter(lambda text: "\0" not in text)
PEOPLE = st.none() | ID
DICTS = st.dictionaries(KEYS, VALUES, max_size=3)
DATES = st.datetimes(
    dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC)
)


@hypothesis_settings(ANY, max_examples=150)
@given(
    name=ID,
    event_id=st.none() | ID | st.just(ObjectId()),
    by=PEOPLE,
    payload=DICTS,
    metadata=DICTS,
    created=DATES,
)
@example("😀" * 255, "😀" * 255, "😀" * 255, {}, {}, NOW)
@example("a\nb\n", "\n", " ", {"$ne": 1}, {"a.b": 1}, NOW)
def test_what_an_append_builds_is_stored(
    guarded, history, name, event_id, by, payload, metadata, created
):
    given = {"type": name, "payload": payload, "metadata": metadata, "createdBy": by}
    try:
        document = build_event(
            check_event({**given, "id": event_id}, ()),
            aggregate_id=name,
            aggregate_type=name,
            version=1,
            created=created,
        )
    except InvalidEvent:
        return
    history.delete_many({})
    EventStore.collection.insert_one(document)
    assert EventStore.get_event_stream(name) == [document]


@hypothesis_settings(ANY, max_examples=100)
@given(
    event_id=st.just(ObjectId()) | st.text(LETTERS, min_size=1, max_size=280),
    version=st.integers(1, 2**63 - 1) | st.integers(1, 9).map(Int64),
    value=VALUES,
    by=PEOPLE,
    has_metadata=st.booleans(),
)
@example("x" * 280, 2**63 - 1, float("nan"), None, False)
@example("😀" * 280, Int64(1), {"$ref": "c"}, "😀" * 255, True)
def test_what_an_import_reads_is_stored(
    guarded, history, event_id, version, value, by, has_metadata
):
    given = event(
        _id=event_id, aggregateVersion=version, payload={"v": value}, createdBy=by
    )
    if not has_metadata:
        del given["metadata"]
    try:
        document = checked_document(given, COPY)
    except InvalidEvent:
        return
    history.delete_many({})
    EventStore.collection.insert_one(document)
    assert EventStore.collection.count_documents({}) == 1


def test_the_longest_id_that_an_import_makes_is_stored(guarded):
    longest = event(aggregateId="s" * 255)
    line = line_of(longest | {"_id": derived_id("s" * 255, 1)})
    drive(import_events(guarded, [(1, line)]))
    assert EventStore.collection.count_documents({}) == 1


def test_the_largest_versions_are_stored(guarded):
    document = event(aggregateVersion=2**63 - 1)
    EventStore.collection.insert_one(checked_document(document))
    assert EventStore.collection.count_documents({}) == 1


def test_the_store_works_with_the_validator(guarded, face):
    book = face(Aggregate.of, Book, BOUGHT)
    lent = {"type": "BookLent", "payload": {"to": "ann"}, "createdBy": "jane"}
    face(book.add, lent, {"type": "BookReturned", "id": "e-1"})
    face(book.save)
    assert face(Aggregate.of, Book, book.id).version == 3


# What it does not

BAD = {
    **{
        f"no {name}": without(name)
        for name in FIELDS
        if name not in ("_id", "metadata")
    },
    "an ObjectId of 12 bytes for a text": event(aggregateId=ObjectId()),
    "a number for an id": event(_id=7),
    "a dict for an id": event(_id={"a": ""}),
    "bytes for an id": event(_id=b"x"),
    "an empty id": event(_id=""),
    "a long id": event(_id="x" * 281),
    "NUL in an id": event(_id="a\0b"),
    "an operator for a stream": event(aggregateId={"$ne": None}),
    "an empty stream": event(aggregateId=""),
    "a long stream": event(aggregateId="x" * 256),
    "a long stream of two bytes a character": event(aggregateId="é" * 256),
    "NUL at the end of a stream": event(aggregateId="a\0"),
    "NUL and a new line": event(aggregateId="\0\n"),
    "a number for a type of streams": event(aggregateType=1),
    "a null for a type of streams": event(aggregateType=None),
    "a long type of streams": event(aggregateType="x" * 256),
    "version 0": event(aggregateVersion=0),
    "version -1": event(aggregateVersion=-1),
    "a version of 1.0": event(aggregateVersion=1.0),
    "a version of Decimal128": event(aggregateVersion=Decimal128("1")),
    "a version of True": event(aggregateVersion=True),
    "a version that is text": event(aggregateVersion="1"),
    "a null for a type": event(type=None),
    "an empty type": event(type=""),
    "a list for a payload": event(payload=[]),
    "a null for a payload": event(payload=None),
    "text for a payload": event(payload="{}"),
    "a number for created, as the Node package writes": event(created=1700000000000),
    "a float for created": event(created=1700000000000.0),
    "text for created": event(created="2024-02-29T12:30:15Z"),
    "a null for created": event(created=None),
    "a number for createdBy": event(createdBy=7),
    "a dict for createdBy": event(createdBy={}),
    "an empty createdBy": event(createdBy=""),
    "a long createdBy": event(createdBy="x" * 256),
    "a null for metadata": event(metadata=None),
    "a list for metadata": event(metadata=[]),
    "a field of its own": event(tenant="a"),
    "a field of no name": event(**{"": 1}),
    "nothing": {},
}
# What an import puts in or turns into a date, so that it is an event after all.
COMPLETED = {
    "no payload",
    "no createdBy",
    "a version of 1.0",
    "a number for created, as the Node package writes",
    "a float for created",
    "text for created",
}


@pytest.mark.parametrize("document", BAD.values(), ids=list(BAD))
def test_a_document_that_is_no_event_is_refused(guarded, document):
    with pytest.raises(WriteError) as caught:
        EventStore.collection.insert_one(dict(document))
    assert caught.value.code == VIOLATION
    assert EventStore.collection.count_documents({}) == 0


@pytest.mark.parametrize("name", BAD)
def test_the_store_does_not_import_what_the_validator_refuses(name):
    line = dumps({key: encode(value) for key, value in BAD[name].items()})
    if name in COMPLETED:
        assert checked_document(read_line(line), COPY)
        return
    with pytest.raises((InvalidEvent, Malformed)):
        read_line(line)


@pytest.mark.parametrize("name", ["aggregateId", "type", "createdBy", "_id"])
def test_text_that_is_not_utf_8_is_refused(guarded, name):
    encoded = bson.encode(event(**{name: "@@@"})).replace(b"@@@", b"\xed\xa0\x80")
    with pytest.raises(WriteError) as caught:
        EventStore.collection.insert_one(RawBSONDocument(encoded))
    assert caught.value.code == VIOLATION


def test_an_update_that_leaves_no_event_is_refused(guarded, history):
    EventStore.collection.insert_one(event())
    with pytest.raises(WriteError) as caught:
        history.update_one({}, {"$set": {"aggregateId": 1}})
    assert caught.value.code == VIOLATION


def test_a_valid_update_passes_for_a_validator_is_no_lock(guarded, history):
    EventStore.collection.insert_one(event())
    assert history.update_one({}, {"$set": {"type": "Other"}}).modified_count == 1


# When MongoDB refuses what the store appends, as under a validator of somebody's own


@pytest.fixture
def forbidding(unguarded):
    """The store with a validator that no event fits."""
    options = {"validator": {"never": True}, "validationAction": "error"}
    drive(unguarded.events.database_command("collMod", "eventstore", **options))


def test_a_refused_append_says_that_the_document_failed_validation(forbidding, face):
    with pytest.raises(WriteError, match="Document failed validation") as caught:
        face(Aggregate.of, Book, BOUGHT)
    assert caught.value.code == VIOLATION


def test_several_refused_events_say_so_too(forbidding, face):
    several = [{**BOUGHT, "aggregateId": "s", "aggregateType": "S"}] * 2
    with pytest.raises(BulkWriteError, match="Document failed validation") as caught:
        face(EventStore.append_events, several)
    assert caught.value.details["writeErrors"][0]["code"] == VIOLATION


def test_a_refused_line_of_an_import_names_the_validator(forbidding, store):
    with pytest.raises(InvalidLine, match="validator of eventstore refused it"):
        drive(import_events(store, [(1, line_of(event()))]))


# Installing it


def test_it_is_installed_once_and_removed(unguarded):
    assert drive(schema_validator.standing(unguarded)) is Standing.ABSENT
    assert "Installed the validator" in ensure("--validator")
    assert drive(schema_validator.standing(unguarded)) is Standing.CURRENT
    assert "The validator is up to date." in ensure("--validator")
    assert "Removed the validator." in ensure("--no-validator")
    assert "No validator is installed." in ensure("--no-validator")
    assert drive(schema_validator.standing(unguarded)) is Standing.ABSENT
    EventStore.collection.insert_one({})


def test_a_missing_collection_is_created(unguarded, history):
    history.drop()
    assert "Installed the validator" in ensure("--validator")
    assert drive(schema_validator.standing(unguarded)) is Standing.CURRENT


def test_a_missing_collection_has_no_validator(unguarded, history):
    history.drop()
    assert drive(schema_validator.standing(unguarded)) is Standing.ABSENT
    ensure()


@pytest.mark.parametrize(
    "change",
    [
        {"validator": {"$jsonSchema": {"title": schema_validator.TITLE}}},
        {"validationLevel": "moderate"},
        {"validationAction": "warn"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_validator_of_another_version_is_replaced(unguarded, change):
    options = {**schema_validator._OPTIONS, **change}
    drive(unguarded.events.database_command("collMod", "eventstore", **options))
    assert drive(schema_validator.standing(unguarded)) is Standing.OTHER_VERSION
    assert "Replaced the validator" in ensure("--validator")
    assert drive(schema_validator.standing(unguarded)) is Standing.CURRENT


def test_a_foreign_validator_is_not_replaced(forbidding, store):
    assert drive(schema_validator.standing(store)) is Standing.FOREIGN
    with pytest.raises(CommandError, match=r"did not install.*--no-validator"):
        ensure("--validator")
    assert drive(schema_validator.standing(store)) is Standing.FOREIGN
    ensure("--no-validator")
    assert "Installed" in ensure("--validator")


def test_creating_the_indexes_keeps_the_validator(guarded):
    ensure()
    ensure_indexes(using="default")
    assert drive(schema_validator.standing(guarded)) is Standing.CURRENT


def test_the_awaitable_face_installs_it_too(unguarded, face):
    if face.runner is None:
        pytest.skip("the other tests do")

    async def install():
        await schema_validator.install(await connection.awaitable())
        return await schema_validator.standing(await connection.awaitable())

    assert face.runner.run(install()) is Standing.CURRENT


# Events that were there before


def test_events_that_do_not_fit_are_named_and_stay(unguarded):
    fits, node = event(), event(_id="n-1", aggregateVersion=2, created=17e11)
    EventStore.collection.insert_many([fits, node])
    said = ensure("--validator")
    assert "refuse some stored events, such as 'n-1'." in said
    assert len(EventStore.get_event_stream("s")) == 2


def test_of_many_events_that_do_not_fit_the_first_are_named(unguarded):
    EventStore.collection.insert_many(
        {"_id": f"n-{n}", "aggregateVersion": n} for n in range(20)
    )
    found = drive(schema_validator.misfits(unguarded, 5))
    assert found.ids == [f"n-{n}" for n in range(schema_validator.MISFIT_IDS)]
    assert found.complete


def test_events_that_fit_are_not_reported(unguarded, lend):
    lend("b-1", "BookBought")
    assert "refuse" not in ensure("--validator")
    assert drive(schema_validator.misfits(unguarded, 5)) == schema_validator.Misfits(
        [], True
    )


def test_the_search_for_misfits_ends_in_time(unguarded):
    EventStore.collection.insert_many(
        event(aggregateVersion=n) for n in range(1, 20_000)
    )
    found = drive(schema_validator.misfits(unguarded, 0.001))
    assert found == schema_validator.Misfits([], complete=False)


def test_misfits_found_before_the_time_was_up_are_named(unguarded, monkeypatch):
    async def batches(self, query, size, **options):
        yield [{"_id": "n-1"}]
        raise ExecutionTimeout("operation exceeded time limit", 50)

    monkeypatch.setattr(type(unguarded.events), "batches", batches)
    said = ensure("--validator")
    assert "such as 'n-1'." in said
    assert "Not all stored events were checked: the limit is 10 s." in said


async def refuse(self, name, value=1, **options):
    raise OperationFailure(f"not authorized on x to execute {name}", 13)


def test_without_the_right_the_command_names_it(unguarded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(unguarded.events), "database_command", refuse)
        with pytest.raises(CommandError, match=r"needs collMod .* and listCollections"):
            ensure("--validator")
