"""export_events: where it writes, what it selects, what a failure leaves behind."""

import gzip
import io
import os
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from ossy_event_store import EventStore
from ossy_event_store.management.commands import export_events as export_command
from ossy_event_store.management.commands._base import (
    INTERRUPTED,
    WRONG_USE,
    Progress,
)
from tests.support.commands import Standard, failure, run
from tests.support.event_lines import stored

pytestmark = pytest.mark.versions


def streams_in(lines):
    return sorted({text.split('"aggregateId":"')[1][0] for text in lines})


def export(tmp_path, *args, name="out.jsonl"):
    path = tmp_path / name
    run("export_events", *args, "--output", str(path))
    return path.read_text().splitlines()


def test_every_event_is_exported_to_a_file(books, tmp_path):
    assert len(export(tmp_path)) == 4


def test_an_export_leaves_only_its_file(books, tmp_path):
    export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_export_to_a_file_reports_on_stderr(books, tmp_path):
    out, err = run("export_events", output=str(tmp_path / "x"))
    assert out == ""
    assert err.startswith("4 events in ")


def test_an_export_without_verbosity_prints_nothing(books, tmp_path):
    assert run("export_events", output=str(tmp_path / "x"), verbosity=0) == ("", "")


def test_a_gzipped_export_has_the_same_lines(books, tmp_path):
    plain = export(tmp_path)
    run("export_events", output=str(tmp_path / "out.gz"))
    with gzip.open(tmp_path / "out.gz", "rt") as file:
        assert file.read().splitlines() == plain


def test_two_gzipped_exports_are_equal_to_the_byte(books, tmp_path):
    names = ["one.gz", "two.gz"]
    for name in names:
        run("export_events", output=str(tmp_path / name))
    one, two = ((tmp_path / name).read_bytes() for name in names)
    assert one == two


def test_without_a_file_an_export_goes_to_stdout(books, tmp_path, monkeypatch):
    standard = Standard()
    monkeypatch.setattr(sys, "stdout", standard)
    call_command("export_events", stderr=io.StringIO())
    assert standard.buffer.getvalue().decode().splitlines() == export(tmp_path)


def test_an_export_goes_to_the_stdout_of_call_command(books, tmp_path):
    out, _ = run("export_events")
    assert out.splitlines() == export(tmp_path)


def test_an_export_to_stdout_is_utf_8_whatever_the_locale(store, monkeypatch):
    EventStore.append_event(
        {"aggregateId": "ü", "aggregateType": "Ü", "type": "T", "createdBy": "💧"}
    )
    standard = Standard()
    monkeypatch.setattr(sys, "stdout", standard)
    call_command("export_events", stderr=io.StringIO())
    assert "💧" in standard.buffer.getvalue().decode()


@pytest.mark.parametrize(
    ("selection", "streams"),
    [
        (["--type", "Book"], ["a", "b"]),
        (["--type", "Reader"], ["r"]),
        (["--type", "Reader", "--type", "Book"], ["a", "b", "r"]),
        (["--id", "b"], ["b"]),
        (["--id", "b", "--id", "r"], ["b", "r"]),
        (["--type", "Book", "--id", "b"], ["b"]),
    ],
    ids=" ".join,
)
def test_types_and_ids_select_what_is_exported(books, tmp_path, selection, streams):
    assert streams_in(export(tmp_path, *selection)) == streams


@pytest.mark.parametrize(
    "twice", [["--type", "Book"] * 2, ["--id", "a", "--id", "b", "--id", "a"]]
)
def test_streams_selected_twice_are_exported_once(books, tmp_path, twice):
    assert len(export(tmp_path, *twice)) == 3


def test_a_type_without_events_is_wrong_use_and_the_error_lists_the_types(books):
    error = failure("export_events", types=["Cook"])
    assert error.returncode == WRONG_USE
    assert str(error) == "There are no events of type 'Cook'. Types: Book, Reader."


def test_an_unknown_id_is_wrong_use_and_the_error_lists_similar_ids(books):
    error = failure("export_events", ids=["c"])
    assert error.returncode == WRONG_USE
    assert str(error) == "Stream 'c' does not exist. Ids next to it: a, b, r."


