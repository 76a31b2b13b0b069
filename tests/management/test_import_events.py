"""import_events: which files it reads, what it reports, how it stops."""

import gzip
import sys
from pathlib import Path

import pytest
from bson import json_util
from bson.json_util import (
    CANONICAL_JSON_OPTIONS,
    LEGACY_JSON_OPTIONS,
    RELAXED_JSON_OPTIONS,
)

from ossy_event_store import EventStore
from ossy_event_store.documents.display import counted
from ossy_event_store.documents.node_3 import SORT
from ossy_event_store.management.commands import import_events as import_command
from ossy_event_store.management.commands._base import (
    INTERRUPTED,
    WRONG_USE,
    Progress,
)
from ossy_event_store.mongodb import connection
from ossy_event_store.streams.import_events import ImportLimits
from tests.support.commands import Standard, failure, run
from tests.support.event_documents import NOW
from tests.support.event_lines import line, stream

pytestmark = pytest.mark.versions


def count():
    return EventStore.collection.count_documents({})


@pytest.fixture
def write(tmp_path):
    """Write lines, or bytes as they are, to a file and return its name."""

    def write(content, name="events.jsonl"):
        if not isinstance(content, bytes):
            content = "".join(text + "\n" for text in content).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return write


@pytest.fixture
def batch(monkeypatch):
    """Batches of three lines."""
    monkeypatch.setattr(import_command.Command, "limits", ImportLimits(lines=3))


def test_a_file_is_imported(store, write):
    out, err = run("import_events", write(stream("b", 3)))
    assert out.startswith("3 events were stored; ")
    assert err == ""
    assert count() == 3


def test_a_gzipped_file_is_imported(store, write):
    run("import_events", write(stream("b", 3), "events.jsonl.gz"))
    assert count() == 3


def test_stdin_is_imported(store, monkeypatch):
    content = "\n".join(stream("b", 2)).encode()
    monkeypatch.setattr(sys, "stdin", Standard(content))
    run("import_events", "-")
    assert count() == 2


def test_a_second_import_counts_what_already_existed(store, write):
    name = write(stream("b", 3))
    run("import_events", name)
    out, _ = run("import_events", name)
    assert out.startswith("0 events were stored, 3 already existed; ")


def test_a_dry_run_counts_what_would_be_stored(store, write):
    out, _ = run("import_events", write(stream("b", 3)), dry_run=True)
    assert out.startswith("3 events would be stored; ")
    assert count() == 0


def test_an_import_without_verbosity_prints_nothing(store, write):
    assert run("import_events", write(stream("b", 3)), verbosity=0) == ("", "")


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_an_empty_file_is_imported(store, write, name):
    out, _ = run("import_events", write(b"", name))
    assert out.startswith("0 events were stored")


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + line() + "\n",
        "\n\n" + line(),
        line() + "\r\n\r\n",
        line(payload={"a": "ü\u2028\x85"}, metadata={"b": "\ufeff"}),
    ],
    ids=["a BOM", "blank lines", "Windows", "other line ends"],
)
def test_a_file_from_any_editor_is_imported(store, write, content):
    run("import_events", write(content.encode()))
    assert count() == 1


def test_line_separators_inside_a_line_are_kept(store, write):
    run("import_events", write(line().replace("ann", "ü\u2028\x85").encode()))
    (event,) = EventStore.get_event_stream("b")
    assert event["payload"]["to"] == "ü\u2028\x85"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe{}", "line 1: not UTF-8: invalid start byte"),
        (line().encode() + b'\n{"a":"\xe4"}', "line 2: not UTF-8"),
        (line().encode("utf-16"), "line 1: not UTF-8"),
        (line().encode() + b"\n{", "line 2: not JSON"),
        (b"\0" * 100, "line 1: not JSON"),
        (b"\n\nx", "line 3: not JSON"),
    ],
    ids=["UTF-16 BOM", "Latin-1", "UTF-16", "half a line", "NULs", "text"],
)
def test_a_file_that_is_not_lines_of_json_is_refused(store, write, content, reason):
    error = failure("import_events", write(content))
    assert str(error).startswith(reason)
    assert error.returncode == 1
    assert count() == 0


