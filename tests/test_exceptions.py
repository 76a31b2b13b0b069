"""Errors are facts: attributes, a message that says what to do, and pickles."""

import copy
import inspect
import pickle

import pytest
from bson import ObjectId
from django.core.exceptions import ObjectDoesNotExist

import ossy_event_store
from ossy_event_store import exceptions, item
from ossy_event_store.exceptions import (
    AggregateNotFound,
    AggregatesNotFound,
    AggregateTypeMismatch,
    BeforeFirstEvent,
    BoundaryConflict,
    BuiltMeanwhile,
    CheckpointMissing,
    ConcurrencyError,
    EventNotFound,
    EventStoreError,
    ForeignCollection,
    IdempotencyConflict,
    IndexConflict,
    IndexMissing,
    InvalidBoundary,
    InvalidEvent,
    InvalidLine,
    InvalidQuery,
    InvalidState,
    InvalidTransaction,
    OutcomeUnknown,
    PastAggregate,
    PositionNotAssigned,
    PositionsBroken,
    RebuildBroken,
    ReducerError,
    StoreUnavailable,
    StreamClosed,
    TransactionAborted,
    TransactionsUnavailable,
    UndecodableEvent,
    UnexpectedState,
    UnknownAggregateType,
    UnknownEventVersion,
    UnknownSubscription,
    UpcasterError,
    VersionNotFound,
)

pytestmark = pytest.mark.versions

OID = ObjectId("65e0a1b2c3d4e5f601234567")

QUERY = item(tags=["course:c1"])

