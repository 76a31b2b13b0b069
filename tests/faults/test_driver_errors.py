"""What the driver's errors say, each one made real."""

import contextlib

import pymongo
import pytest
from nanoid import generate
from pymongo.errors import BulkWriteError, PyMongoError, WriteError
from pymongo.write_concern import WriteConcern

from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.write_errors import NOT_PRIMARY, Fault, classify
from tests.support import servers
from tests.support.faults import (
    EXPIRED,
    FAST,
    NO_SUCH_TRANSACTION,
    SHUTTING_DOWN,
    TIMED_OUT,
    UNSATISFIABLE,
    WRITE_CONFLICT,
    by_url,
    database,
    fail_command,
    open_transaction,
    replication_stopped,
)

pytestmark = [pytest.mark.faults, by_url]


@contextlib.contextmanager
def rival(member, **options):
    """Events of a plain client with no retries, and an error that it should meet."""
    app = generate()
    with pymongo.MongoClient(
        "127.0.0.1",
        member.port,
        directConnection=True,
        retryWrites=False,
        appname=app,
        serverSelectionTimeoutMS=3000,
        **FAST,
    ) as client:
        yield (
            client[database()].get_collection(
                connection.EVENTS, write_concern=WriteConcern("majority", **options)
            ),
            app,
        )


def event_of(stream, version=1, **more):
    return {"aggregateId": stream, "aggregateVersion": version, **more}


def error_of(call, *args, **kwargs):
    with pytest.raises(PyMongoError) as caught:
        call(*args, **kwargs)
    return caught.value


def insert_in_transaction(events, documents, before_commit=None):
    client = events.database.client
    with (
        client.start_session() as session,
        session.start_transaction(write_concern=events.write_concern),
    ):
        events.insert_many(documents, session=session)
        if before_commit:
            before_commit(session)


@pytest.mark.parametrize(
    ("data", "name", "fault"),
    [
        ({"closeConnection": True}, "AutoReconnect", Fault.UNKNOWN),
        ({"errorCode": 10107}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": 189}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": 11602}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": 11600}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": SHUTTING_DOWN}, "NotPrimaryError", Fault.UNKNOWN),
        ({"errorCode": EXPIRED}, "ExecutionTimeout", Fault.UNKNOWN),
        ({"errorCode": 262}, "OperationFailure", Fault.UNKNOWN),
        ({"errorCode": WRITE_CONFLICT}, "OperationFailure", Fault.TRANSIENT),
        ({"errorCode": 365}, "OperationFailure", Fault.TRANSIENT),
        ({"errorCode": 13}, "OperationFailure", Fault.FATAL),
    ],
)
def test_an_insert_that_was_refused_or_cut_is_classified(member, data, name, fault):
    with rival(member) as (events, app):
        for documents in (1, 2):
            with fail_command(member, {"times": 1}, "insert", app=app, **data):
                many = [event_of(generate()) for _ in range(documents)]
                if documents == 1:
                    error = error_of(events.insert_one, many[0])
                else:
                    error = error_of(events.insert_many, many)
            assert (type(error).__name__, classify(error)) == (name, fault)


@pytest.mark.parametrize("code", [TIMED_OUT, SHUTTING_DOWN, UNSATISFIABLE])
def test_a_write_concern_that_failed_is_an_unknown_outcome(member, code):
    failed = {"code": code, "errmsg": "made up"}
    fail = {"writeConcernError": failed}
    with rival(member) as (events, app):
        with fail_command(member, {"times": 1}, "insert", app=app, **fail):
            one = error_of(events.insert_one, event_of(generate()))
        with fail_command(member, {"times": 1}, "insert", app=app, **fail):
            many = error_of(
                events.insert_many, [event_of(generate()) for _ in range(2)]
            )
    assert type(one).__name__ == "WriteConcernError"
    assert isinstance(many, BulkWriteError)
    assert many.details["writeErrors"] == []
    assert [classify(one), classify(many)] == [Fault.UNKNOWN] * 2


@pytest.mark.parametrize("code", sorted(NOT_PRIMARY))
def test_a_single_write_that_the_primary_gave_up_is_an_unknown_outcome(code):
    """Seen when a primary steps down during a write; no fail point does it."""
    assert classify(WriteError("made up", code)) is Fault.UNKNOWN


def test_a_duplicate_is_told_alone_among_several_and_in_a_transaction(member):
    with rival(member) as (events, _):
        taken = generate()
        events.insert_one(event_of(taken, _id=taken))
        errors = [
            error_of(events.insert_one, event_of(taken)),
            error_of(events.insert_one, event_of(generate(), _id=taken)),
            error_of(events.insert_many, [event_of(taken, 2), event_of(taken)]),
            error_of(insert_in_transaction, events, [event_of(taken)]),
        ]
    assert [classify(error) for error in errors] == [Fault.DUPLICATE] * 4