def test_of_a_truncated_gzip_the_readable_events_are_stored(store, write, batch):
    whole = Path(write(stream("b", 3000), "whole.gz")).read_bytes()
    name = write(b"")
    Path(name + ".gz").write_bytes(whole[: len(whole) // 2])
    error = failure("import_events", name + ".gz")
    assert "the file cannot be read: Compressed file ended" in str(error)
    assert f"Stored {count():,} events before it." in str(error)


@pytest.mark.parametrize("damage", [b"", b"plain text"], ids=["flipped", "plain"])
def test_a_damaged_gzip_is_refused(store, write, tmp_path, damage):
    path = tmp_path / "events.gz"
    whole = bytearray(gzip.compress(b"\n".join(s.encode() for s in stream("b", 99))))
    whole[40] ^= 255
    path.write_bytes(damage or whole)
    error = failure("import_events", str(path))
    assert error.returncode == 1
    assert "line " in str(error)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.gz", ".", ""])
def test_a_file_that_cannot_be_opened_is_wrong_use(store, tmp_path, name):
    error = failure("import_events", str(tmp_path / name))
    assert error.returncode == WRONG_USE
    assert str(tmp_path) in str(error)


def test_the_error_of_a_refused_line_says_what_to_do(store, write):
    error = str(failure("import_events", write([line(), line(version=3)])))
    assert error.startswith("line 2, aggregateVersion: 3 does not follow 1, ")
    assert "Stored 0 events before it." in error
    assert error.endswith("Fix the line and run the import again.")


@pytest.mark.parametrize("before", [0, 1, 3, 4])
def test_a_stopped_import_says_how_many_events_are_stored(store, write, batch, before):
    EventStore.append_event(
        {"aggregateId": "z", "aggregateType": "Z", "type": "T", "id": "taken"}
    )
    lines = [*stream("b", before), line("c"), line("d", _id="taken")]
    error = failure("import_events", write(lines))
    assert f"Stored {counted(count() - 1, 'event')} before it." in str(error)


def test_the_error_says_whether_anything_of_a_batch_was_stored(store, write):
    EventStore.append_event(
        {"aggregateId": "z", "aggregateType": "Z", "type": "T", "id": "taken"}
    )
    error = failure("import_events", write([line("c"), line("d", _id="taken")]))
    is_empty = "Nothing of its batch was stored" in str(error)
    assert (count() == 1) == is_empty


def test_ctrl_c_ends_an_import_with_130_and_a_count(store, write, batch, monkeypatch):
    def press(self, done, *args):
        if done == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", press)
    error = failure("import_events", write(stream("b", 9)))
    assert error.returncode == INTERRUPTED
    assert str(error).startswith("Stopped: 6 events were stored; ")
    assert count() == 6


def test_progress_knows_the_share_of_the_file(store, write, batch, monkeypatch):
    shown = []
    monkeypatch.setattr(
        Progress, "show", lambda self, *args: shown.append(self.text(*args))
    )
    run("import_events", write(stream("b", 9)))
    assert all(" of " in text for text in shown)


def test_an_import_of_nothing_has_a_summary(store, write):
    out, _ = run("import_events", write([]), dry_run=True)
    assert "0 events would be stored" in out


# From the Node package 3.x


@pytest.fixture
def node_3(store, settings):
    """A database of that package."""
    if settings.ADMIN:
        pytest.skip("a site's user may not read another database")
    client = connection.raw(store.events).database.client
    database = client[f"{store.events.raw.database.name}_node_3"]
    database.eventstore.insert_many(
        {
            "event": "Placed",
            "type": "@shop/schema/order",
            "payload": {"n": 2**40, "at": NOW},
            "createdBy": "u1",
            "id": f"{version}-{number}",
            "created": 1709209815123.0 + number,
            "resourceId": "r",
            "version": version,
            "ip": "::1",
        }
        for version, number in [(2, 1), (1, 1), (2, 0)]
    )
    database.eventstore.insert_one({"aggregateId": "of an older version"})
    yield database
    client.drop_database(database.name)


def url_of(database):
    host, port = database.client.address
    return f"mongodb://{host}:{port}/{database.name}?directConnection=true"


OF_NODE_3 = [("1-1", 1), ("2-0", 2), ("2-1", 3)]


def imported():
    events = EventStore.get_event_stream("r")
    return [(event["_id"], event["aggregateVersion"]) for event in events]


def test_a_database_of_the_node_package_3_is_imported_and_again(node_3):
    for stored in (3, 0):
        out, err = run("import_events", from_node_3=url_of(node_3))
        assert out.startswith(f"{stored} events were stored")
        assert "1 events got another version, because their streams" in out
        assert err.startswith("Passed over 1 document that is no event (")
        assert imported() == OF_NODE_3


def test_a_file_of_the_node_package_3_is_imported(node_3, write):
    for mode in (CANONICAL_JSON_OPTIONS, RELAXED_JSON_OPTIONS, LEGACY_JSON_OPTIONS):
        documents = node_3.eventstore.find(sort=SORT)
        name = write([json_util.dumps(one, json_options=mode) for one in documents])
        run("import_events", from_node_3=name)
        assert imported() == OF_NODE_3
    (payload, *_) = [e["payload"] for e in EventStore.get_event_stream("r")]
    assert payload == {"n": 2**40, "at": NOW}


def test_an_event_of_the_node_package_3_that_cannot_be_stored_is_named(node_3):
    node_3.eventstore.update_one({"id": "2-1"}, {"$set": {"payload": "text"}})
    error = str(failure("import_events", from_node_3=url_of(node_3)))
    assert error.startswith("event '2-1', line ")
    assert "payload: must be a dict, not str. " in error


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "Expected either FILE or --from-node-3"),
        ({"file": "a", "from_node_3": "b"}, "Expected either FILE or --from-node-3"),
        ({"from_node_3": "missing.jsonl"}, "missing.jsonl: No such file"),
        ({"from_node_3": "mongodb://ann:secret@host"}, "mongodb://USER:PASSWORD@HOST"),
        ({"from_node_3": "http://ann:secret@host/x"}, "mongodb://USER:PASSWORD@HOST"),
    ],
    ids=str,
)
def test_a_source_that_cannot_be_opened_is_wrong_use(store, options, reason):
    error = failure("import_events", **options)
    assert error.returncode == WRONG_USE
    assert reason in str(error)
    assert "secret" not in str(error)


def test_a_source_that_does_not_answer_is_an_error_in_one_line(store, settings):
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.2}
    error = failure("import_events", from_node_3="mongodb://127.0.0.1:1/shop")
    assert str(error).startswith("Cannot read the database of --from-node-3: 127.0.0.1")


def test_an_import_into_the_database_of_the_node_package_3_is_refused(store, history):
    history.insert_one({"resourceId": "r", "version": 1})
    error = failure("import_events", from_node_3="mongodb://127.0.0.1:1/shop")
    assert "Point the event store at a database of its own" in str(error)
