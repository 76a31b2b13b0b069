"""The command ``verify_event_store``."""

import io
import json
from functools import partial

import pytest
from django.core.management import CommandError, ManagementUtility, call_command
from django.utils import timezone

from ossy_event_store.documents.display import counted
from ossy_event_store.management.commands import verify_event_store
from ossy_event_store.management.commands._base import INTERRUPTED, WRONG_USE, Progress
from ossy_event_store.verification import event_checks
from tests.support.commands import Terminal, failure, run
from tests.support.verification import (
    BREAKS,
    SMALL_PROJECTIONS,
    break_stream,
    event,
    look,
)


def verified(*args, **options):
    """Run the command and return what it wrote to stdout."""
    out, err = run("verify_event_store", *args, **options)
    assert err == ""
    return out


def refused(*args, **options):
    """Run the command, which must fail; return stdout and the error."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(
            "verify_event_store", *args, stdout=out, stderr=io.StringIO(), **options
        )
    return out.getvalue(), caught.value


def test_a_sound_store_is_reported_in_one_line(library):
    assert verified().startswith(
        "Verified 21 streams, 60 events, 21 snapshots, 21 of them compared, in "
    )
    assert verified().endswith(" events/s): sound\n")
    assert verified().count("\n") == 1


def test_without_verbosity_a_sound_store_is_reported_by_silence(library):
    assert verified(verbosity=0) == ""


def test_the_command_counts_what_was_not_compared_with_the_reason(library):
    assert verified(sample=5).startswith(
        "Not compared: 16 snapshots not in the sample."
    )
    assert verified("--sample", "0").startswith("Not compared: 21 snapshots not in")


def test_all_compares_all(library):
    assert "5 of them compared" in verified("--sample", "5")
    assert "21 of them compared" in verified("--all")
    assert "21 of them compared" in verified(everything=True, sample=5)


def test_findings_are_printed_and_the_exit_code_is_1(library):
    break_stream(library, "a hole in the middle")
    out, error = refused()
    assert out.splitlines()[:2] == [
        "hole: stream 'b-10', version 3: expected an event of each version, found none "
        "before version 4",
        "1 hole: versions are missing before the end of a stream",
    ]
    assert error.returncode == 1
    assert str(error).startswith("Verified 21 streams, 59 events, ")
    assert str(error).endswith(": 1 FINDING")
    assert refused(verbosity=0)[0] == "\n".join(out.splitlines()[:2]) + "\n"


def test_some_of_many_findings_are_printed_and_the_rest_counted(library, monkeypatch):
    monkeypatch.setattr(verify_event_store.Command, "printed_findings", 2)
    library.delete_many({"aggregateVersion": 1})
    out, _ = refused(sample=0)
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["hole", "hole"]
    assert lines[2].startswith("… and ")
    assert any(" hole: versions are missing" in line for line in lines[3:])
    assert any(" snapshot-orphan: a snapshot has no stream" in line for line in lines)


def test_json_is_one_document(library):
    document = json.loads(verified("--json"))
    assert document.pop("seconds") > 0
    assert document == {
        "sound": True,
        "streams": 21,
        "events": 60,
        "accepted": 0,
        "snapshots": 21,
        "compared": 21,
        "not_compared": {},
        "projections": None,
        "projections_compared": 0,
        "documents": 0,
        "documents_compared": 0,
        "documents_not_compared": {},
        "found": {},
        "findings": [],
    }


def test_json_holds_every_finding(with_lists):
    for name in BREAKS:
        if name.startswith("another event"):
            # The unique index allows one event without a version.
            with_lists.delete_many({"aggregateVersion": None})
            break_stream(with_lists, name)
            with_lists.delete_many({"aggregateVersion": 8, "type": "BookLent"})
    break_stream(with_lists, "a hole in the middle")
    with_lists.insert_one(event(["a", "b"], 1))
    out, error = refused("--json")
    document = json.loads(out)
    assert error.returncode == 1
    assert document["sound"] is False
    assert len(document["findings"]) == sum(document["found"].values())
    assert {
        "kind": "hole",
        "aggregate_id": "b-10",
        "versions": [3, 3],
        "subject": "",
        "expected": "an event of each version",
        "found": "none before version 4",
    } in document["findings"]


def test_json_keeps_its_progress_to_stderr(library, monkeypatch):
    monkeypatch.setattr(Progress, "LOG_SECONDS", 0)
    out, err = run("verify_event_store", "--json")
    assert json.loads(out)["sound"]
    assert " events (" in err


def test_a_verification_shows_its_progress_on_a_terminal(library, monkeypatch):
    monkeypatch.setattr(Progress, "TERMINAL_SECONDS", 0)
    break_stream(library, "payload [1]", "b-09")
    out = Terminal()
    with pytest.raises(CommandError):
        call_command("verify_event_store", stdout=out, no_color=True)
    assert " events (" in out.getvalue()
    assert ", 1 finding" in out.getvalue()


CHOICES = [
    (["--type", "Reader"], 4),
    (["--type", "Reader", "--type", "Book"], 21),
    (["--id", "b-10"], 1),
    (["--id", "b-10", "--id", "b-10", "--id", "b-11"], 2),
    (["--type", "Book", "--id", "b-10"], 1),
    (["--since", "2025-12-31"], 21),
    (["--since", "2026-01-01T00:00:00Z"], 21),
    (["--since", "2026-01-01T01:30+01:00"], 0),
    (["--since", "2026-01-02"], 0),
    (["--since", "2025-12-31", "--type", "Reader"], 4),
]


def test_the_command_verifies_the_chosen_streams(library):
    for args, streams in CHOICES:
        assert verified(*args).startswith(f"Verified {counted(streams, 'stream')}, ")


def test_since_without_an_offset_is_in_the_current_time_zone(library):
    with timezone.override("Asia/Tokyo"):  # nine hours ahead
        assert verified("--since", "2026-01-01 09:00").startswith("Verified 21 ")
        assert verified("--since", "2026-01-01 09:01").startswith("Verified 0 ")


WRONG = [
    (
        ["--type", "Cook"],
        "There are no events of type 'Cook'. Types: Book, Reader.",
    ),
    (["--id", "b-1"], "Stream 'b-1' does not exist. Ids next to it: b-05, "),
    (["--id", ""], "aggregate_id must have 1 to 255 characters"),
    (["--id", "x\0"], "aggregate_id must not contain a NUL"),
    (
        ["--id", "b-10", "--type", "Reader"],
        "'b-10' is of type 'Book'; expected Reader",
    ),
    (["--since", "yesterday"], "--since 'yesterday' is not a date"),
    (["--since", "24h"], "--since '24h' is not a date"),
    (["--since", ""], "--since '' is not a date"),
    (["--since", "2026-02-30"], "--since '2026-02-30' is not a date"),
    (["--sample", "-1"], "--sample is -1; it must be 0 or more"),
]


def test_wrong_use_is_reported_and_exits_with_2(library):
    for args, text in WRONG:
        error = failure("verify_event_store", *args)
        assert text in str(error), args
        assert error.returncode == WRONG_USE, args


@pytest.mark.parametrize("args", [["--all", "--sample", "5"], ["--sample", "many"]])
def test_options_that_exclude_each_other_are_wrong_use(store, args, capsys):
    with pytest.raises(SystemExit) as caught:
        ManagementUtility(["manage.py", "verify_event_store", *args]).execute()
    assert caught.value.code == WRONG_USE
    assert "verify_event_store: error: argument --" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a hole at the beginning", "a lost stream"])
def test_what_is_left_of_a_stream_can_be_verified(library, name):
    (expected,) = break_stream(library, name)
    for kind in ([], ["--type", "Book"]):
        out, error = refused("--id", "b-10", *kind)
        assert out.startswith(f"{expected[0]}: stream 'b-10', ")
        assert error.returncode == 1


def test_ctrl_c_exits_with_130_and_reports_the_progress(library, monkeypatch):
    def press(self, done, *args):
        if done > 500:
            raise KeyboardInterrupt

    monkeypatch.setattr(event_checks, "HEARTBEAT", {"$sampleRate": 1.0})
    monkeypatch.setattr(Progress, "show", press)
    error = failure("verify_event_store")
    assert error.returncode == INTERRUPTED
    assert str(error).startswith("Stopped: 0 streams, 0 events, ")
    assert str(error).endswith(" so far.")


def test_a_missing_server_is_reported_in_one_line(settings):
    if settings.STORE != "url":
        pytest.skip("the server is that of DATABASES")
    url = "mongodb://ann:s3cret@127.0.0.1:1/x"
    settings.OSSY_EVENT_STORE = {"URL": url, "TIMEOUT": 0.05}
    error = failure("verify_event_store")
    assert str(error).startswith("The event store is not available: ")
    assert "s3cret" not in str(error)
    assert "\n" not in str(error)
    assert error.returncode == 1


# --- projections -------------------------------------------------------------


def test_the_command_counts_projections_and_documents(built):
    out, err = run("verify_event_store", "--projections")
    assert err == ""
    assert ", 1 projection, 2 documents, 2 of them compared, in " in out
    assert out.endswith("sound\n")


def test_the_command_counts_documents_that_were_not_compared(many):
    out, _ = run("verify_event_store", "--projections", "--sample", "0")
    lines = out.splitlines()
    text = "Not compared: 40 documents of projection loans: not in the sample."
    assert lines[0] == text
    assert lines[1].endswith("sound, but 1 projection not compared")


def test_the_command_reports_that_no_projection_is_registered(
    store, loans, monkeypatch
):
    monkeypatch.setattr("ossy_event_store.projections.projection._registered", {})
    out, _ = run("verify_event_store", "--projections")
    assert "Not compared: no projection is registered.\n" in out


def test_a_finding_in_a_document_is_a_line(built):
    built.delete_one({"_id": "bob"})
    error = failure("verify_event_store", "--projections", "--all")
    assert error.returncode == 1
    assert str(error).endswith(": 1 FINDING")
    (finding,) = look(projections=True).findings
    assert str(finding) == (
        "projection-document: document 'bob' of projection loans: expected what its "
        "events fold to, found no document"
    )


def test_json_has_the_counts_of_projections(many):
    document = json.loads(run("verify_event_store", "--projections", "--json")[0])
    assert document["sound"]
    assert document["projections"] == document["projections_compared"] == 1
    assert document["documents"] == document["documents_compared"] == 40
    assert document["documents_not_compared"] == {}
    document = json.loads(run("verify_event_store", "--json")[0])
    assert document["projections"] is None


def test_progress_names_the_projection(many, monkeypatch):
    verify = partial(look, projection_sizes=SMALL_PROJECTIONS)
    monkeypatch.setattr(verify_event_store, "verify_event_store", verify)
    monkeypatch.setattr(Progress, "LOG_SECONDS", 0)
    _, err = run("verify_event_store", "--projections", "--json")
    assert "40 of 80 events (50%)" in err
    assert "left, projection loans\n" in err


@pytest.mark.parametrize(
    "choice", [["--type", "Book"], ["--id", "a"], ["--since", "2020-01-01"]], ids=str
)
def test_projections_of_some_streams_are_wrong_use(choice):
    error = failure("verify_event_store", "--projections", *choice)
    assert error.returncode == WRONG_USE
    assert str(error) == (
        "--projections cannot be combined with --type, --id or --since: a document of "
        "a projection is made from events of many streams."
    )
