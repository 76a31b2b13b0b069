"""
The processes of the run, and who kills and freezes them while they work.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ossy_event_store.embedded import keeper
from ossy_event_store.subscriptions.claim import DEFAULT_TIMINGS
from tests.chaos.run import ROOT
from tests.support.servers import until

from .failing import CLASSES, write_bad
from .operated import ASKED, ENDING

END = 60  # seconds for a process that is told to end
TICK = (0.4, 2.0)  # seconds from one harm to the next
FREEZES, ENDS = 0.2, 0.1  # share of those that freeze, and that ask; the others kill
LEASE = DEFAULT_TIMINGS.lease_seconds
FROZEN = (LEASE + 1, LEASE + 3)  # seconds: others take over
FOLLOWERS = ("sequencer", "subscriber")

# Seconds in which some events are bad, and seconds in which none is, by turns.
BAD_SPELL, GOOD_SPELL = (2.0, 4.0), (1.0, 2.5)
BAD_CLASSES = 3  # at a time
QUIETS = 0.9  # share of the bad spells that end with a retry in the quiet
PATIENCE = 8.0  # seconds for an operator to ask for it
RELEASING = (0.0, 0.2)  # seconds from there until the subscribers are told to end


class Worker:
    """One process that is started again whenever it was killed."""

    def __init__(self, crew: Crew, kind: str, number: int) -> None:
        self.crew = crew
        self.kind = kind
        self.name = f"{kind}-{number}"
        self.lives = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.thaws: float | None = None

    def start(self) -> None:
        self.lives += 1
        command = self.crew.command(self.kind, self.name, self.lives)
        self.process = self.crew.start(command, f"{self.name}.log")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.thaws = None

    def freeze(self, seconds: float) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        self.thaws = time.monotonic() + seconds

    def thaw(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)
        self.thaws = None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself, which none of them should."""
        return self.process is not None and self.process.poll() is not None

    def end(self) -> None:
        """Let it finish; take note if it fails in that, or takes for ever."""
        self.tell()
        self.wait()

    def tell(self) -> None:
        """Tell it to end."""
        assert self.process
        if self.process.stdin:
            self.process.stdin.close()
        else:
            self.process.terminate()

    def wait(self) -> None:
        assert self.process
        more = ENDING if self.kind == "operator" else 0
        try:
            code = self.process.wait(END + more)
            if code not in (0, -signal.SIGTERM):  # that is before it began
                self.crew.odd.append(f"{self.name} ended with {code} when told to end")
        except subprocess.TimeoutExpired:
            self.crew.odd.append(f"{self.name} did not end when told to")
            self.kill()


