"""Ordered scans that break off, again and again: they resume, or end."""

import dataclasses

import pytest
from pymongo.errors import AutoReconnect

from ossy_event_store.mongodb import resumable_scan
from ossy_event_store.mongodb.ports import drive_each


def test_a_scan_resumes_where_it_broke_off(store, lend, monkeypatch):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    for number in range(4):
        lend(f"b-{number}", *["BookReturned"] * 4)
    whole = store.events.batches
    breaks = iter([2, 1, 3])

    class Flaky:
        async def batches(self, query, size, **options):
            left = next(breaks, 1000)
            async for batch in whole(query, size, **options):
                yield batch
                left -= 1
                if not left:
                    raise AutoReconnect("the primary is gone")

    flaky = dataclasses.replace(store, events=Flaky())
    events = [e for batch in drive_each(resumable_scan.scan(flaky, {})) for e in batch]
    keys = [(e["aggregateId"], e["aggregateVersion"]) for e in events]
    assert keys == [(f"b-{n}", v) for n in range(4) for v in range(1, 5)]


def test_a_scan_without_progress_ends(store, lend, monkeypatch, settings):
    monkeypatch.setattr(resumable_scan, "BATCH", 3)
    settings.OSSY_EVENT_STORE = {**settings.OSSY_EVENT_STORE, "TIMEOUT": 0.5}
    lend("b-1", *["BookReturned"] * 8)
    opened, whole = [], store.events.batches

    class Stuck:
        async def batches(self, query, size, **options):
            opened.append(query)
            assert len(opened) < 50, "it would never end"
            left = 2
            async for batch in whole(query, size, **options):
                yield batch
                left -= 1
                if not left:
                    raise AutoReconnect("at the third batch, again and again")

    stuck = dataclasses.replace(store, events=Stuck())
    with pytest.raises(AutoReconnect):
        list(drive_each(resumable_scan.scan(stuck, {})))
    assert len(opened) > 1
