"""Any store is verified, in little memory, and nothing is written."""

import random
import threading
import tracemalloc
from collections import Counter

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ossy_event_store import Aggregate, AggregateRebuild
from ossy_event_store.verification.options import Sizes
from tests.support.verification import (
    LONG_AGO,
    SMALL,
    append,
    break_stream,
    found,
    in_order,
    look,
    stream,
)


def test_nothing_is_written(library):
    for name in ("a hole in the middle", "a snapshot ahead"):
        break_stream(library, name, "b-10")
    break_stream(library, "a lost stream", "b-09")
    choices = [{}, {"types": ["Reader", "Book"]}, {"ids": ["b-10"]}]
    choices.append({"since": LONG_AGO})
    database = library.database
    before = list(Aggregate.collection.find())
    database.command("profile", 2)
    try:
        for options in choices:
            assert not look(sizes=SMALL, **options).ok
    finally:
        database.command("profile", 0)
    ops = Counter(p["op"] for p in database["system.profile"].find())
    database.drop_collection("system.profile")
    assert set(ops) <= {"query", "command", "getmore"}
    assert list(Aggregate.collection.find()) == before


def test_a_verification_while_many_append_finds_nothing(library):
    stop = threading.Event()
    failures = []

    def write(name):
        try:
            number = 0
            while not stop.is_set():
                number += 1
                append(f"{name}-{number % 7}", number % 3 + 1)
                stop.wait(0.01)
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        for round_ in range(8):
            sizes = Sizes(events=20, streams=5)
            report = look(sizes=sizes, sample=None if round_ % 2 else 3)
            assert report.findings == []
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert look().events > 100


# --- any store ---------------------------------------------------------------

ANY = hypothesis_settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZES = st.sampled_from([1, 2, 3, 7, 1000])
IDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=3
)
STREAMS = st.dictionaries(
    IDS, st.tuples(st.sampled_from(["Book", "Reader"]), st.integers(1, 9)), max_size=8
)


def fill(history, streams, lag):
    history.delete_many({})
    Aggregate.collection.delete_many({})
    events = [
        one
        for name, (kind, length) in streams.items()
        for one in stream(name, length, aggregateType=kind)
    ]
    random.Random(lag).shuffle(events)
    if events:
        history.insert_many(events)
    AggregateRebuild.build_and_save_all()
    for name, (kind, length) in list(streams.items())[::2]:  # their snapshots lag
        history.insert_many(stream(name, length + lag, aggregateType=kind)[length:])


def lose(history, one, length, saved):
    history.delete_one(one)
    name, at = one["aggregateId"], one["aggregateVersion"]
    if at < length:
        return [("hole", name, (at, at))]
    if length == 1:
        return [("snapshot-orphan", name, (1, 1))]
    return [("snapshot-ahead", name, (saved, saved))] if saved == length else []


def make_float(history, one, length, saved):
    at = one["aggregateVersion"]
    history.update_one(one, {"$set": {"aggregateVersion": float(at)}})
    return [("event", one["aggregateId"], (at, at))]


def spoil_a_field(history, one, length, saved):
    history.update_one(one, {"$set": {"createdBy": 7}})
    return [("event", one["aggregateId"], (one["aggregateVersion"],) * 2)]


def lead(history, one, length, saved):
    ahead = length + one["aggregateVersion"]
    change = {"$set": {"aggregateVersion": ahead}}
    Aggregate.collection.update_one({"_id": one["aggregateId"]}, change)
    return [("snapshot-ahead", one["aggregateId"], (ahead, ahead))]


def change_a_state(history, one, length, saved):
    change = {"$set": {"state.extra": one["aggregateVersion"]}}
    Aggregate.collection.update_one({"_id": one["aggregateId"]}, change)
    return [("snapshot-state", one["aggregateId"], (saved, saved))]


def retype(history, one, length, saved):
    if one["aggregateVersion"] == 1:
        return []
    history.update_one(one, {"$set": {"aggregateType": "Cook"}})
    return [("type", one["aggregateId"], (one["aggregateVersion"],) * 2)]


ANY_BREAK = st.sampled_from(
    [lose, make_float, spoil_a_field, lead, change_a_state, retype]
)


@pytest.mark.usefixtures("store")
@ANY
@given(streams=STREAMS, lag=st.integers(1, 2), batch=SIZES, page=SIZES, data=st.data())
def test_any_sound_store_is_sound_and_any_broken_one_is_not(
    history, streams, lag, batch, page, data
):
    sizes = Sizes(events=batch, streams=page, compared_streams=page)
    fill(history, streams, lag)
    assert found(look(sizes=sizes)) == []
    expected = []
    lagging = list(streams)[::2]
    for name, (_, length) in streams.items():
        if data.draw(st.booleans(), label=f"break {name!r}"):
            whole = length + (lag if name in lagging else 0)
            at = data.draw(st.integers(1, whole))
            one = {"aggregateId": name, "aggregateVersion": at}
            expected += data.draw(ANY_BREAK)(history, one, whole, length)
    assert found(look(sizes=sizes)) == in_order(expected)
    chosen = [name for name in streams if data.draw(st.booleans())]
    assert found(look(sizes=sizes, ids=chosen)) == in_order(
        one for one in expected if one[1] in chosen
    )


# --- memory ------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("sample", [100, None])
def test_memory_does_not_grow_with_the_store(store, history, sample):
    sizes = Sizes(streams=100)

    def peak(streams):
        history.insert_many(
            one
            for number in range(streams)
            for one in stream(f"{streams}-{number:06}", 10)
        )
        AggregateRebuild.build_and_save_all()
        tracemalloc.start()
        try:
            report = look(sizes=sizes, sample=sample)
            assert report.ok
            return report.events, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    look(sizes=sizes, sample=sample)  # what is imported and cached by the first one
    few, early = peak(250)
    many, late = peak(1_000)
    assert many == 5 * few
    assert late < early * 1.08
