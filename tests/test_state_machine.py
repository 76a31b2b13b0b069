"""The store against a model of it: a list of events for every stream."""

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateRebuild,
    ConcurrencyError,
    EventStore,
    IdempotencyConflict,
    InvalidEvent,
)
from ossy_event_store.mongodb import connection
from tests.conftest import Face
from tests.library.aggregate import Book

STREAMS = ("one", "two")
streams = st.sampled_from(STREAMS)
kinds = st.sampled_from(["BookBought", "BookLent", "BookReturned", "BookRead"])
names = st.sampled_from(["ann", "Ö", "", "$set", "a.b", None])
payloads = st.builds(lambda to, n: {"to": to, "n": n}, names, st.integers(-9, 2**40))
contents = st.builds(lambda kind, p: {"type": kind, "payload": p}, kinds, payloads)
faces = st.sampled_from(["blocking", "awaitable"])


class Library(RuleBasedStateMachine):
    """Does to the store and to the model whatever a program might do."""

    loaded = Bundle("loaded")
    stored = Bundle("stored")

    @initialize()
    def begin(self):
        store = connection.blocking()
        for documents in (store.events, store.snapshots):
            connection.raw(documents).delete_many({})
        self.runner = asyncio.Runner()
        self.model = {stream: [] for stream in STREAMS}
        self.snapshots = {}
        self.ids = itertools.count(1)
        self.touched = set()

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.close()

    def face(self, name):
        return Face(self.runner if name == "awaitable" else None)

    def with_ids(self, events):
        return [{**event, "id": f"event-{next(self.ids)}"} for event in events]

    def record(self, stream, events):
        self.touched.add(stream)
        self.model[stream] += events
        return multiple(*((stream, event) for event in events))

    # --- append, right and wrong

    @rule(target=loaded, stream=streams, face=faces)
    def load(self, stream, face):
        load = self.face(face)
        if not self.model[stream]:
            with pytest.raises(AggregateNotFound):
                load(Aggregate.of, Book, stream)
            return multiple()
        book = load(Aggregate.of, Book, stream)
        assert book.version == len(self.model[stream])
        return book

    @rule(target=stored, stream=streams, event=contents, face=faces)
    def create(self, stream, event, face):
        (event,) = self.with_ids([event])
        first = {**event, "aggregateId": stream}
        if self.model[stream]:
            with pytest.raises(ConcurrencyError):
                self.face(face)(Aggregate.of, Book, first)
            return multiple()
        assert self.face(face)(Aggregate.of, Book, first).version == 1
        return self.record(stream, [event])

    @rule(
        target=stored,
        book=loaded,
        events=st.lists(contents, min_size=1, max_size=3),
        face=faces,
    )
    def add(self, book, events, face):
        events = self.with_ids(events)
        before, end = book.version, len(self.model[book.id])
        if before == end:
            assert self.face(face)(book.add, *events) is book
            assert book.version == end + len(events)
            return self.record(book.id, events)
        with pytest.raises(ConcurrencyError) as caught:
            self.face(face)(book.add, *events)
        assert (caught.value.expected_version, caught.value.actual_version) == (
            before,
            end,
        )
        assert book.version == before
        self.touched.add(book.id)
        return multiple()

    @rule(
        target=stored,
        stream=streams,
        events=st.lists(contents, min_size=1, max_size=3),
        off=st.sampled_from([None, 0, 0, 0, -1, 1, 2]),
        face=faces,
    )
    def append(self, stream, events, off, face):
        """Append at the end of the stream, or at a right or wrong expected version."""
        events, end = self.with_ids(events), len(self.model[stream])
        raw = [{**e, "aggregateId": stream, "aggregateType": "Book"} for e in events]
        expected = None if off is None else max(0, end + off)
        append = self.face(face)
        if expected in (None, end):
            documents = append(EventStore.append_events, raw, expected_version=expected)
            versions = [document["aggregateVersion"] for document in documents]
            assert versions == list(range(end + 1, end + 1 + len(events)))
            return self.record(stream, events)
        with pytest.raises(ConcurrencyError) as caught:
            append(EventStore.append_events, raw, expected_version=expected)
        assert caught.value.actual_version == end
        self.touched.add(stream)
        return multiple()

    @rule(
        target=stored,
        stream=streams,
        events=st.lists(contents, max_size=3),
        face=faces,
    )
    def execute(self, stream, events, face):
        events = self.with_ids(events)
        seen = []

        def decide(book):
            seen.append(book.version)
            return events

        book = self.face(face)(Aggregate.execute, Book, stream, decide)
        assert seen == [len(self.model[stream])]
        result = self.record(stream, events)
        assert book.version == len(self.model[stream])
        return result

    @rule(stream=streams, event=contents, face=faces)
    def add_what_cannot_be_stored(self, stream, event, face):
        wrong = {**event, "payload": {"at": {1, 2}}}
        raw = {"aggregateId": stream, "aggregateType": "Book"}
        with pytest.raises(InvalidEvent, match=r"payload\.at"):
            self.face(face)(
                EventStore.append_events, [{**event, **raw}, {**wrong, **raw}]
            )
        self.touched.add(stream)

    # --- the same id again

    @rule(of=stored, face=faces)
    def append_again(self, of, face):
        stream, event = of
        raw = {**event, "aggregateId": stream, "aggregateType": "Book"}
        document = self.face(face)(EventStore.append_event, raw)
        assert document["_id"] == event["id"]
        assert document["aggregateVersion"] == 1 + self.model[stream].index(event)
        self.touched.add(stream)

    @rule(of=stored, other=contents, stream=streams, face=faces)
    def append_other_content_under_an_id(self, of, other, stream, face):
        at, event = of
        other = {**other, "id": event["id"]}
        if (at, event) == (stream, other):
            return
        raw = {**other, "aggregateId": stream, "aggregateType": "Book"}
        with pytest.raises(IdempotencyConflict) as caught:
            self.face(face)(EventStore.append_event, raw)
        assert caught.value.event_id == event["id"]
        self.touched.update((at, stream))

    @rule(of=stored, new=contents, face=faces)
    def append_a_new_event_with_an_old_one(self, of, new, face):
        stream, event = of
        raw = {"aggregateId": stream, "aggregateType": "Book"}
        both = [{**e, **raw} for e in self.with_ids([new])] + [{**event, **raw}]
        with pytest.raises(IdempotencyConflict):
            self.face(face)(EventStore.append_events, both)
        self.touched.add(stream)

    # --- snapshots

    @rule(book=loaded, face=faces)
    def save(self, book, face):
        self.face(face)(book.save)
        before = self.snapshots.get(book.id, 0)
        self.snapshots[book.id] = max(before, book.version)
        self.touched.add(book.id)

    @rule(stream=streams, event=contents, face=faces)
    def save_after_a_newer_one(self, stream, event, face):
        if not self.model[stream]:
            return
        old, new = (Aggregate.of(Book, stream) for _ in "12")
        (event,) = self.with_ids([event])
        new.add(event).save()
        self.face(face)(old.save)
        self.record(stream, [event])
        self.snapshots[stream] = new.version

    @rule(book=consumes(loaded))
    def forget(self, book):
        """An aggregate that was loaded is used no more."""

    @rule()
    def lose_snapshots(self):
        Aggregate.collection.delete_many({})
        self.snapshots.clear()

    @rule(stale=st.booleans(), face=faces)
    def rebuild(self, stale, face):
        report = self.face(face)(AggregateRebuild.build_and_save_all, stale=stale)
        filled = {s: len(events) for s, events in self.model.items() if events}
        behind = [s for s, n in filled.items() if self.snapshots.get(s) != n]
        assert report.ok
        assert report.streams == len(behind if stale else filled)
        self.snapshots = filled
        self.touched.update(STREAMS)

    # --- what must hold

    @invariant()
    def the_store_equals_the_model(self):
        for stream in getattr(self, "touched", ()):
            self.check(stream)
        self.touched = set()

    def check(self, stream):
        model = self.model[stream]
        documents = EventStore.get_event_stream(stream)
        assert [d["aggregateVersion"] for d in documents] == [
            n + 1 for n in range(len(model))
        ]
        assert [content(document) for document in documents] == model
        snapshot = Aggregate.find(stream)
        assert (snapshot or {}).get("aggregateVersion", 0) == self.snapshots.get(
            stream, 0
        )
        if snapshot:
            part = documents[: snapshot["aggregateVersion"]]
            assert snapshot["state"] == Book.view(part, {})
        if model:
            book = Aggregate.of(Book, stream)
            assert book.view() == Book.view(documents, {})
            assert book.saved_version == self.snapshots.get(stream, 0)


def content(document):
    return {k: document[k] for k in ("type", "payload")} | {"id": document["_id"]}


def test_the_store_equals_its_model_whatever_a_program_does(store):
    run_state_machine_as_test(
        Library,
        settings=hypothesis_settings(
            deadline=None,
            database=None,
            max_examples=40,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
