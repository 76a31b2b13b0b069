"""
The nemesis: it breaks the servers in every way it knows, one after the other.

Each round has every action once, in an order that the seed decides. After an action
the servers are whole again, so that the writers make progress.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from tests.support.servers import Member, Servers, until

# Only the writers' own clients meet the fail points of commands.
WRITERS = {"appName": "ossy_event_store"}
WRITES = ["insert", "commitTransaction"]
WRITE_CONCERN_TIMED_OUT = 64
SHUTDOWN_IN_PROGRESS = 91
HEALING = 30  # seconds a try
TRIES = 3


Action = Callable[["Nemesis"], None]


class Nemesis:
    def __init__(
        self, servers: Servers, seed: int, actions: Sequence[Action] = ()
    ) -> None:
        self.servers = servers
        self.actions = actions or ACTIONS
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Break and heal until the time is over; end with all members well."""
        self.ends = time.monotonic() + seconds
        while time.monotonic() < self.ends:
            actions = self.random.sample(self.actions, len(self.actions))
            for action in actions:
                if time.monotonic() >= self.ends:
                    break
                self.act(action)

    def act(self, action: Action) -> None:
        self.hold(0.3, 1.5)
        action(self)
        self.done[action.__name__.replace("_", " ")] += 1
        self.heal()

    def hold(self, shortest: float, longest: float) -> None:
        time.sleep(self.random.uniform(shortest, longest))

    def heal(self) -> None:
        """Start who is down; who does not come to himself is killed and started."""
        for _ in range(TRIES):
            for member in self.servers.members:
                if not member.is_running:
                    member.start()
            with contextlib.suppress(AssertionError):
                until(self.is_whole, HEALING)
                return
            # mongod 6.0.5 was seen to hang in a rollback for more than a minute.
            for member in self.servers.members:
                if not serves(member):
                    member.kill()
                    self.done["kill one that hangs"] += 1
        raise AssertionError("The servers do not heal.")

    def is_whole(self) -> bool:
        return all(map(serves, self.servers.members)) and self.commits()

    def commits(self) -> bool:
        primary = self.servers.find_primary()
        if primary is None:
            return False
        with (
            contextlib.suppress(PyMongoError),
            pymongo.timeout(2),
            primary.client() as client,
        ):
            concern = pymongo.WriteConcern("majority")
            beats = client.get_database("nemesis", write_concern=concern).beats
            beats.insert_one({})
            return True
        return False


def serves(member: Member) -> bool:
    with (
        contextlib.suppress(PyMongoError),
        pymongo.timeout(1),
        member.client() as client,
    ):
        hello = client.admin.command("hello")
        return bool(hello["isWritablePrimary"] or hello["secondary"])
    return False


# --- members that fail ------------------------------------------------------


def kill_the_primary(nemesis: Nemesis) -> None:
    nemesis.servers.primary.kill()
    nemesis.hold(0, 3)


def kill_a_secondary(nemesis: Nemesis) -> None:
    nemesis.random.choice(nemesis.servers.secondaries).kill()
    nemesis.hold(1, 3)


def kill_everybody(nemesis: Nemesis) -> None:
    for member in nemesis.servers.members:
        member.signal(signal.SIGKILL)
    for member in nemesis.servers.members:
        member.kill()


def freeze_the_primary(nemesis: Nemesis) -> None:
    """Let it come back as a zombie: others have elected a new one meanwhile."""
    servers = nemesis.servers
    zombie = servers.primary
    zombie.freeze()
    try:
        # A member that was whole a moment ago may begin a rollback, and mongod 6.0.5
        # gives no vote during one: then nobody is elected before this one is back.
        with contextlib.suppress(AssertionError):
            until(servers.find_primary)
        nemesis.hold(0, 1)
    finally:
        zombie.thaw()


def step_down(nemesis: Nemesis) -> None:
    command: dict[str, Any] = {"secondaryCatchUpPeriodSecs": 1, "force": True}
    with nemesis.servers.primary.client() as client:
        client.admin.command("replSetStepDown", 5, **command)


# --- replication that stops -------------------------------------------------


def stop_replication(nemesis: Nemesis) -> None:
    with replication_stopped(nemesis.servers):
        nemesis.hold(1, 6)


def kill_what_was_not_replicated(nemesis: Nemesis) -> None:
    """Take the primary away with writes that nobody else has: a rollback."""
    primary = nemesis.servers.primary
    with replication_stopped(nemesis.servers):
        nemesis.hold(0.5, 2)
        primary.kill()


@contextlib.contextmanager
def replication_stopped(servers: Servers) -> Any:
    with contextlib.ExitStack() as stack:
        for member in servers.secondaries:
            stack.enter_context(member.fail_point("stopReplProducer", "alwaysOn"))
        yield


# --- lines that break -------------------------------------------------------


def now_and_then(share: float) -> dict[str, float]:
    return {"activationProbability": share}


def cut_connections(nemesis: Nemesis) -> None:
    with cutting(nemesis, [*WRITES, "find", "ping"]):
        nemesis.hold(1, 3)


def lose_acknowledgements(nemesis: Nemesis) -> None:
    with losing(nemesis):
        nemesis.hold(1, 3)


def lose_acknowledgements_and_retries(nemesis: Nemesis) -> None:
    with losing(nemesis), cutting(nemesis, WRITES):
        nemesis.hold(1, 3)


def cutting(nemesis: Nemesis, commands: list[str]) -> Any:
    return nemesis.servers.primary.fail_point(
        "failCommand",
        now_and_then(0.2),
        failCommands=commands,
        closeConnection=True,
        **WRITERS,
    )


def losing(nemesis: Nemesis) -> Any:
    point, mode = "onPrimaryTransactionalWrite", now_and_then(0.2)
    return nemesis.servers.primary.fail_point(point, mode, closeConnection=True)


# --- servers that err -------------------------------------------------------


def fail_write_concerns(nemesis: Nemesis) -> None:
    codes = (WRITE_CONCERN_TIMED_OUT, SHUTDOWN_IN_PROGRESS)
    error = {"code": nemesis.random.choice(codes), "errmsg": "chaos"}
    with nemesis.servers.primary.fail_point(
        "failCommand",
        now_and_then(0.2),
        failCommands=WRITES,
        writeConcernError=error,
        **WRITERS,
    ):
        nemesis.hold(1, 3)


def conflict_writes(nemesis: Nemesis) -> None:
    point = "WTWriteConflictException"
    with nemesis.servers.primary.fail_point(point, now_and_then(0.05)):
        nemesis.hold(1, 3)


ACTIONS: list[Action] = [
    kill_the_primary,
    kill_a_secondary,
    kill_everybody,
    freeze_the_primary,
    step_down,
    stop_replication,
    kill_what_was_not_replicated,
    cut_connections,
    lose_acknowledgements,
    lose_acknowledgements_and_retries,
    fail_write_concerns,
    conflict_writes,
]
