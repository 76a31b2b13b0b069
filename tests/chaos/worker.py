"""
One process of the run: ``python -m tests.chaos.worker OPTIONS``, as JSON.

It works until its standard input ends, then finishes what it has begun.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import django
from django.conf import settings

BUFFER = 1  # a line


def configure(url: str, name: str, timeout: float) -> None:
    settings.configure(
        INSTALLED_APPS=["ossy_event_store"],
        OSSY_EVENT_STORE={"URL": url, "NAME": name, "TIMEOUT": timeout},
        USE_TZ=True,
    )
    django.setup()


def habits(
    name: str, face: str, crew: dict[str, int], history: Any, seed: int
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, step and call of everybody in this process."""
    from .calls import AwaitableCall, BlockingCall
    from .habits import Deciders, ManyStreams, OwnStreams, Reader, Saver, SharedStreams
    from .writers import Writer

    writing: dict[str, Any] = {
        "own": OwnStreams,
        "shared": SharedStreams,
        "many": ManyStreams,
        "decider": Deciders,
    }
    call = AwaitableCall() if face == "awaitable" else BlockingCall()
    for kind, count in crew.items():
        for number in range(count):
            own = f"{name}-{kind}{number}"
            if kind in writing:
                killed = kind == "many"
                writer = Writer(own, call, history, seed=seed, may_be_killed=killed)
                yield own, writing[kind](writer).step, call
            else:
                watcher = Saver if kind == "saver" else Reader
                yield own, watcher(own, call, history, seed).step, call


def run_threads(work: list[Coroutine[Any, Any, None]]) -> None:
    from ossy_event_store.mongodb.ports import drive

    threads = [threading.Thread(target=drive, args=[each]) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_tasks(work: list[Coroutine[Any, Any, None]]) -> None:
    async def gather() -> None:
        await asyncio.gather(*work)

    asyncio.run(gather())


def until_input_ends() -> Callable[[], bool]:
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended.is_set


def main(options: dict[str, Any]) -> None:
    configure(options["url"], options["database"], options["timeout"])
    from ossy_event_store import register_aggregate

    from .habits import repeat
    from .history import HistoryFile
    from .ledger import Ledger

    register_aggregate(Ledger)
    stopped = until_input_ends()
    name, face, crew = options["name"], options["face"], options["crew"]
    with Path(options["history"]).open("w", buffering=BUFFER) as file:
        history = HistoryFile(file)
        work = [
            repeat(who, step, call, history, stopped)
            for who, step, call in habits(name, face, crew, history, options["seed"])
        ]
        (run_tasks if face == "awaitable" else run_threads)(work)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
