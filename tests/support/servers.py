"""Servers of a test's own: replica sets on loopback that can be broken in any way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from ossy_event_store import embedded
from ossy_event_store.embedded import keeper

SET = "ossy"
OPLOG = 256  # MB that a member keeps of what was written
ELECTION = 2000  # ms without a heartbeat until an election; the default is 10,000
# Settings of a set whose members notice within a second what happens to another.
QUICK = {
    "heartbeatIntervalMillis": 100,
    "heartbeatTimeoutSecs": 1,
    "catchUpTimeoutMillis": 0,  # a new primary does not wait for what the old one had
}


def until(condition: Callable[[], object], seconds: float = 30) -> Any:
    """Return the first true result of ``condition``; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{condition} did not come true"
        time.sleep(0.02)
    return result


def _state(thread: Path) -> str:
    """Return the letter of a thread's state; nothing if it is gone."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


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

    def __init__(
        self, folder: Path, options: tuple[str, ...], oplog: int = OPLOG
    ) -> None:
        self.folder = folder
        self.options = options
        self.oplog = oplog
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
                *("--oplogSize", str(self.oplog)),
                *("--setParameter", "enableTestCommands=1"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                *("--wiredTigerEngineConfigString", embedded.SMALL_JOURNAL),
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=keeper.die_with_parent(),
        )
        until(self.answers, 120)  # it may have a long journal to replay

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
        """Stop it, and wait until no thread of it runs: the signal comes later."""
        assert self.process is not None
        self.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        if threads.exists():
            until(lambda: {_state(thread) for thread in threads.iterdir()} <= {"T", ""})

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
        oplog: int = OPLOG,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.settings = {"electionTimeoutMillis": ELECTION, **(settings or {})}
        if name:
            options = ("--replSet", name, *options)
        count = members + arbiters
        self.members = [Member(folder / str(n), options, oplog) for n in range(count)]
        self.arbiters = self.members[members:]

    def start(self) -> None:
        for member in self.members:
            member.start()
        if not self.name:
            return
        config = {
            "_id": self.name,
            "settings": self.settings,
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


def heal(servers: Servers) -> None:
    """Start what is dead, and wait until every member takes part again."""
    for member in servers.members:
        if not member.is_running:
            member.start()
    until(lambda: _all_take_part(servers))


def _all_take_part(servers: Servers) -> bool:
    primary = servers.find_primary()
    if primary is None:
        return False
    with_data = len(servers.members) - len(servers.arbiters)
    everybody = WriteConcern(with_data, wtimeout=1000)
    with contextlib.suppress(PyMongoError), primary.client() as client:
        client.test.get_collection("beats", write_concern=everybody).insert_one({})
        return True
    return False


class Wire:
    """
    A line to a member that loses what it is told to lose.

    Reach it with ``directConnection=true``: a set tells its clients the ports of the
    members, and they would go around it.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.port = 0
        #: The names of the commands that were passed on, in order.
        self.said: list[str] = []
        #: While this is a set, commands of other names get no answer, ever.
        self.only: set[str] | None = None
        self._losses: defaultdict[str, deque[str]] = defaultdict(deque)
        self._connections: set[asyncio.Task[None]] = set()

    def lose(self, command: str, *parts: str) -> None:
        """
        Say what happens to the next commands of a name, one word each.

        ``request``: the connection breaks before the server hears of it.
        ``answer``: it breaks once the server has done it. ``silence``: the server
        does it, and then nothing comes. ``none``: it goes through.
        """
        self._losses[command].extend(parts)

    @property
    def to_lose(self) -> int:
        """How many of the losses have not come about."""
        return sum(map(len, self._losses.values()))

    @contextlib.contextmanager
    def open(self) -> Iterator[Wire]:
        is_open = threading.Event()

        async def serve() -> None:
            self._ends = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            is_open.set()
            await self._ends.wait()
            server.close()
            await asyncio.gather(*self._connections)

        thread = threading.Thread(target=asyncio.run, args=[serve()])
        thread.start()
        assert is_open.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ends.set)
            thread.join()

    def url(self, **options: object) -> str:
        options = {"directConnection": "true", **options}
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"mongodb://127.0.0.1:{self.port}/?{query}"

    async def _connect(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        with contextlib.closing(to_client), contextlib.suppress(OSError):
            server, to_server = await asyncio.open_connection(
                "127.0.0.1", self.member.port
            )
            lost: list[str] = []
            ways = [
                asyncio.ensure_future(self._requests(client, to_server, lost)),
                asyncio.ensure_future(self._answers(server, to_client, lost)),
                asyncio.ensure_future(self._ends.wait()),
            ]
            with contextlib.closing(to_server):
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        self._connections.discard(connection)

    async def _requests(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        lost: list[str],
    ) -> None:
        while True:
            message = await _message(client)
            command = _command(message)
            part = self._losses[command].popleft() if self._losses[command] else "none"
            if part == "request":
                return
            if self.only is not None and command not in self.only:
                continue
            self.said.append(command)
            if part != "none":
                lost.append(part)
            to_server.write(message)

    async def _answers(
        self,
        server: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        lost: list[str],
    ) -> None:
        while True:
            message = await _message(server)
            if "answer" in lost:
                return
            if not lost:
                to_client.write(message)


async def _message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "little") - 4)


def _command(message: bytes) -> str:
    """The first key of an OP_MSG; the first greeting comes in an older form."""
    if int.from_bytes(message[12:16], "little") != 2013:
        return "hello"
    return message[26 : message.index(b"\0", 26)].decode()