def test_an_unknown_id_of_an_empty_store_says_so(store):
    assert "The store is empty." in str(failure("export_events", ids=["c"]))


def test_an_unknown_type_of_an_empty_store_says_so(store):
    assert "Types: none." in str(failure("export_events", types=["Book"]))


def test_an_id_with_quotes_and_dollars_is_only_a_name(books):
    assert failure("export_events", ids=['{"$ne": 1}']).returncode == WRONG_USE


class Broken(Exception):
    pass


@pytest.fixture
def breaking(monkeypatch):
    """Let an export fail after its first lines."""

    async def export(*args):
        yield "half\n"
        raise Broken

    monkeypatch.setattr(export_command, "export_events", export)


@pytest.mark.parametrize("name", ["out.jsonl", "out.gz"])
def test_a_failed_export_leaves_no_file(books, tmp_path, breaking, name):
    with pytest.raises(Broken):
        run("export_events", output=str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_an_older_one(books, tmp_path, breaking):
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(Broken):
        run("export_events", output=str(path))
    assert path.read_text() == "old"


def test_an_export_replaces_an_older_one(books, tmp_path):
    (tmp_path / "out.jsonl").write_text("old")
    assert len(export(tmp_path)) == 4


def test_ctrl_c_ends_an_export_with_130_and_leaves_no_file(
    books, tmp_path, monkeypatch
):
    def press(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", press)
    error = failure("export_events", output=str(tmp_path / "out"))
    assert error.returncode == INTERRUPTED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/out.jsonl", ".", "", "folder", "folder.gz"])
def test_an_output_that_cannot_be_written_is_wrong_use(
    books, tmp_path, monkeypatch, name
):
    for folder in ("folder", "folder.gz"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    assert failure("export_events", output=name).returncode == WRONG_USE


NAMED_PIPES = pytest.mark.skipif(
    not hasattr(os, "mkfifo"), reason="no named pipes here"
)


@NAMED_PIPES
def test_an_export_into_a_named_pipe_leaves_the_pipe(books, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    run("export_events", output=str(pipe))
    assert pipe.is_fifo()
    assert os.read(reader, 1 << 16).count(b"\n") == 4
    os.close(reader)


@pytest.fixture
def pipe(tmp_path):
    """Return a function that makes a named pipe with a reader."""
    readers = []

    def pipe(name):
        os.mkfifo(tmp_path / name)
        readers.append(os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK))
        return str(tmp_path / name), readers[-1]

    yield pipe
    for reader in readers:
        os.close(reader)


@NAMED_PIPES
def test_an_export_into_a_pipe_is_gzipped_if_its_name_says_so(books, pipe):
    name, reader = pipe("pipe.gz")
    run("export_events", output=name)
    assert gzip.decompress(os.read(reader, 1 << 16)).count(b"\n") == 4


@NAMED_PIPES
@pytest.mark.parametrize("error", [ValueError("no"), OSError("no")], ids=repr)
def test_an_error_during_an_export_into_a_pipe_is_not_taken_for_one_of_the_pipe(
    books, pipe, monkeypatch, error
):
    async def export(*args):
        yield "half\n"
        raise error

    monkeypatch.setattr(export_command, "export_events", export)
    with pytest.raises(type(error)):
        run("export_events", output=pipe("pipe")[0])


def test_an_export_through_a_link_is_gzipped_if_the_link_says_so(books, tmp_path):
    (tmp_path / "link.gz").symlink_to(tmp_path / "latest")
    run("export_events", output=str(tmp_path / "link.gz"))
    run("import_events", str(tmp_path / "link.gz"))
    assert gzip.decompress((tmp_path / "latest").read_bytes()).count(b"\n") == 4


def test_an_export_through_a_link_leaves_the_link(books, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    export(tmp_path, name="link.jsonl")
    assert link.is_symlink()


def test_an_export_ends_quietly_when_its_reader_closes_the_pipe(
    books, monkeypatch, capfd
):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        call_command("export_events", stderr=io.StringIO())
        monkeypatch.undo()  # the teardown of the test uses stdout


# A full disk, a power cut, and others in the same folder

FULL_DEVICE = Path("/dev/full")
FULL = pytest.mark.skipif(not FULL_DEVICE.exists(), reason="no such device here")


@pytest.fixture
def full_disk():
    """Let no file of this process grow: to writers that is like a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["out.jsonl", "out.gz"])
def test_an_export_onto_a_full_disk_is_an_error_in_one_line(
    books, tmp_path, full_disk, name
):
    error = str(failure("export_events", output=str(tmp_path / name)))
    assert error == f"{tmp_path / name}: File too large. The export is not complete."
    assert list(tmp_path.iterdir()) == []


@FULL
def test_an_export_into_a_full_device_is_an_error_in_one_line(books):
    error = str(failure("export_events", output="/dev/full"))
    assert error.startswith("/dev/full: No space left on device. The export is not")


@FULL
def test_an_export_to_a_full_stdout_is_an_error_in_one_line(books, monkeypatch, capfd):
    with FULL_DEVICE.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(CommandError, match=r"^stdout: No space left on device"):
            call_command("export_events", stderr=io.StringIO())
        monkeypatch.undo()  # the teardown of the test uses stdout


def test_an_export_is_on_the_disk_before_it_gets_its_name(books, tmp_path, monkeypatch):
    synced, names = [], []

    def fsync(number):
        synced.append(os.fstat(number).st_ino)
        names.append([path.name for path in tmp_path.iterdir()])

    monkeypatch.setattr(os, "fsync", fsync)
    export(tmp_path)
    file, folder = (tmp_path / "out.jsonl").stat(), tmp_path.stat()
    assert synced == [file.st_ino, folder.st_ino]
    assert names[0] != ["out.jsonl"] == names[1]


def test_an_export_follows_no_link_beside_its_file(books, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.write_text("precious")
    monkeypatch.setattr(export_command, "token_hex", lambda bytes: "0")
    for name in (".export_events-0.part", "out.jsonl.part"):
        (tmp_path / name).symlink_to(other)
    error = failure("export_events", output=str(tmp_path / "out.jsonl"))
    assert error.returncode == WRONG_USE
    assert other.read_text() == "precious"


def test_of_two_exports_to_one_name_the_later_one_stays_and_is_complete(
    books, tmp_path, monkeypatch
):
    whole = export(tmp_path)
    real = export_command.export_events

    async def slow(*args):
        async for lines in real(*args):
            yield lines
            monkeypatch.undo()
            assert export(tmp_path) == whole  # by another process meanwhile

    monkeypatch.setattr(export_command, "export_events", slow)
    assert export(tmp_path) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


# Documents that are not events


def test_documents_that_are_not_events_are_named_and_left_out(books, history, tmp_path):
    event = {"aggregateId": "a", "aggregateType": "Book", "type": "T"}
    broken = [(name, value) for name in event for value in (None, 0.5)]
    broken += [("aggregateVersion", "1"), ("resourceId", 1)]
    history.insert_many(
        [
            {**event, "_id": str(number), "aggregateVersion": 10 + number, name: value}
            for number, (name, value) in enumerate(broken)
        ]
    )
    history.update_one({"resourceId": 1}, {"$unset": dict.fromkeys(event, "")})
    path = tmp_path / "out.jsonl"
    out, err = run("export_events", output=str(path), verbosity=0)
    assert len(path.read_text().splitlines()) == 4
    assert out == ""
    assert err.startswith("Passed over 8 documents that are no events (")
    assert "'7': aggregateId is missing; " in err
    assert "'0': aggregateId must be a string, not NoneType; " in err
    assert err.rstrip().endswith("; …).")


def test_export_drop_import_and_export_are_equal_to_the_byte(books, history, tmp_path):
    before = stored()
    export(tmp_path)
    history.delete_many({})
    run("import_events", str(tmp_path / "out.jsonl"))
    assert stored() == before
    first = (tmp_path / "out.jsonl").read_bytes()
    export(tmp_path, name="again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == first
