"""Where a process dies: between row, commit, append and delete; and what it notes."""

import functools
import os
import random
import signal
import time
from pathlib import Path

from ossy_event_store.relational import append_waiting, on_commit, outbox, relay

POINTS = ("row", "commit", "try", "append", "delete")


class Notes:
    """A file of lines that survive whatever happens to the process."""

    def __init__(self, path):
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def __call__(self, *words):
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


notes = Notes(os.devnull)


def begin(folder, name):
    """Note under a name from now on."""
    global notes
    notes = Notes(Path(folder) / f"{name}.notes")
    random.seed(f"{name} {time.monotonic()}")


def install(here):
    """Wrap what the outbox does: note each append, and die at random after a step."""
    deadly = here["deadly"]
    outbox.add = then_die(outbox.add, "row", deadly)
    outbox.remove = then_die(outbox.remove, "delete", deadly)
    # The third step after which a process dies is the commit.
    append_now = (lambda *args: None) if here["relay_only"] else on_commit._append_now
    committed = then_die(lambda *args: args, "commit", deadly)
    on_commit._append_now = lambda *args: append_now(*committed(*args))
    append_waiting.append_at = noting(append_waiting.append_at, deadly)
    relay.outbox.first_rows = noting_once(relay.outbox.first_rows)


def then_die(function, point, deadly):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        die(point, deadly)
        return result

    return wrapped


def die(point, deadly):
    if random.random() < deadly:
        notes("killed", point)
        os.kill(os.getpid(), signal.SIGKILL)


def noting(append_at, deadly):
    async def wrapped(store, documents, expected):
        die("try", deadly)
        stored = await append_at(store, documents, expected)
        payload = documents[0]["payload"]
        notes("appended", payload["worker"], payload["number"], time.monotonic())
        die("append", deadly)
        return stored

    return wrapped


def noting_once(first_rows):
    noted = []

    def wrapped(using):
        if not noted:
            noted.append(notes("relaying"))
        return first_rows(using)

    return wrapped
