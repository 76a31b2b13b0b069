"""What a writer does: ``atomic()`` blocks, a third of which are rolled back."""

import contextlib
import random
import time
from functools import partial
from pathlib import Path

from django.db import connection, transaction

from ossy_event_store.relational import on_commit

from . import points

TABLE = (
    "CREATE TABLE blocks (worker varchar(40), number integer, stream varchar(40), "
    "began double precision, PRIMARY KEY (worker, number))"
)
STREAMS = 5
PARTS = 2  # events of a block, all in one stream
ROLLED_BACK = 1 / 3


class RolledBack(Exception):
    pass


def write(folder, name, seed, blocks, pause):
    """Work through the blocks of a writer, from after the last that was begun."""
    noted = (Path(folder) / f"{name}.notes").read_text().splitlines()
    begun = [int(line.split()[1]) for line in noted if line.startswith("begun ")]
    for number in range(max(begun, default=-1) + 1, blocks):
        points.notes("begun", number)
        choice = random.Random(f"{seed} {name} {number}")
        with contextlib.suppress(RolledBack):
            _block(name, number, choice)
        if pause:
            time.sleep(choice.uniform(0, 2 * pause))


def _block(worker, number, choice):
    stream = f"stream-{choice.randrange(STREAMS)}"

    def append(part):
        on_commit.append_on_commit(
            {
                "type": "Committed",
                "aggregateId": stream,
                "aggregateType": "Chaos",
                "payload": {"worker": worker, "number": number, "part": part},
            }
        )

    with transaction.atomic():
        began = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO blocks VALUES (%s, %s, %s, %s)",
                [worker, number, stream, began],
            )
        transaction.on_commit(partial(_note_commit, number))
        for part in range(PARTS):
            append(part)
        with contextlib.suppress(RolledBack), transaction.atomic():  # a savepoint
            append("of a savepoint")
            raise RolledBack
        if choice.random() < ROLLED_BACK:
            raise RolledBack


def _note_commit(number):
    points.notes("committed", number, time.monotonic())