def test_what_no_retry_can_mend_is_fatal(member):
    with rival(member) as (events, _):
        database = events.database
        strict = database.create_collection(
            generate(), validator={"payload": {"$type": "object"}}
        )
        try:
            huge = {"payload": {"text": "x" * (16 * 1024 * 1024)}}
            errors = [
                error_of(strict.insert_one, {}),
                error_of(strict.insert_many, [{}, {}]),
                error_of(insert_in_transaction, strict, [{}]),
                error_of(strict.insert_one, huge),
            ]
        finally:
            strict.drop()
    assert errors[0].code == 121
    assert [classify(error) for error in errors] == [Fault.FATAL] * 4


def test_a_user_without_the_right_is_fatal(tmp_path):
    folder = tmp_path / "guarded"
    with (
        servers.running(folder, name=None, options=("--auth",)) as guarded,
        guarded.members[0].client() as client,
    ):
        error = error_of(client.test.events.insert_one, {})
    assert error.code == 13
    assert classify(error) is Fault.FATAL


def test_no_server_is_unsent():
    nobody = f"mongodb://127.0.0.1:{servers.free_port()}/"
    with pymongo.MongoClient(nobody, serverSelectionTimeoutMS=50) as client:
        assert classify(error_of(client.test.events.insert_one, {})) is Fault.UNSENT


@pytest.mark.parametrize(
    ("command", "data", "fault"),
    [
        ("insert", {"closeConnection": True}, Fault.TRANSIENT),
        ("insert", {"errorCode": 10107}, Fault.TRANSIENT),
        ("insert", {"errorCode": WRITE_CONFLICT}, Fault.TRANSIENT),
        ("insert", {"errorCode": NO_SUCH_TRANSACTION}, Fault.TRANSIENT),
        ("insert", {"errorCode": 13}, Fault.FATAL),
        ("commitTransaction", {"closeConnection": True}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": 10107}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": 11602}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": SHUTTING_DOWN}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": EXPIRED}, Fault.UNKNOWN),
        ("commitTransaction", {"errorCode": NO_SUCH_TRANSACTION}, Fault.TRANSIENT),
        ("commitTransaction", {"errorCode": WRITE_CONFLICT}, Fault.TRANSIENT),
        (
            "commitTransaction",
            {"writeConcernError": {"code": TIMED_OUT, "errmsg": "made up"}},
            Fault.UNKNOWN,
        ),
        (
            "commitTransaction",
            {"writeConcernError": {"code": SHUTTING_DOWN, "errmsg": "made up"}},
            Fault.UNKNOWN,
        ),
    ],
)
def test_an_error_in_a_transaction_is_classified(member, command, data, fault):
    with rival(member) as (events, app):
        # Twice: the driver repeats a commit once by itself.
        times = 2 if command == "commitTransaction" else 1
        with fail_command(member, {"times": times}, command, app=app, **data):
            error = error_of(insert_in_transaction, events, [event_of(generate())])
    assert classify(error) is fault


def test_real_ends_of_a_transaction_are_classified(member):
    def kill(session):
        session.client.admin.command("killSessions", [session.session_id])

    with rival(member) as (events, _), rival(member) as (others, _):
        killed = error_of(
            insert_in_transaction, events, [event_of(generate())], before_commit=kill
        )
        held = generate()
        with open_transaction(member, held, 1, held):
            conflict = error_of(insert_in_transaction, others, [event_of(held)])
            with pymongo.timeout(0.2):
                waited = error_of(others.insert_one, event_of(held))
    assert (killed.code, classify(killed)) == (NO_SUCH_TRANSACTION, Fault.TRANSIENT)
    assert (conflict.code, classify(conflict)) == (WRITE_CONFLICT, Fault.TRANSIENT)
    assert waited.timeout
    assert classify(waited) is Fault.UNKNOWN


def test_a_real_write_concern_time_out_is_an_unknown_outcome(replicated):
    primary = replicated.primary
    with replication_stopped(replicated), rival(primary, wtimeout=100) as (events, _):
        alone, first = generate(), generate()
        errors = [
            error_of(events.insert_one, event_of(alone, _id=alone)),
            error_of(events.insert_many, [event_of(first), event_of(first, 2)]),
            error_of(insert_in_transaction, events, [event_of(generate())]),
        ]
        # The driver does not say that the one which is there is not for good.
        again = error_of(events.insert_one, event_of(alone, _id=alone))
    names = [type(error).__name__ for error in errors]
    assert names[:2] == ["WTimeoutError", "BulkWriteError"]
    assert [classify(error) for error in errors] == [Fault.UNKNOWN] * 3
    assert "writeConcernError" not in again.details
    assert classify(again) is Fault.DUPLICATE
