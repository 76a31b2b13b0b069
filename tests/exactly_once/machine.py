"""What happens to a subscription, drawn at random, and compared with the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ossy_event_store import EventStore
from ossy_event_store.aggregate import registry
from ossy_event_store.documents.collections import subscription_lease
from ossy_event_store.mongodb import connection
from ossy_event_store.positions import head_watcher
from ossy_event_store.positions.sequencer import Sequencer
from ossy_event_store.projections import projection
from ossy_event_store.subscriptions import declaration, operator_actions
from ossy_event_store.subscriptions.claim import Timings

from .harness import Clock, Crew, Process
from .kinds import TYPE, Config, Kind
from .model import Model, Restless, Violation

STREAMS = ("a", "b", "c")
LONG = 600  # steps after which a process should have nothing left to do
ROUNDS = 40  # processes after which nothing should be parked any more
LEASE_SECONDS = 10_000.0  # a lease ends when the test says so
NEVER = 1e9

numbers = st.integers(0, 2)
steps = st.integers(0, 6) | st.integers(0, 40)
rarely = st.sampled_from([False, False, True])
configs = st.builds(
    Config,
    page=st.sampled_from([1000, 1, 2, 3, 5]),
    batch=st.sampled_from([100, 1, 2, 3]),
    retries=st.sampled_from([0, 0, 1]),
    look=st.sampled_from([0.0, 0.1, 0.5]),
    write=st.sampled_from([0.0, NEVER]),
)
# Which stream, which key, and which of the kind's faults; each is taken modulo.
contents = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from(["x", "x", "y", "z", None]),
    st.sampled_from([None, None, 0, 1, 2]),
)
# Which event changes, and which fault it has then; None is none.
changes = st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 2, None]))


class Happenings(RuleBasedStateMachine):
    """
    Runs one subscription in several processes that are stopped, killed and frozen.

    A process that no rule steps is frozen; it wakes up when one does.
    """

    kind_of: ClassVar[type[Kind]]
    counts: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = self.is_broken = False

    @initialize(
        config=configs,
        streams=st.sampled_from([1, 1, 2, 3]),
        events=st.lists(contents, min_size=3, max_size=9),
    )
    def begin(self, config: Config, streams: int, events: list[Any]) -> None:
        self.counts["examples"] += 1
        self.clock = Clock()
        timings = Timings(
            lease_seconds=LEASE_SECONDS,
            poll_seconds=config.look,
            write_seconds=config.write,
            idle_write_seconds=config.write,
        )
        self.crew = Crew(self.clock, self.counts, timings, config.page)
        self.patch = pytest.MonkeyPatch()
        self.arrange()
        self.store = connection.blocking()
        for name in connection.COLLECTION_OPTIONS:
            connection.raw(connection.documents(self.store, name)).delete_many({})
        self.model = Model(self.kind_of.exact, self.kind_of.keyed)
        self.streams = STREAMS[:streams]
        self.bad: dict[int, str] = {}
        self.parked: dict[str, int] = {}
        self.sequencer = Sequencer(self.store)
        self.append(events)
        self.kind = self.kind_of(self.store, config, self.is_bad, self.crew.point)
        self.has_begun, self.has_switched = True, False

    def arrange(self) -> None:
        """Let no process wait for events, and declare nothing."""
        wait = self.crew.wait
        self.patch.setattr(
            head_watcher.HeadWatcher, "wait", lambda _, *given: wait(*given)
        )
        self.patch.setattr(Sequencer, "wait_seconds", 0.005)
        for module in (declaration, projection, registry):
            self.patch.setattr(module, "_registered", {})

    def append(self, events: list[Any]) -> None:
        made = []
        for stream, key, fault in events:
            event = self.model.append(self.streams[stream % len(self.streams)], key)
            if fault is not None:
                faults = self.kind_of.faults
                self.bad[event.position] = faults[fault % len(faults)]
            made.append(event)
        for stream, together in groupby(made, lambda event: event.stream):
            raw = {"aggregateId": stream, "aggregateType": TYPE, "type": "Told"}
            EventStore.append_events(
                [{**raw, "payload": {"key": event.key}} for event in together]
            )
            # One after the other: so the model knows their positions.
        while self.sequencer.last < len(self.model.events):
            self.sequencer.advance(0.05)

    def is_bad(self, event: Mapping[str, Any], where: str) -> bool:
        known = self.model.at(event["aggregateId"], event["aggregateVersion"])
        return self.bad.get(known.position) == where

    # --- processes

    @property
    def name(self) -> str:
        return self.kind.declared.name

    def start(self) -> Process:
        """Start a process, and let the lease of the one before end."""
        connection.raw(self.store.leases).update_many(
            {"_id": subscription_lease(self.name)}, {"$set": {"until": None}}
        )
        return self.crew.start(self.kind.declared, self.kind.alias)

    def pick(self, which: int) -> Process:
        alive = self.crew.alive[::-1]
        return alive[which % len(alive)] if alive else self.start()

    def run_long(self, process: Process) -> None:
        """Let a process work until there is nothing left to do."""
        process.waits = 0
        asked = {"subscription": self.name, "retry": True}

        def is_quiet() -> bool:
            if process.waits < 3:
                return False
            process.waits = 0
            return not connection.raw(self.store.parked).count_documents(asked)

        process.run(LONG, is_quiet)

    @rule()
    def work(self) -> None:
        self.run_long(self.pick(0))

    @rule(steps=steps)
    def work_a_little(self, steps: int) -> None:
        self.pick(0).run(steps)

    @rule(before=steps, changed=changes, after=steps, is_done=st.booleans(), late=steps)
    def freeze(
        self, before: int, changed: Any, after: int, is_done: bool, late: int
    ) -> None:
        """Freeze a process while another takes over, and wake it up."""
        for process in self.crew.alive[2:]:
            process.terminate()
        frozen = self.pick(0)
        frozen.run(before)
        self.change(changed)
        other = self.start()
        other.run(after)
        if is_done:
            self.run_long(other)
        if frozen.is_alive:
            self.counts["woken up"] += 1
            frozen.run(late)

    @rule(which=numbers)
    def terminate(self, which: int) -> None:
        self.counts["terminated"] += 1
        self.pick(which).terminate()

    @rule(which=numbers, fuse=st.integers(0, 60), at_once=st.booleans())
    def kill(self, which: int, fuse: int, at_once: bool) -> None:
        """Kill a process; the server ends its transaction, or the next one does."""
        process = self.pick(which)
        process.fuse = fuse
        self.run_long(process)
        process.is_dead = True
        self.counts["killed"] += 1
        if process.is_in_transaction:
            self.counts["killed in a transaction"] += 1
            if not at_once:
                following = self.start()
                following.run(40, lambda: bool(following.ended_sessions))
            process.end_transactions()

    # --- an operator

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        return connection.raw(self.store.subscriptions).find_one({"_id": self.name})

    @rule(what=st.sampled_from(["skip", "skip", "retry", "fix"]), which=numbers)
    def operate(self, what: str, which: int) -> None:
        """Do what an operator does about parked streams."""
        if what == "fix":
            self.bad.clear()
        if what == "skip":
            self.skip(which)
        else:
            self.retry(None if which else min(self.parked, default=None))

    def retry(self, stream: str | None) -> None:
        if self.checkpoint is not None:
            self.counts["retried"] += operator_actions.retry(self.name, stream)

    def skip(self, which: int) -> None:
        if not self.parked:
            return
        stream = sorted(self.parked)[which % len(self.parked)]
        record = operator_actions.skip(self.name, stream, "as the test says")
        if record is None:
            return
        self.counts["skipped"] += 1
        position = record["position"]
        if self.kind.skips_late and self.kind.has(position):
            self.counts["skipped late"] += 1
        else:
            self.model.skipped.add(position)

    @rule(steps=steps, what=st.sampled_from(["retry", "skip"]), is_killed=st.booleans())
    def restart_during_a_release(self, steps: int, what: str, is_killed: bool) -> None:
        """End the process while it delivers what parked streams have."""
        self.run_long(self.pick(0))
        self.look_at_parked()
        if what == "skip":
            self.skip(0)
        self.bad.clear()
        self.retry(None)
        process = self.pick(0)
        process.run(steps)
        if is_killed:
            self.counts["killed"] += 1
            process.is_dead = True
        elif process.is_alive:
            self.counts["terminated"] += 1
            process.terminate()

    @precondition(lambda self: self.kind_of.may_reset)
    @rule(position=st.integers(0, 9), really=rarely)
    def reset(self, position: int, really: bool) -> None:
        if self.checkpoint is None or not really:
            return
        self.counts["reset"] += 1
        position = min(position, len(self.model.events))
        self.model.has_echo |= not self.model.exact and bool(self.crew.alive)
        operator_actions.reset(self.name, position)
        self.model.reset(position)
        self.kind.after_reset()

    @precondition(lambda self: hasattr(self.kind_of, "switch"))
    @rule(leaves_one=rarely)
    def switch(self, leaves_one: bool) -> None:
        """Switch to what was built; another process that builds it may be frozen."""
        if self.has_switched:
            return
        for process in self.crew.alive[int(leaves_one) :]:
            process.terminate()
        self.has_switched = self.kind.switch()
        self.counts["switched"] += self.has_switched

    # --- events

    @rule(changed=changes)
    def change(self, changed: Any) -> None:
        """Let an event fail, or fail no longer."""
        at, fault = changed
        position = 1 + at % len(self.model.events)
        if fault is None:
            self.bad.pop(position, None)
        else:
            self.bad[position] = self.kind.faults[fault % len(self.kind.faults)]

    @rule(events=st.lists(contents, min_size=1, max_size=2), really=rarely)
    def more(self, events: list[Any], really: bool) -> None:
        if really and len(self.model.events) < 14:
            self.append(events)

    # --- what must hold

    @invariant()
    def every_promise_is_kept(self) -> None:
        if not self.has_begun:
            return
        reached = (self.checkpoint or {"position": 0})["position"]
        self.look_at_parked()
        self.refuse(self.kind.problems(self.model, reached, self.parked))

    def look_at_parked(self) -> None:
        waits = connection.raw(self.store.parked).find({"subscription": self.name})
        parked = {one["aggregateId"]: one["position"] for one in waits}
        self.counts["parked"] += sum(
            self.parked.get(stream) != position for stream, position in parked.items()
        )
        self.parked = parked

    def refuse(self, problems: Iterable[Violation]) -> None:
        """Fail with the first of some problems, and say all."""
        found = list(problems)
        if found:
            self.is_broken = True
            raise type(found[0])(
                "\n".join(
                    [
                        *map(str, found),
                        f"effects: {dict(self.kind.effects())} of",
                        *map(str, self.model.events),
                    ]
                )
            )

    def come_to_rest(self) -> None:
        """Fix everything, retry until nothing is parked, and look what is missing."""
        self.bad.clear()
        frozen = self.crew.alive
        for _ in range(ROUNDS):
            self.retry(None)
            process = self.start()
            self.run_long(process)
            for one in frozen:
                one.run(30)
                one.terminate()
            frozen = []
            process.terminate()
            self.every_promise_is_kept()
            if self.is_at_rest:
                break
        else:
            self.refuse([Restless(f"{self.checkpoint}, parked {self.parked}")])
        self.refuse(self.kind.missing(self.model))

    @property
    def is_at_rest(self) -> bool:
        reached = (self.checkpoint or {"position": 0})["position"]
        return reached >= len(self.model.events) and not self.parked

    def teardown(self) -> None:
        if not self.has_begun:
            return
        try:
            if not self.is_broken:
                self.come_to_rest()
                self.finish_build()
        finally:
            self.crew.close()
            self.sequencer.close()
            self.patch.undo()

    def finish_build(self) -> None:
        """Let what was built come into use, and run that."""
        if hasattr(self.kind_of, "switch") and not self.has_switched:
            self.switch(False)
            if not self.has_switched:
                self.refuse([Restless("the build does not come into use")])
            self.come_to_rest()
