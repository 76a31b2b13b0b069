"""The commands of manage.py: what they print, how they end, what they leave behind."""

import contextlib
import gzip
import io
import os
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper

from ossy_event_store import Aggregate, EventStore, registry
from ossy_event_store.management.commands import export_events as export_command
from ossy_event_store.management.commands import rebuild_aggregates as rebuild_command
from ossy_event_store.management.commands._base import (
    INTERRUPTED,
    WRONG_USE,
    Progress,
    duration,
)
from ossy_event_store.streams import import_export
from tests.streams.test_import_export import line, stored, stream


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Standard:
    """A standard stream of bytes, as ``sys.stdin`` and ``sys.stdout`` are."""

    def __new__(cls, content=b""):
        return io.TextIOWrapper(io.BytesIO(content), encoding="ascii")


def run(*args, **options):
    """Run a command and return what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command(*args, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def failure(*args, **options):
    with pytest.raises(CommandError) as caught:
        run(*args, **options)
    return caught.value


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
    monkeypatch.setattr(import_export, "BATCH", 3)


# import_events


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


def test_a_second_import_says_what_was_there(store, write):
    name = write(stream("b", 3))
    run("import_events", name)
    out, _ = run("import_events", name)
    assert out.startswith("0 events were stored, 3 were there already; ")


def test_a_dry_run_says_what_would_be_stored(store, write):
    out, _ = run("import_events", write(stream("b", 3)), dry_run=True)
    assert out.startswith("3 events would be stored; ")
    assert count() == 0


def test_an_import_without_verbosity_says_nothing(store, write):
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
def test_a_file_of_another_editor_is_imported(store, write, content):
    run("import_events", write(content.encode()))
    assert count() == 1


def test_what_looks_like_a_line_end_inside_a_line_is_kept(store, write):
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
    ids=["UTF-16 mark", "Latin-1", "UTF-16", "half a line", "NULs", "text"],
)
def test_a_file_that_is_not_lines_of_json_is_refused(store, write, content, reason):
    error = failure("import_events", write(content))
    assert str(error).startswith(reason)
    assert error.returncode == 1
    assert count() == 0


def test_a_truncated_gzip_is_refused_with_what_it_holds_stored(store, write, batch):
    whole = Path(write(stream("b", 3000), "whole.gz")).read_bytes()
    name = write(b"")
    Path(name + ".gz").write_bytes(whole[: len(whole) // 2])
    error = failure("import_events", name + ".gz")
    assert "the file cannot be read: Compressed file ended" in str(error)
    assert f"{count():,} events before it were" in str(error)


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


def test_a_refused_line_says_what_to_do(store, write):
    error = str(failure("import_events", write([line(), line(version=3)])))
    assert error.startswith("line 2, aggregateVersion: 3 does not follow on 1, ")
    assert "0 events before it were" in error
    assert error.endswith("Mend the line and run the import again.")


@pytest.mark.parametrize("before", [0, 1, 3, 4])
def test_a_stopped_import_says_how_many_events_are_stored(store, write, batch, before):
    EventStore.append_event(
        {"aggregateId": "z", "aggregateType": "Z", "type": "T", "id": "taken"}
    )
    lines = [*stream("b", before), line("c"), line("d", _id="taken")]
    error = failure("import_events", write(lines))
    assert f"{count() - 1} events before it were" in str(error)


def test_the_store_keeps_nothing_of_a_batch_of_which_nothing_was_stored(store, write):
    EventStore.append_event(
        {"aggregateId": "z", "aggregateType": "Z", "type": "T", "id": "taken"}
    )
    error = failure("import_events", write([line("c"), line("d", _id="taken")]))
    said_nothing = "Nothing of its batch was stored" in str(error)
    assert (count() == 1) == said_nothing


def test_ctrl_c_ends_an_import_with_130_and_says_how_far(
    store, write, batch, monkeypatch
):
    def press(self, done, *args):
        if done == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", press)
    error = failure("import_events", write(stream("b", 9)))
    assert error.returncode == INTERRUPTED
    assert str(error).startswith("Stopped: 6 events were stored; ")
    assert count() == 6


def test_the_share_of_the_file_gives_the_time_left(store, write, batch, monkeypatch):
    shown = []
    monkeypatch.setattr(
        Progress, "show", lambda self, *args: shown.append(self.text(*args))
    )
    run("import_events", write(stream("b", 9)))
    assert all(" of " in text for text in shown)


def test_the_summary_of_an_import_of_nothing_divides_by_nothing(store, write):
    out, _ = run("import_events", write([]), dry_run=True)
    assert "0 events would be stored" in out


# export_events


@pytest.fixture
def books(lend):
    lend("a", "BookBought", "BookLent")
    lend("b", "BookBought")
    EventStore.append_event(
        {"aggregateId": "r", "aggregateType": "Reader", "type": "Joined"}
    )


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


def test_an_export_to_a_file_says_how_much_on_stderr(books, tmp_path):
    out, err = run("export_events", output=str(tmp_path / "x"))
    assert out == ""
    assert err.startswith("4 events in ")


def test_an_export_without_verbosity_says_nothing(books, tmp_path):
    assert run("export_events", output=str(tmp_path / "x"), verbosity=0) == ("", "")


def test_a_gzipped_export_holds_the_same(books, tmp_path):
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


def test_an_export_goes_to_the_stdout_that_call_command_was_given(books, tmp_path):
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
    ("chosen", "streams"),
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
def test_a_subset_is_exported_by_type_and_id(books, tmp_path, chosen, streams):
    assert streams_in(export(tmp_path, *chosen)) == streams


@pytest.mark.parametrize(
    "twice", [["--type", "Book"] * 2, ["--id", "a", "--id", "b", "--id", "a"]]
)
def test_what_is_chosen_twice_is_exported_once(books, tmp_path, twice):
    assert len(export(tmp_path, *twice)) == 3


def test_a_type_without_events_is_wrong_use_and_lists_those_there(books):
    error = failure("export_events", types=["Cook"])
    assert error.returncode == WRONG_USE
    assert str(error) == "There are no events of type 'Cook'. Types: Book, Reader."


def test_an_unknown_id_is_wrong_use_and_lists_those_around(books):
    error = failure("export_events", ids=["c"])
    assert error.returncode == WRONG_USE
    assert str(error) == "There is no stream 'c'. Ids around it: a, b, r."


def test_an_unknown_id_of_an_empty_store_says_so(store):
    assert "The store is empty." in str(failure("export_events", ids=["c"]))


def test_an_unknown_type_of_an_empty_store_says_so(store):
    assert "Types: none." in str(failure("export_events", types=["Book"]))


@pytest.mark.parametrize("command", ["export_events", "rebuild_aggregates"])
@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800"], ids=["", "256", "half"])
def test_an_id_that_none_can_have_is_wrong_use(books, command, name):
    assert failure(command, ids=[name]).returncode == WRONG_USE


def test_an_id_with_quotes_and_dollars_is_only_a_name(books):
    assert failure("export_events", ids=['{"$ne": 1}']).returncode == WRONG_USE


class Broken(Exception):
    pass


@pytest.fixture
def breaking(monkeypatch):
    """An export that breaks off after its first lines."""

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
    """A named pipe whose reader is there; ``pipe(name)`` returns its path."""
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
def test_what_breaks_an_export_into_a_pipe_is_not_blamed_on_the_pipe(
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


def test_an_export_goes_on_quietly_when_its_reader_has_had_enough(
    books, monkeypatch, capfd
):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        call_command("export_events", stderr=io.StringIO())
        monkeypatch.undo()  # what tidies up after the test looks at stdout


def test_export_drop_import_and_export_are_equal_to_the_byte(books, history, tmp_path):
    before = stored()
    export(tmp_path)
    history.delete_many({})
    run("import_events", str(tmp_path / "out.jsonl"))
    assert stored() == before
    first = (tmp_path / "out.jsonl").read_bytes()
    export(tmp_path, name="again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == first


# rebuild_aggregates


@pytest.fixture
def broken(monkeypatch):
    """A reducer that cannot take one kind of event; ``broken.error`` is raised."""

    class Broken:
        aggregate_type = "Broken"
        revision = "1"
        error = ValueError("no such shelf")

        @classmethod
        def view(cls, events, saved_state):
            if any(event["type"] == "Bad" for event in events):
                raise cls.error
            return {"seen": len(events) + saved_state.get("seen", 0)}

    known = dict(registry._registered)
    monkeypatch.setattr(registry, "_registered", known)
    registry.register_aggregate(Broken)
    for name, kinds in {"x": ["Good"], "y": ["Good", "Bad"]}.items():
        EventStore.append_events(
            [
                {"aggregateId": name, "aggregateType": "Broken", "type": kind}
                for kind in kinds
            ]
        )
    return Broken


def snapshots():
    return {s["_id"]: s["aggregateVersion"] for s in Aggregate.collection.find()}


def rebuild(*args, **options):
    return run("rebuild_aggregates", "--noinput", *args, **options)


def test_every_snapshot_is_rebuilt(books):
    out, err = rebuild()
    assert out.startswith("Rebuilt 3 streams, 4 events in ")
    assert out.endswith("; 3 snapshots written\n")
    assert err == ""
    assert snapshots() == {"a": 2, "b": 1, "r": 1}


def test_a_rebuild_without_verbosity_says_nothing(books):
    assert rebuild(verbosity=0) == ("", "")


def test_a_rebuild_of_an_empty_store_is_no_error(store):
    assert rebuild()[0].startswith("Rebuilt 0 streams, 0 events")


@pytest.mark.parametrize(
    ("chosen", "streams"),
    [
        (["--type", "Book"], "ab"),
        (["--type", "Book", "--type", "Reader"], "abr"),
        (["--id", "a"], "a"),
        (["--id", "a", "--id", "r"], "ar"),
        (["--type", "Book", "--id", "b"], "b"),
        (["--stale"], "abr"),
        (["--stale", "--type", "Reader"], "r"),
        (["--stale", "--id", "a"], "a"),
    ],
    ids=" ".join,
)
def test_only_what_is_chosen_is_rebuilt(books, chosen, streams):
    rebuild(*chosen)
    assert sorted(snapshots()) == list(streams)


@pytest.mark.parametrize(
    "twice", [["--type", "Book"] * 2, ["--id", "a", "--id", "a", "--id", "b"]]
)
def test_what_is_chosen_twice_is_rebuilt_once(books, twice):
    assert rebuild(*twice)[0].startswith("Rebuilt 2 streams, 3 events")


def test_a_stale_rebuild_leaves_what_is_current(books):
    rebuild()
    Aggregate.collection.delete_one({"_id": "a"})
    assert rebuild("--stale")[0].startswith("Rebuilt 1 streams")


def test_a_rebuild_mends_a_state_that_is_wrong(books):
    rebuild()
    right = Aggregate.find("a")["state"]
    Aggregate.collection.update_one({"_id": "a"}, {"$set": {"state": {"wrong": 1}}})
    rebuild()
    assert Aggregate.find("a")["state"] == right


def test_an_unregistered_type_is_wrong_use_and_lists_those_there(books):
    error = failure("rebuild_aggregates", types=["Cook"])
    assert error.returncode == WRONG_USE
    assert "No aggregate class is registered under 'Cook'." in str(error)
    assert "Book" in str(error)


def test_nothing_registered_is_wrong_use(store, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    error = failure("rebuild_aggregates")
    assert error.returncode == WRONG_USE
    assert "decorate it with @register_aggregate" in str(error)


def test_an_unknown_stream_is_wrong_use(books):
    error = failure("rebuild_aggregates", ids=["c"])
    assert error.returncode == WRONG_USE
    assert "Ids around it: a, b, r." in str(error)


@pytest.mark.parametrize("command", ["export_events", "rebuild_aggregates"])
def test_a_stream_of_another_type_is_wrong_use(books, command):
    error = failure(command, ids=["r"], types=["Book"])
    assert error.returncode == WRONG_USE
    assert str(error) == "Stream 'r' is of type 'Reader', not of Book."


def test_a_failed_stream_gives_exit_code_1_and_is_named(books, broken):
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("rebuild_aggregates", interactive=False, stdout=out, stderr=err)
    assert caught.value.returncode == 1
    assert err.getvalue() == (
        "FAILED Broken 'y', version 2: ValueError: no such shelf\n"
    )
    assert ", 1 FAILED" in str(caught.value)


def test_a_failed_stream_does_not_keep_the_others(books, broken):
    failure("rebuild_aggregates", interactive=False)
    assert snapshots() == {"a": 2, "b": 1, "r": 1, "x": 1}


def test_a_failed_stream_keeps_its_old_snapshot(broken):
    old = {"_id": "y", "aggregateType": "Broken", "aggregateVersion": 1, "state": {}}
    Aggregate.collection.insert_one(old)
    failure("rebuild_aggregates", interactive=False)
    assert Aggregate.find("y") == old


def test_failures_are_told_even_without_verbosity(broken):
    err = io.StringIO()
    with pytest.raises(CommandError):
        call_command("rebuild_aggregates", interactive=False, stderr=err, verbosity=0)
    assert "FAILED Broken 'y'" in err.getvalue()


def test_of_many_failures_some_are_told_and_the_rest_counted(broken, monkeypatch):
    monkeypatch.setattr(rebuild_command, "SHOWN_FAILURES", 1)
    EventStore.append_events(
        [{"aggregateId": "z", "aggregateType": "Broken", "type": "Bad"}]
    )
    err = io.StringIO()
    with pytest.raises(CommandError):
        call_command("rebuild_aggregates", interactive=False, stderr=err)
    assert err.getvalue().endswith("… and 1 more.\n")


def test_a_state_that_cannot_be_stored_is_a_failure_too(store, broken, monkeypatch):
    monkeypatch.setattr(broken, "view", staticmethod(lambda events, state: {"a": {1}}))
    assert ", 2 FAILED" in str(failure("rebuild_aggregates", interactive=False))


def test_ctrl_c_in_a_reducer_ends_with_130_and_says_how_far(books, broken):
    broken.error = KeyboardInterrupt()
    error = failure("rebuild_aggregates", interactive=False)
    assert error.returncode == INTERRUPTED
    assert str(error).startswith("Stopped: 3 streams, 4 events in ")
    assert "run it again, with --stale" in str(error)


def test_ctrl_c_between_batches_ends_with_130(books, monkeypatch):
    def press(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", press)
    assert failure("rebuild_aggregates", interactive=False).returncode == INTERRUPTED


def test_what_was_rebuilt_before_ctrl_c_stays(books, broken):
    broken.error = KeyboardInterrupt()
    failure("rebuild_aggregates", interactive=False)
    assert snapshots() == {"a": 2, "b": 1}


# The question


@pytest.fixture
def ask(monkeypatch):
    """Sit at a terminal and answer; without an answer no question is expected."""

    def ask(answer=None, terminal=True):
        def reply():
            assert answer is not None, "asked"
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(sys, "stdin", Terminal() if terminal else io.StringIO())
        monkeypatch.setattr("builtins.input", reply)

    return ask


@pytest.mark.parametrize("answer", ["y", "Y", "yes", " YES "])
def test_a_rebuild_of_all_begins_after_a_yes(books, ask, answer):
    ask(answer)
    run("rebuild_aggregates")
    assert len(snapshots()) == 3


@pytest.mark.parametrize("answer", ["", "n", "no", "yo", "1"])
def test_any_other_answer_rebuilds_nothing(books, ask, answer):
    ask(answer)
    error = failure("rebuild_aggregates")
    assert str(error) == "Nothing was rebuilt."
    assert snapshots() == {}


def test_the_end_of_the_input_is_a_no(books, ask):
    ask(EOFError())
    assert str(failure("rebuild_aggregates")) == "Nothing was rebuilt."


def test_ctrl_c_at_the_question_ends_with_130(books, ask):
    ask(KeyboardInterrupt())
    assert failure("rebuild_aggregates").returncode == INTERRUPTED


@pytest.mark.parametrize(
    "chosen",
    [["--noinput"], ["--no-input"], ["--stale"], ["--type", "Book"], ["--id", "a"]],
)
def test_a_subset_or_noinput_is_rebuilt_without_a_question(books, ask, chosen):
    ask()
    run("rebuild_aggregates", *chosen)
    assert snapshots()


def test_without_a_terminal_there_is_no_question(books, ask):
    ask(terminal=False)
    run("rebuild_aggregates")
    assert len(snapshots()) == 3


def test_a_wrong_type_is_told_before_the_question(books, ask):
    ask()
    assert failure("rebuild_aggregates", types=["Cook"]).returncode == WRONG_USE


# Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def progress(out, total=None, verbosity=1):
    clock = Clock()
    return Progress(OutputWrapper(out), total, verbosity, clock), clock


@pytest.mark.parametrize(
    ("total", "done", "seconds", "text"),
    [
        (None, 0, 0, "0 events, 0 events/s"),
        (None, 1500, 3, "1,500 events, 500 events/s"),
        (3000, 1500, 3, "1,500 of 3,000 events (50%), 500 events/s, 3 s left"),
        (3000, 0, 3, "0 of 3,000 events (0%), 0 events/s"),
        (3000, 3000, 3, "3,000 of 3,000 events (100%), 1,000 events/s"),
        (3000, 3100, 1, "3,100 of 3,100 events (100%), 3,100 events/s"),
        (0, 5, 1, "5 events, 5 events/s"),
        (7300, 100, 1, "100 of 7,300 events (1%), 100 events/s, 1 min 12 s left"),
        (10**6, 100, 1, "100 of 1,000,000 events (0%), 100 events/s, 2 h 46 min left"),
    ],
)
def test_progress_is_count_share_rate_and_time_left(total, done, seconds, text):
    assert progress(io.StringIO(), total)[0].text(done, seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min")],
)
def test_a_duration_is_rounded_to_whole_seconds(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_has_one_moving_line(store):
    out = Terminal()
    shown, clock = progress(out)
    for done in (1, 2):
        clock.now += 0.2
        shown.show(done, 1, "2 streams")
    assert out.getvalue() == (
        "\r\x1b[K1 events, 1 events/s, 2 streams\r\x1b[K2 events, 2 events/s, 2 streams"
    )


def test_the_moving_line_is_wiped_at_the_end():
    out = Terminal()
    shown, clock = progress(out)
    clock.now = 1
    shown.show(1, 1)
    shown.end()
    shown.end()
    assert out.getvalue().count("\r\x1b[K") == 2
    assert out.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("out", "every"), [(Terminal(), 0.2), (io.StringIO(), 10)])
def test_progress_is_not_shown_more_often_than_need_be(out, every):
    shown, clock = progress(out)
    clock.now = every * 0.99
    shown.show(1, 1)
    assert out.getvalue() == ""
    clock.now = every
    shown.show(1, 1)
    assert out.getvalue()


def test_a_log_file_gets_whole_lines_and_no_escapes():
    out = io.StringIO()
    shown, clock = progress(out)
    clock.now = 10
    shown.show(1, 1)
    shown.end()
    assert out.getvalue() == "1 events, 1 events/s\n"


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()])
def test_progress_without_verbosity_writes_nothing(out):
    shown, clock = progress(out, verbosity=0)
    clock.now = 100
    shown.show(1, 1)
    shown.end()
    assert out.getvalue() == ""


def test_a_rebuild_shows_its_progress_on_a_terminal(books, monkeypatch):
    monkeypatch.setattr(Progress, "EVERY_ON_TERMINAL", 0)
    out = Terminal()
    call_command("rebuild_aggregates", interactive=False, stdout=out, no_color=True)
    assert " of 4 events (" in out.getvalue()
    assert "3 streams" in out.getvalue()


def test_a_rebuild_shows_failures_while_it_runs(broken, monkeypatch):
    monkeypatch.setattr(Progress, "EVERY_ON_TERMINAL", 0)
    out = Terminal()
    with contextlib.suppress(CommandError):
        call_command("rebuild_aggregates", interactive=False, stdout=out)
    assert "1 FAILED" in out.getvalue()


# All of them


@pytest.mark.parametrize(
    "command",
    [["export_events"], ["rebuild_aggregates"], ["ensure_event_store"]],
    ids=lambda c: c[0],
)
def test_a_server_that_is_not_there_is_one_line(command, settings):
    if settings.STORE != "url":
        pytest.skip("the server is that of DATABASES")
    url = "mongodb://ann:s3cret@127.0.0.1:1/x"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.05}
    error = failure(*command)
    assert str(error).startswith("The event store is not available: ")
    assert "s3cret" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("command", ["export_events", "rebuild_aggregates"])
def test_nothing_configured_is_one_line(command, settings, monkeypatch):
    monkeypatch.delenv("DB_URL", raising=False)
    settings.OSSY_EVENT_STORE = {}
    assert "Nothing says where" in str(failure(command, types=["Book"]))


def test_indexes_are_made_once(store):
    EventStore.collection.drop_index("aggregateId_1_aggregateVersion_1")
    first, _ = run("ensure_event_store")
    assert first.startswith("Made eventstore.aggregateId_1_aggregateVersion_1: Reads")
    assert run("ensure_event_store")[0] == "Every index is there.\n"
