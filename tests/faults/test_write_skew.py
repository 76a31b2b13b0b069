"""Conditions on streams that are not written hold as if appends came one by one."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import (
    ConcurrencyError,
    EventStore,
    StoreUnavailable,
)
from ossy_event_store.streams.transactions.unit_of_work import UnitOfWork
from tests.support.faults import by_url
from tests.support.serialisable import order_of

pytestmark = [pytest.mark.faults, by_url]

THREADS, ROUNDS = 8, 2000
CONFLICTS = 0.05  # of the reads and writes inside of the storage engine


def streams():
    prefix = random.randbytes(4).hex()
    return [f"{prefix}-{number}" for number in range(4)]


def version_of(stream):
    return (EventStore.get_stream_info(stream) or {"aggregateVersion": 0})[
        "aggregateVersion"
    ]


def one_round(names):
    """Append to a stream, on the condition that two others are where they were read."""
    event = {"type": "Tested", "aggregateType": "Test"}
    stream, *others = random.sample(names, 3)
    if random.random() < 0.15:
        EventStore.append_event({**event, "aggregateId": stream})
        return True
    known = {other: version_of(other) for other in (stream, *others)}
    expected = {stream: known.pop(stream)}
    event["metadata"] = {"read": known}
    try:
        EventStore.append_streams({stream: [event]}, expected=expected, unchanged=known)
    except (ConcurrencyError, StoreUnavailable):
        return False
    return True


def rounds(names, count):
    start = threading.Barrier(THREADS)

    def work(_):
        start.wait(30)
        return sum(one_round(names) for _ in range(count // THREADS))

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(work, range(THREADS)))


def history(names):
    return [event for name in names for event in EventStore.get_event_stream(name)]


def conflicts(member):
    """Let the storage engine of a server report conflicts that there are none of."""
    mode = {"activationProbability": CONFLICTS}
    return member.fail_point("WTWriteConflictException", mode)


def test_every_history_has_an_order_that_explains_it(member):
    names = streams()
    with conflicts(member):
        stored = rounds(names, ROUNDS)
    events = history(names)
    assert len(order_of(events)) == len(events) == stored
    assert sum("read" in event["metadata"] for event in events) > ROUNDS / 10


def test_the_checker_finds_a_store_without_guards(member, monkeypatch):
    send = UnitOfWork._send

    async def without_guards(self, versions, guards):
        await send(self, versions, [])

    monkeypatch.setattr(UnitOfWork, "_send", without_guards)
    names = streams()
    with conflicts(member):
        rounds(names, ROUNDS)
    with pytest.raises(ValueError, match="no order explains"):
        order_of(history(names))


@pytest.mark.parametrize(
    ("reads", "is_explained"),
    [
        ({("a", 1): {"b": 0}, ("b", 1): {}}, True),
        ({("a", 1): {"b": 0}, ("b", 1): {"a": 1}}, True),
        ({("a", 1): {"b": 0}, ("b", 1): {"a": 0}}, False),
        ({("a", 1): {"b": 0}, ("b", 1): {"c": 0}, ("c", 1): {"a": 0}}, False),
        ({("a", 1): {"b": 1}, ("b", 1): {}, ("b", 2): {"a": 0}}, False),
    ],
)
def test_the_checker_itself(reads, is_explained):
    events = [
        {"aggregateId": stream, "aggregateVersion": version, "metadata": {"read": read}}
        for (stream, version), read in reads.items()
    ]
    if is_explained:
        assert len(order_of(events)) == len(events)
    else:
        with pytest.raises(ValueError, match="no order explains"):
            order_of(events)
