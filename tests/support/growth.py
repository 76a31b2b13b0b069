"""What a process and its MongoDB hold, to see whether it grows; Linux only."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any, NamedTuple

from ossy_event_store.mongodb import connection

KB = 1024
MB = 1024 * KB


class Held(NamedTuple):
    """What a process holds, and what the server holds for all processes."""

    #: Bytes in memory.
    memory: int
    threads: int
    #: Open files and sockets.
    files: int
    #: Sessions and connections of all clients on the server.
    sessions: int
    connections: int


def held(store: Any, pid: int | None = None) -> Held:
    """Return what a process holds, by default this one."""
    if pid is None:
        gc.collect()
    process = Path(f"/proc/{pid or os.getpid()}")
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines()
    )
    admin = connection.raw(store.events).database.client.admin
    stages: list[Any] = [{"$listLocalSessions": {"allUsers": True}}, {"$count": "n"}]
    return Held(
        memory=int(status["VmRSS"].split()[0]) * 1024,
        threads=int(status["Threads"]),
        files=len(list((process / "fd").iterdir())),
        sessions=next(iter(admin.aggregate(stages)))["n"],
        connections=admin.command("serverStatus")["connections"]["current"],
    )
