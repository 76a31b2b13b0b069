"""Servers of a test's own: replica sets on loopback that can be broken in any way."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from ossy_event_store import embedded, mongod_keeper

SET = "ossy"
ELECTION = 2000  # ms without a heartbeat until an election; the default is 10,000


def until(condition: Callable[[], object], seconds: float = 30) -> Any:
    """Return the first true result of ``condition``; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{condition} did not come true"
        time.sleep(0.02)
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Member:
    """
    One mongod.

    Start it in a thread that lives as long as it: a mongod ends with the thread
    that started it, so that a test run that is killed leaves none behind.
    """

    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        log = str(self.folder / "mongod.log")
        self.process = subprocess.Popen(
            [
                embedded.find_mongod(None),
                *("--dbpath", str(data), "--port", str(self.port)),
                *("--bind_ip", "127.0.0.1", "--nounixsocket", "--logappend"),
                *("--logpath", log, "--wiredTigerCacheSizeGB", "0.25"),
                *("--oplogSize", "256", "--setParameter", "enableTestCommands=1"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=mongod_keeper.die_with_parent(),
        )
        until(self.answers)

    def answers(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"mongod ended with {code}, see {self.folder}"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A client of this member alone, whatever its state."""
        return MongoClient(
            "127.0.0.1",
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=2000,
            connectTimeoutMS=2000,
            socketTimeoutMS=30_000,
            **options,
        )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut of the process would, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def fail_point(self, name: str, mode: Any, **data: Any) -> Iterator[None]:
        """Hold a fail point of the server on; ``mode`` is "alwaysOn" or a dict."""
        with self.client() as client:
            command = {"configureFailPoint": name, "mode": mode, "data": data}
            client.admin.command(command)
            try:
                yield
            finally:
                if self.is_running:
                    client.admin.command({"configureFailPoint": name, "mode": "off"})


class Servers:
    """A replica set of some members, or with ``name=None`` one standalone server."""

    def __init__(
        self,
        folder: Path,
        members: int = 1,
        *,
        arbiters: int = 0,
        name: str | None = SET,
        options: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        if name:
            options = ("--replSet", name, *options)
        count = members + arbiters
        self.members = [Member(folder / str(n), options) for n in range(count)]
        self.arbiters = self.members[members:]

    def start(self) -> None:
        for member in self.members:
            member.start()
        if not self.name:
            return
        config = {
            "_id": self.name,
            "settings": {"electionTimeoutMillis": ELECTION},
            "members": [
                {"_id": n, "host": member.host, "arbiterOnly": member in self.arbiters}
                for n, member in enumerate(self.members)
            ],
        }
        with self.members[0].client() as client:
            client.admin.command("replSetInitiate", config)
        until(self.find_primary)

    def stop(self) -> None:
        for member in self.members:
            if member.is_running:
                member.kill()  # a frozen one as well

    def url(self, **options: object) -> str:
        hosts = ",".join(member.host for member in self.members)
        if self.name:
            options = {"replicaSet": self.name, **options}
        return f"mongodb://{hosts}/?" + "&".join(f"{k}={v}" for k, v in options.items())

    def find_primary(self) -> Member | None:
        """The member that says it is primary and that others can reach, if any."""
        for member in self.members:
            if not member.is_running:
                continue
            with (
                contextlib.suppress(PyMongoError),
                member.client() as client,
                pymongo.timeout(1),  # it may be frozen
            ):
                if client.admin.command("hello")["isWritablePrimary"]:
                    return member
        return None

    @property
    def primary(self) -> Member:
        found: Member = until(self.find_primary)
        return found

    @property
    def secondaries(self) -> list[Member]:
        primary = self.primary
        others = [m for m in self.members if m not in (primary, *self.arbiters)]
        return [member for member in others if member.is_running]


@contextlib.contextmanager
def running(folder: Path, members: int = 1, **options: Any) -> Iterator[Servers]:
    servers = Servers(folder, members, **options)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
