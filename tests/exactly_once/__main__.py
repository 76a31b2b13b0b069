"""``python -m tests.exactly_once --kind using --seconds 600 --seed 7``."""

import argparse
import os
import random
import sys
import traceback

import django

from ossy_event_store.mongodb.ports import drive


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from ossy_event_store.mongodb import connection, indexes

    from .kinds import KINDS
    from .run import database, run

    parser = argparse.ArgumentParser(
        prog="python -m tests.exactly_once",
        description="Looks for events that are lost or have their effect twice.",
    )
    parser.add_argument("--kind", choices=KINDS, help="all in turn, if it is missing")
    parser.add_argument("--seconds", type=float, default=60, help="of each kind")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    drive(indexes.ensure(connection.blocking()))
    code = 0
    with database():
        for kind in [options.kind] if options.kind else KINDS:
            report = run(kind, options.seconds, options.seed, say)
            say(str(report))
            if report.violation is not None:
                code = 1
                traceback.print_exception(report.violation, limit=0)
    return code


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
