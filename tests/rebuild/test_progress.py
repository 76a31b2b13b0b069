"""The recorded progress of a full rebuild, which another one resumes."""

from ossy_event_store import Aggregate, AggregateRebuild
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.rebuild.progress import RebuildProgress
from ossy_event_store.rebuild.ranges import Part, Partition, Span
from ossy_event_store.rebuild.tallies import tallies
from tests.library.aggregate import Book
from tests.support.rebuild import done_ids, recorded, run, states


def test_a_resumed_rebuild_folds_what_was_not_written(store, face, interrupted, folded):
    interrupted()
    done = set(states())
    assert len(done) >= 6
    Aggregate.collection.delete_one({"_id": "b-00"})  # it is not looked at again
    folded.clear()
    report = face(AggregateRebuild.build_and_save_all, resume=True)
    assert not done & set(folded)
    assert (report.streams, report.resumed) == (21 - len(done), len(done))
    assert "b-00" not in states()
    assert len(states()) == 20
    books = drive(tallies(store))[0]
    assert (books.streams, books.events) == (20, 39)


def test_what_is_folded_but_not_written_is_not_done(store, interrupted, folded):
    interrupted("b-11")
    assert "b-10" in folded
    assert "b-10" not in states()
    assert done_ids(store) == set(states())


def test_a_finished_rebuild_is_not_resumed(store, face, interrupted):
    interrupted()
    face(AggregateRebuild.build_and_save_all, resume=True)
    report = face(AggregateRebuild.build_and_save_all, resume=True)
    assert (report.streams, report.resumed) == (21, 0)
    assert (
        report.restart_reason
        == "no rebuild of these types and this share was interrupted"
    )


def test_a_rebuild_without_resume_replaces_the_recorded_progress(store, interrupted):
    interrupted("b-10")
    interrupted("b-01")
    assert len(done_ids(store)) <= 1


def test_with_a_changed_reducer_it_starts_again_and_says_why(store, interrupted, shout):
    interrupted()
    shout()
    out, _ = run("--resume")
    assert "Nothing to resume: the reducer of Book has changed since." in out
    assert "Rebuilt 21 streams" in out
    assert {state[1] for i, state in states().items() if i[0] == "b"} == {"shouted"}


def test_with_other_types_it_starts_again_and_says_why(store, interrupted):
    interrupted(types=["Book"])
    report = AggregateRebuild.build_and_save_all(resume=True)
    assert report.restart_reason == "the interrupted rebuild was of other types: Book"
    assert report.streams == 21


def test_each_share_is_resumed_on_its_own(store, interrupted, folded):
    at = next(f"b-{n:02}" for n in range(10, 20) if f"b-{n:02}" in Partition(0, 2))
    interrupted(at, partition=(0, 2))
    done = set(states())
    assert done
    folded.clear()
    other = AggregateRebuild.build_and_save_all(partition=(1, 2), resume=True)
    assert (other.resumed, other.restart_reason[:10]) == (0, "no rebuild")
    folded.clear()
    own = AggregateRebuild.build_and_save_all(partition=(0, 2), resume=True)
    assert own.resumed == len(done)
    assert not done & set(folded)
    assert len(states()) == 21


def test_a_failure_before_the_interruption_is_in_the_report(
    store, interrupted, monkeypatch
):
    whole = Book.view

    def view(events, state):
        if events[0]["aggregateId"] == "b-02":
            raise ValueError("torn")
        return whole(events, state)

    monkeypatch.setattr(Book, "view", staticmethod(view))
    interrupted()
    report = AggregateRebuild.build_and_save_all(resume=True)
    assert (report.ok, report.failed) == (False, 1)
    assert (
        str(report.failures[0])
        == "Book 'b-02', version 1 (BookBought): ValueError: torn"
    )
    assert drive(tallies(store))[0].failures == {"b-02": 1}


def test_a_rebuild_does_not_touch_the_progress_of_a_later_one(store, books):
    first, second = (RebuildProgress(store, [Book], None) for _ in range(2))
    part = Part(Span("Book"), "b-05")
    drive(first.begin([part]))
    drive(second.begin([part]))
    drive(first.finish())
    assert len(recorded(store)["parts"]) == 1


def test_progress_is_not_written_more_often_than_needed(store, books):
    progress = RebuildProgress(store, [Book], None)
    drive(progress.begin([Part(Span("Book"))]))
    drive(progress.save([Part(Span("Book"), "b-05")]))
    assert recorded(store)["parts"][0]["done"] is None
