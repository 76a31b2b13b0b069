"""
A sequencer without a lease: ``python -m tests.chaos.subscribed.sequencer``.

It works against all others at any time.
"""

import sys
import time

import django
from pymongo.errors import PyMongoError

from ossy_event_store import StoreUnavailable
from ossy_event_store.mongodb import connection
from ossy_event_store.positions import sequencer as positions_sequencer

PAUSE = 0.2  # seconds, after a failure


def main():
    django.setup()
    sequencer = positions_sequencer.Sequencer(connection.blocking())
    while True:
        try:
            sequencer.advance(0.5)
        except (PyMongoError, StoreUnavailable) as error:
            sys.stderr.write(f"{type(error).__name__}: {str(error)[:300]}\n")
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