VERSIONS = "aggregateId_1_aggregateVersion_1"
ERRORS = [
    (
        AggregatesNotFound("Book", ["b", "c"]),
        {"aggregate_id": "b", "aggregate_ids": ("b", "c")},
        "Of Book these do not exist: 'b', 'c'. Pass skip_missing=True",
    ),
    (
        AggregatesNotFound("Book", [*"abcdefgh"]),
        {"aggregate_type": "Book"},
        "Of Book these do not exist: 'a', 'b', 'c', 'd', 'e' and 3 more.",
    ),
    (
        BeforeFirstEvent("Book", "b", "position 3", "position 7", "a"),
        {
            "aggregate_id": "b",
            "moment": "position 3",
            "began": "position 7",
            "predecessor": "a",
        },
        "Book 'b' did not exist at position 3: it began at position 7. It continues "
        "'a': load that one.",
    ),
    (
        PastAggregate("Book", "b", 3),
        {"aggregate_type": "Book", "aggregate_id": "b", "version": 3},
        "Book 'b' is read-only: it was loaded as of the past, at version 3. Nothing",
    ),
    (
        PositionNotAssigned(9, 7),
        {"position": 9, "head": 7},
        "No event has position 9 yet: the last assigned position is 7.",
    ),
    (
        VersionNotFound("b", 9, 7),
        {"aggregate_id": "b", "version": 9, "last": 7},
        "Stream 'b' has no event at version 9: its last version is 7.",
    ),
    (
        AggregateNotFound("Book", "b"),
        {"aggregate_type": "Book", "aggregate_id": "b"},
        "Book 'b' does not exist.",
    ),
    (
        AggregateTypeMismatch("b", "Book", "Cook"),
        {"aggregate_id": "b", "expected": "Book", "actual": "Cook"},
        "Stream 'b' is of aggregate type 'Cook', not 'Book'.",
    ),
    (
        BoundaryConflict(QUERY, ["e"], ["course:c1"], "b1x"),
        {"query": QUERY, "event_ids": ("e",), "tags": ("course:c1",), "token": "b1x"},
        "Events match the condition that were not known to the decision, in "
        "course:c1: 'e'. Nothing was written.",
    ),
    (
        CheckpointMissing("mail", "default", 7),
        {"name": "mail", "using": "default", "position": 7},
        "The checkpoint of subscription 'mail' is missing in the database 'default'",
    ),
    (
        ConcurrencyError("b", 2, 3),
        {"aggregate_id": "b", "expected_version": 2, "actual_version": 3},
        "Stream 'b': expected version 2, found version 3. Nothing was written",
    ),
    (
        ConcurrencyError("b", 0, 3),
        {"expected_version": 0},
        "Stream 'b': expected a new stream, found version 3.",
    ),
    (
        ConcurrencyError("b", 2, 3, [("b", 2, 3), ("c", 0, 1)]),
        {"aggregate_id": "b", "conflicts": [("b", 2, 3), ("c", 0, 1)]},
        "Streams 'b': expected version 2, found version 3; 'c': expected a new stream, "
        "found version 1. Nothing was written. Load them again and retry.",
    ),
    (ConcurrencyError("b", 2, 3), {"conflicts": [("b", 2, 3)]}, "Stream 'b': expected"),
    (
        EventNotFound({"type": "x"}),
        {"query": {"type": "x"}},
        "No event matches the query {'type': 'x'}.",
    ),
    (
        IdempotencyConflict("e", ["type", "payload"]),
        {"event_id": "e", "differences": ("type", "payload")},
        "Event 'e' is already stored with another type, payload. Nothing was written.",
    ),
    (
        IndexConflict("eventstore", "a_1", "it is there"),
        {"collection": "eventstore", "name": "a_1", "reason": "it is there"},
        "Cannot create index a_1 on eventstore: it is there",
    ),
    (
        ForeignCollection("eventstore_parked", 1),
        {"collection": "eventstore_parked", "document_id": 1},
        "The collection eventstore_parked belongs to another program: the event store "
        "did not write its document 1. Rename",
    ),
    (
        IndexMissing("eventstore", VERSIONS, "shop", False),
        {
            "collection": "eventstore",
            "name": VERSIONS,
            "database": "shop",
            "is_installed": False,
        },
        "The collection eventstore of the database 'shop' has no unique index "
        "aggregateId_1_aggregateVersion_1, without which two writers could store the "
        "same version. Nothing was written. "
        "Add 'ossy_event_store' to INSTALLED_APPS. Run manage.py migrate",
    ),
    (
        InvalidEvent("payload.a", "no"),
        {"path": "payload.a", "reason": "no"},
        "payload.a: no",
    ),
    (InvalidEvent("", "no"), {"path": "", "reason": "no"}, "no"),
    (
        InvalidLine(3, "type", "missing"),
        {"line": 3, "path": "type", "reason": "missing"},
        "line 3, type: missing",
    ),
    (InvalidLine(3, "", "not JSON"), {"path": ""}, "line 3: not JSON"),
    (InvalidBoundary("after", "no"), {"path": "after"}, "after: no"),
    (InvalidQuery("query.$where", "no"), {"path": "query.$where"}, "query.$where: no"),
    (InvalidState("state", "no"), {"path": "state", "reason": "no"}, "state: no"),
    (InvalidTransaction("It has ended."), {"reason": "It has ended."}, "It has ended."),
    (
        StreamClosed("b", 3),
        {"aggregate_id": "b", "version": 3, "successor": None},
        "Stream 'b' was closed at version 3. Nothing was written. Begin a new stream.",
    ),
    (
        StreamClosed("b", 3, "b2"),
        {"successor": "b2"},
        "Stream 'b' was closed at version 3. Nothing was written. Append to 'b2',",
    ),
    (
        TransactionAborted("WriteConflict"),
        {"reason": "WriteConflict"},
        "The transaction was aborted: WriteConflict. Nothing in it was stored; run it",
    ),
    (OutcomeUnknown([]), {"event_ids": ()}, "It is not known whether the transaction"),
    (
        OutcomeUnknown([OID, "e"]),
        {"event_ids": (OID, "e")},
        "It is not known whether the events ObjectId('65e0a1b2c3d4e5f601234567'), 'e'",
    ),
    (
        PositionsBroken(7, "b", 2),
        {"position": 7, "aggregate_id": "b", "aggregate_version": 2},
        "Position 7 refers to version 2 of stream 'b', which no longer exists",
    ),
    (
        RebuildBroken("Book after 'b'", -9),
        {"part": "Book after 'b'", "exit_code": -9},
        "The process that rebuilt the streams of Book after 'b' was killed by signal "
        "9, as the system does when memory runs out. The other processes were stopped.",
    ),
    (
        RebuildBroken("Book", 3),
        {"exit_code": 3},
        "The process that rebuilt the streams of Book ended with exit code 3.",
    ),
    (
        ReducerError("Book", "b", 2, "KeyError: 'to'", "BookLent"),
        {
            "aggregate_type": "Book",
            "aggregate_id": "b",
            "version": 2,
            "error": "KeyError: 'to'",
            "event_type": "BookLent",
        },
        "Book 'b', version 2 (BookLent): KeyError: 'to'",
    ),
    (
        StoreUnavailable("refused"),
        {"reason": "refused"},
        "The event store is not available: refused",
    ),
    (
        BuiltMeanwhile("lent_books"),
        {"name": "lent_books"},
        "Another process has rebuilt projection lent_books at the same time;",
    ),
    (
        UndecodableEvent(7, "BookLent", 2, "shop.events.BookLent", "due", "missing"),
        {"event_id": 7, "path": "due", "cls": "shop.events.BookLent"},
        "shop.events.BookLent cannot be made of event 7 of type 'BookLent' at version "
        "2: payload.due: missing. Give a new field a default",
    ),
    (
        UnknownEventVersion(7, "BookLent", 4, 3),
        {"event_id": 7, "event_type": "BookLent", "found": 4, "known": 3},
        "Event 7 is of type 'BookLent' at version 4, but the code knows that type up "
        "to version 3. Deploy the release that knows the version",
    ),
    (
        UpcasterError(7, "BookLent", 2, "shop.events.later", "KeyError: 'due'"),
        {"event_id": 7, "version": 2, "upcaster": "shop.events.later"},
        "The upcaster shop.events.later of BookLent from version 2 failed on event 7: "
        "KeyError: 'due'",
    ),
    (UnexpectedState("out of order"), {"reason": "out of order"}, "out of order"),
    (TransactionsUnavailable(), {}, "Several events in one append, and rules over"),
    (
        UnknownAggregateType("Cook", ["Book", "Reader"]),
        {"aggregate_type": "Cook", "registered": ("Book", "Reader")},
        "No aggregate class is registered under 'Cook'. Registered: Book, Reader.",
    ),
    (UnknownAggregateType("Cook", []), {"registered": ()}, "No aggregate class"),
    (
        UnknownSubscription("mail", ["maps", "menu"]),
        {"name": "mail", "registered": ("maps", "menu")},
        "Subscription 'mail' does not exist. Declared: maps, menu.",
    ),
    (
        UnknownSubscription("mail", ["mail", "menu"]),
        {"name": "mail", "registered": ("mail", "menu")},
        "Subscription 'mail' is declared but has never run; start manage.py",
    ),
]
EACH = pytest.mark.parametrize("error", [e for e, _, _ in ERRORS], ids=repr)


