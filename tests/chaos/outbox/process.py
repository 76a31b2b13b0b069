"""
A process that is killed, and starts again: ``python -m tests.chaos.outbox.process``.

Its argument is JSON: ``name``, ``kind``, ``folder``, and what a writer is to do. It
forks, so that a new life begins within milliseconds. It ends with its writer, or on
SIGTERM.
"""

import json
import os
import random
import signal
import sys
import time
import traceback

import django


def main():
    options = json.loads(sys.argv[1])
    django.setup()
    from . import points

    points.begin(options["folder"], options["name"])
    chance = random.Random(f"{options['seed']} {options['name']} lives")
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    while True:
        child = os.fork()
        if child == 0:
            live(options)
        code = outlive(child, chance, options["lives"], told)
        if told or code == 0:
            return 0
        if code != -signal.SIGKILL:
            return 1


def outlive(child, chance, lives, told):
    """Return how a child ended; kill it after some seconds, if it is to be harmed."""
    ends = time.monotonic() + chance.uniform(*lives) if lives else float("inf")
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if told:
            os.kill(child, signal.SIGTERM)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if time.monotonic() > ends:
            from . import points

            points.notes("killed", "anywhere")
            os.kill(child, signal.SIGKILL)
            ends = float("inf")
        time.sleep(0.01)


def live(options):
    """Do the work of the process, in a fork of it."""
    code = 1
    try:
        from . import points

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        points.begin(options["folder"], options["name"])
        if options["kind"] == "writer":
            from .blocks import write

            names = ("folder", "name", "seed", "blocks", "pause")
            write(*(options[name] for name in names))
        else:
            from django.core.management import call_command

            call_command("run_subscriptions", verbosity=0)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
