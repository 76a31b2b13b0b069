"""
An operator: ``python -m tests.chaos.subscribed.operators OPTIONS``, as JSON.

He retries and skips at random while handlers fail, until his standard input ends.
Then he retries until nothing is parked; by then no handler fails any more.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django.core.management.base import CommandError
from pymongo.errors import PyMongoError

from ossy_event_store import EventStoreError
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.positions.reader import head_position
from ossy_event_store.subscriptions import operator_actions
from tests.support.servers import until

from ..calls import BlockingCall
from ..history import HistoryFile
from ..worker import BUFFER, until_input_ends
from ..writers import Writer
from .effects import ROWS
from .failing import Failing, may_fail, write_bad
from .operated import ASKED, ENDING, NOTHING, SKIPPED, Attempt, Quiet, Retry, Seen

AWAY = (EventStoreError, PyMongoError, CommandError)
PAUSE = (0.05, 0.2)  # seconds
SKIPS, RETRIES = 0.35, 0.5  # share of what he does; else he only looks
ALL, FIXED = 0.2, 0.7  # share of the retries that mean all; if no event is bad
COMMAND = 0.2  # share of the retries that are made with manage.py
LATER = 2.0  # seconds for a subscription to come to the end of the events
FEW = 1  # parked streams that get events in the quiet
TIMES, AT_ONCE = 4, 10  # appends to each of them, and events of each
FIELDS = ("aggregateId", "aggregateVersion", "eventId", "position", "parkedAtPosition")


class Operator:
    """
    Acts on the subscriptions of a run, and writes down what he was told.

    Args:
        folder: that of the run.
        name: no other operator of the run has it.
        seed: what his choices follow.
        writer: appends the events of the quiet.
        log: where to write.
    """

    def __init__(
        self, folder: Path, name: str, seed: int, writer: Writer, log: Any
    ) -> None:
        self.folder = folder
        self.random = random.Random(f"{seed} {name}")
        self.writer = writer
        self.log = log
        self.store = connection.blocking()
        self.numbers = itertools.count(1)
        self.fails = Failing(folder)
        self.has_skipped = False
        self.seen: set[tuple[str, str, int]] = set()

    # --- at random

    def step(self) -> None:
        if (self.folder / ASKED).exists():
            self.retry_in_the_quiet()
        with tolerated():
            if failed := self.failed():
                self.act(self.random.choice(failed))
        time.sleep(self.random.uniform(*PAUSE))

    def act(self, stands: Any) -> None:
        name, stopped = stands["_id"], stands["stopped"]
        waiting = self.parked(name)
        # One who has skipped nothing yet skips: else a short run might show no skip.
        how = self.random.random() if self.has_skipped else 0.0
        if stopped and how < SKIPS + RETRIES:
            if how < SKIPS:
                self.skip(name, None, stopped)
            else:
                self.retry(name)
        elif waiting:
            waits = self.random.choice(waiting)
            stream = waits["aggregateId"]
            if how < SKIPS and waits["eventId"] is not None:
                self.skip(name, stream, waits)
            elif how < SKIPS + RETRIES:
                share = ALL if self.fails.classes() else FIXED
                self.retry(name, None if self.random.random() < share else stream)

    def subscriptions(self) -> list[Any]:
        return list(connection.raw(self.store.subscriptions).find())

    def failed(self) -> list[Any]:
        """Return the subscriptions that have stopped, or have parked a stream."""
        names = connection.raw(self.store.parked).distinct("subscription")
        stand = self.subscriptions()
        return [one for one in stand if one["stopped"] or one["_id"] in names]

    def parked(self, name: str) -> list[Any]:
        parked = connection.raw(self.store.parked)
        waiting = list(parked.find({"subscription": name}, FIELDS))
        for waits in waiting:
            one = name, waits["aggregateId"], waits["parkedAtPosition"]
            if one not in self.seen:
                self.seen.add(one)
                self.log.write(Seen(*one))
        return waiting

    def retry(self, name: str, stream: str | None = None) -> None:
        if self.random.random() < COMMAND:
            chosen = [] if stream is None else [f"--stream={stream}"]
            call_command("subscriptions", "retry", name, *chosen, stdout=io.StringIO())
            self.log.write(Retry(name, 1))
        else:
            self.log.write(Retry(name, operator_actions.retry(name, stream)))

    def skip(self, name: str, stream: str | None, waits: Any) -> None:
        number, version = next(self.numbers), waits["aggregateVersion"]
        of = number, name, str(waits["eventId"]), waits["aggregateId"], version
        self.log.write(Attempt(*of))
        position = waits["position"]
        record = operator_actions.skip(name, stream, "chaos", "an operator", position)
        self.log.write(Attempt(*of, NOTHING if record is None else SKIPPED))
        self.has_skipped = self.has_skipped or record is not None

    # --- while no other stream has events

    def retry_in_the_quiet(self) -> None:
        """
        Append to parked streams alone, and retry those.

        No other event moves the row of the subscription before they are released.
        """
        with tolerated():
            self.wait_for(ROWS)
            waiting = [waits["aggregateId"] for waits in self.parked(ROWS)]
            streams = self.random.sample(waiting, min(FEW, len(waiting)))
            streams = streams or [self.new_stream()]
            for stream in streams * TIMES:
                drive(self.writer.append(stream, AT_ONCE))
            self.wait_for(ROWS)
            chosen = [w for w in self.parked(ROWS) if w["aggregateId"] in streams]
            write_bad(self.folder, [])
            for waits in chosen:
                self.retry(ROWS, waits["aggregateId"])
            has_begun = bool(chosen) and self.wait_for_one_of(chosen)
            self.log.write(Quiet(len(chosen), has_begun))
        (self.folder / ASKED).unlink(missing_ok=True)

    def new_stream(self) -> str:
        """Return the name of a stream that will soon be parked."""
        names = (f"quiet-{self.writer.name}-{n}" for n in self.numbers)
        return next(name for name in names if may_fail(ROWS, name))

    def wait_for_one_of(self, chosen: list[Any]) -> bool:
        """Wait until the release of one of these streams has begun, if it does."""
        stand = [{"_id": w["_id"], "position": w["position"]} for w in chosen]
        parked = connection.raw(self.store.parked)
        with contextlib.suppress(AssertionError):
            until(lambda: parked.count_documents({"$or": stand}) < len(stand), LATER)
            return True
        return False

    def wait_for(self, name: str) -> None:
        """Wait until a subscription has come to the end of the events, if it does."""
        events = connection.raw(self.store.events)
        stand = connection.raw(self.store.subscriptions)

        def is_at_the_end() -> bool:
            stands = stand.find_one({"_id": name})
            head = drive(head_position(self.store))
            return bool(stands) and stands[
                "position"
            ] >= head >= events.count_documents({})

        with contextlib.suppress(AssertionError):
            until(is_at_the_end, LATER)

    # --- at the end

    def finish(self) -> None:
        """Retry until nothing is parked; the checker says what is."""
        ends = time.monotonic() + ENDING
        while time.monotonic() < ends:
            with tolerated():
                if not self.retry_all():
                    return
            time.sleep(0.3)

    def retry_all(self) -> bool:
        """Retry all that is parked or has stopped; False if nothing is left to do."""
        stand = self.subscriptions()
        head = connection.raw(self.store.events).count_documents({})
        parked = {one["_id"]: len(self.parked(one["_id"])) for one in stand}
        left = [
            f"{name}: {parked[name]} parked, {one['position']} of {head}"
            for name, one in ((one["_id"], one) for one in stand)
            if parked[name] or one["stopped"] or one["position"] < head
        ]
        for one in stand:
            if parked[one["_id"]] or one["stopped"]:
                operator_actions.retry(one["_id"])
        sys.stderr.write(f"{time.strftime('%X')} {'; '.join(left)}\n")
        return bool(left)


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """Let a server be away, or another operator be faster; the next try will do."""
    try:
        yield
    except AWAY as error:
        sys.stderr.write(f"{type(error).__name__}: {str(error)[:300]}\n")


def main(options: dict[str, Any]) -> None:
    django.setup()
    stopped: Callable[[], bool] = until_input_ends()
    name, folder, seed = options["name"], Path(options["folder"]), options["seed"]
    with (
        (folder / f"{name}.history").open("w", buffering=BUFFER) as history,
        (folder / f"{name}.operations").open("w", buffering=BUFFER) as log,
    ):
        writer = Writer(
            name, BlockingCall(), HistoryFile(history), seed=seed, may_be_killed=True
        )
        operator = Operator(folder, name, seed, writer, HistoryFile(log))
        while not stopped():
            operator.step()
        operator.finish()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