class Crew:
    """
    All processes of a run.

    Args:
        folder: where their logs and histories go.
        seed: what decides who is harmed, when and how.
        here: where they work: ``url``, ``database``, ``timeout``, ``folder``, ``rows``.
        sizes: how many there are of each kind.
    """

    def __init__(
        self, folder: Path, seed: int, here: dict[str, Any], sizes: dict[str, int]
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.here = here
        self.sizes = sizes
        self.random = random.Random(f"{seed} crew")
        self.done: Counter[str] = Counter()
        #: What went wrong with a process that was not harmed.
        self.odd: list[str] = []
        # Held while a process is killed, frozen or ended.
        self.lock = threading.Lock()
        # A process ends with the thread that started it, as a mongod of the tests.
        self._starter = ThreadPoolExecutor(1)
        self.workers = [
            Worker(self, kind, number)
            for kind, count in sizes.items()
            for number in range(1, count + 1)
        ]

    def of(self, *kinds: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.kind in kinds]

    def command(self, kind: str, name: str, life: int) -> list[str]:
        if kind == "subscriber":
            return ["-m", "django", "run_subscriptions"]
        if kind == "sequencer":
            return ["-m", "tests.chaos.subscribed.sequencer"]
        face = "awaitable" if int(name[-1]) % 2 else "blocking"
        if kind == "operator":
            options = {
                "folder": str(self.folder),
                "name": f"{name}.{life}",
                "seed": self.seed,
            }
            return ["-m", "tests.chaos.subscribed.operators", json.dumps(options)]
        options = {
            **{key: self.here[key] for key in ("url", "database", "timeout")},
            "name": f"{name}.{life}",
            "face": face,
            "crew": {"many": 2},
            "seed": self.seed,
            "history": str(self.folder / f"{name}.{life}.history"),
        }
        return ["-m", "tests.chaos.worker", json.dumps(options)]

    def start(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        told_by_input = {"tests.chaos.worker", "tests.chaos.subscribed.operators"}

        def start() -> subprocess.Popen[bytes]:
            with (self.folder / log).open("ab") as out:
                return subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env={
                        **os.environ,
                        "DJANGO_SETTINGS_MODULE": "tests.chaos.subscribed.settings",
                        "CHAOS": json.dumps(self.here),
                    },
                    stdin=subprocess.PIPE if told_by_input & {*command} else None,
                    stdout=out,
                    stderr=out,
                    preexec_fn=keeper.die_with_parent(),
                )

        return self._starter.submit(start).result()

    def once(self, *command: str) -> None:
        """Run a command of Django's to its end."""
        code = self.start(["-m", "django", *command], "commands.log").wait(END)
        assert code == 0, f"{command} ended with {code}, see {self.folder}"

    # --- harm

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            for worker in self.workers:
                worker.start()
            yield
        finally:
            for worker in self.workers:
                if worker.process is not None:
                    worker.kill()
            self._starter.shutdown()

    @contextlib.contextmanager
    def harmed(self) -> Iterator[None]:
        """
        Kill and freeze at random, and let handlers fail, until the end.

        Then all are at work, and no event is bad.
        """
        ends = threading.Event()

        def harm() -> None:
            while not ends.wait(self.random.uniform(*TICK)):
                with self.lock:
                    self._tick()

        threads = [
            threading.Thread(target=harm),
            threading.Thread(target=self._fail, args=(ends,)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ends.set()
            for thread in threads:
                thread.join()
            write_bad(self.folder, [])
            self.heal()

    def _tick(self) -> None:
        self.look()
        for worker in self.workers:
            if worker.thaws and worker.thaws < time.monotonic():
                worker.thaw()
        frozen = [worker for worker in self.workers if worker.thaws]
        kind = self.random.choice([kind for kind in self.sizes if kind != "operator"])
        worker = self.random.choice([w for w in self.of(kind) if w not in frozen])
        how = self.random.random()
        if how < FREEZES and not frozen and worker.kind != "writer":
            worker.freeze(self.random.uniform(*FROZEN))
            self.done[f"freeze a {worker.kind}"] += 1
        elif how > 1 - ENDS and not frozen and worker.kind == "subscriber":
            worker.end()
            self.done["end a subscriber"] += 1
            worker.start()
        else:
            self.kill(worker)

    def kill(self, worker: Worker) -> None:
        """Kill one, and start it again."""
        worker.kill()
        self.done[f"kill a {worker.kind}"] += 1
        worker.start()

    # --- handlers that fail

    def _fail(self, ends: threading.Event) -> None:
        """Let some events be bad by turns, and operators be killed in between."""
        choice = random.Random(f"{self.seed} bad")
        while not ends.is_set():
            write_bad(self.folder, choice.sample(range(CLASSES), BAD_CLASSES))
            ends.wait(choice.uniform(*BAD_SPELL))
            if choice.random() < QUIETS and not ends.is_set():
                with self.lock:
                    self._end_in_a_release(choice.uniform(*RELEASING), ends)
            write_bad(self.folder, [])
            ends.wait(choice.uniform(*GOOD_SPELL))
            if choice.random() < 0.5:
                with self.lock:
                    self.kill(choice.choice(self.of("operator")))

    def _end_in_a_release(self, seconds: float, ends: threading.Event) -> None:
        """
        Let all subscribers end while parked streams are released, and nothing else is.

        See ``operators``, who fix what failed and ask for the retry.
        """
        self.heal()
        writers, subscribers = self.of("writer"), self.of("subscriber")
        for worker in writers:
            worker.freeze(PATIENCE)
        asked = self.folder / ASKED
        asked.touch()
        with contextlib.suppress(AssertionError):
            until(lambda: ends.is_set() or not asked.exists(), PATIENCE)
            self.done["end in a release"] += 1
        time.sleep(seconds)
        for worker in subscribers:
            worker.tell()
        for worker in subscribers:
            worker.wait()
            worker.start()
        for worker in writers:
            worker.thaw()
        asked.unlink(missing_ok=True)

    # --- at the end

    def look(self) -> None:
        """Note who has ended by himself, and start him again."""
        for worker in self.workers:
            if worker.has_ended:
                assert worker.process
                self.odd.append(f"{worker.name} ended with {worker.process.returncode}")
                worker.start()

    def heal(self) -> None:
        for worker in self.workers:
            if worker.thaws:
                worker.thaw()
        self.look()

    def end(self, *kinds: str) -> None:
        """Let these finish; none of them may fail in that."""
        for worker in self.of(*kinds):
            if worker.kind == "sequencer":
                worker.kill()  # it never ends by itself
                continue
            worker.end()
            worker.process = None