@pytest.mark.parametrize(("error", "facts", "message"), ERRORS, ids=lambda e: "")
def test_an_error_carries_its_facts(error, facts, message):
    assert {name: getattr(error, name) for name in facts} == facts


@pytest.mark.parametrize(("error", "facts", "message"), ERRORS, ids=lambda e: "")
def test_an_error_says_what_is_wrong(error, facts, message):
    assert str(error).startswith(message)


@EACH
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_can_be_pickled(error, protocol):
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


@EACH
def test_an_error_can_be_copied(error):
    assert vars(copy.deepcopy(error)) == vars(error)


@EACH
def test_the_message_of_an_error_is_one_line(error):
    assert "\n" not in str(error)


@EACH
def test_the_representation_of_an_error_names_its_class(error):
    assert repr(error).startswith(type(error).__name__)


def everything():
    """Every error class except the base."""
    classes = {v for v in vars(exceptions).values() if inspect.isclass(v)}
    return classes - {EventStoreError}


def test_every_error_is_tested_here():
    assert {type(error) for error, _, _ in ERRORS} == everything()


def test_every_error_is_in_one_tree():
    assert all(issubclass(cls, EventStoreError) for cls in everything())


def test_every_error_can_be_imported_from_the_package():
    names = {cls.__name__ for cls in everything()} | {"EventStoreError"}
    assert names <= set(ossy_event_store.__all__)
    assert names == set(exceptions.__all__)


def test_every_error_is_in_the_drawn_tree():
    drawn = exceptions.__doc__
    assert all(f"── {cls.__name__} " in drawn for cls in everything())


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (AggregateNotFound, ObjectDoesNotExist),
        (EventNotFound, ObjectDoesNotExist),
        (InvalidBoundary, ValueError),
        (InvalidEvent, ValueError),
        (InvalidLine, ValueError),
        (InvalidQuery, ValueError),
        (InvalidState, ValueError),
        (UnknownAggregateType, LookupError),
        (UnknownSubscription, LookupError),
    ],
)
def test_an_error_is_also_what_django_or_python_calls_it(cls, base):
    assert issubclass(cls, base)
