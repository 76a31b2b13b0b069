"""``manage.py events tail --follow`` in another process, while a primary dies."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from bson import ObjectId

from ossy_event_store import EventStore, OutcomeUnknown, StoreUnavailable
from ossy_event_store.mongodb import location
from tests.support.faults import by_url, elect_another
from tests.support.servers import until
from tests.support.subscriptions import running

pytestmark = [pytest.mark.faults, by_url]

EVENTS, BATCH = 10_000, 100
ENVIRONMENT = {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_TIMEOUT": "5"}


class Tail:
    """A process that follows, and the lines that it has written."""

    def __init__(self, folder, url, *arguments):
        self.out, self.err = folder / "out", folder / "err"
        folder.mkdir()
        name = location.resolve().name
        environment = {"TEST_MONGODB_URL": url, "TEST_STORE_NAME": name}
        command = ["-m", "django", "events", "tail", "--follow", "--jsonl"]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *command, *arguments],
                env={**os.environ, **ENVIRONMENT, **environment},
                stdout=out,
                stderr=err,
            )

    @property
    def lines(self):
        return self.out.read_text().count("\n")

    def has(self, count):
        assert self.process.poll() is None, self.err.read_text()
        return self.lines >= count

    def positions(self):
        text = self.out.read_text()
        return [json.loads(line)["position"] for line in text.splitlines()]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextlib.contextmanager
def tailing(*arguments):
    tail = Tail(*arguments)
    try:
        yield tail
    finally:
        tail.process.kill()
        tail.process.wait()


def append(number):
    """Append a batch once, whatever becomes of the primary meanwhile."""
    events = [
        {
            "id": ObjectId(),
            "aggregateId": f"s-{number}",
            "aggregateType": "Book",
            "type": "Rare" if one == 50 else "Often",
            "payload": {"number": one},
        }
        for one in range(BATCH)
    ]

    def appended():
        with contextlib.suppress(OutcomeUnknown, StoreUnavailable):
            return EventStore.append_events(events)
        return None

    until(appended, 60)


def test_a_tail_misses_nothing_while_a_primary_is_killed(replicated, quick, tmp_path):
    url = replicated.url(heartbeatFrequencyMS=500)
    append("first")
    with (
        running(),
        tailing(tmp_path / "all", url, "-n", "5") as every,
        tailing(tmp_path / "rare", url, "--type", "Rare", "--user", "nobody") as none,
        tailing(tmp_path / "some", url, "--after", "0", "--type", "Rare") as some,
    ):
        until(lambda: every.has(5) and some.has(1), 60)
        for number in range(EVENTS // BATCH):
            if number == EVENTS // BATCH // 2:
                old = replicated.primary
                old.kill()
                elect_another(replicated, old)
            append(number)
        until(lambda: every.has(EVENTS + 5) and some.has(EVENTS // BATCH + 1), 60)
        assert every.stop() == some.stop() == none.stop() == 130
    last = EVENTS + BATCH
    assert every.positions() == list(range(BATCH - 4, last + 1))
    assert some.positions() == list(range(51, last + 1, BATCH))
    assert none.positions() == []
    for tail in (every, some, none):
        assert "Traceback" not in tail.err.read_text()
