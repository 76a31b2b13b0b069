"""``python -m tests.chaos --seconds 600 --seed 7``; exits 1 on a violation."""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from .report import Facts
from .worker import configure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path, help="keep histories and logs here")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--subscriptions",
        action="store_true",
        help="break sequencers and subscriptions as well, and look for what is missed",
    )
    parser.add_argument(
        "--outbox",
        action="store_true",
        help="kill processes that append on the commit of SQL transactions, until "
        "each of four has worked through its --blocks",
    )
    parser.add_argument("--blocks", type=int, default=500)
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="with --outbox: kill nobody, and leave every append to the relay",
    )
    options = parser.parse_args()
    much = f"{options.seconds:g} s"
    if options.outbox:
        much = f"{options.blocks} blocks"
    say(f"seed {options.seed}, {much}", sys.stderr)
    configure("mongodb://127.0.0.1/", "unused", 1)
    from .run import run as run_appends
    from .subscribed.run import run as run_subscriptions

    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    if options.outbox:
        report = run_outbox(folder, options.seed, options.blocks, options.quiet)
    else:
        run = run_subscriptions if options.subscriptions else run_appends
        report = run(folder, options.seconds, options.seed)
    say(json.dumps(report.as_dict()) if options.json else str(report), sys.stdout)
    if report.ok and not options.folder:
        shutil.rmtree(folder)
    if report.ok:
        return 0
    say(f"The histories and the servers' logs are in {folder}.", sys.stderr)
    return 1


def run_outbox(folder: Path, seed: int, blocks: int, quiet: bool) -> Facts:
    from .outbox.run import Options, run

    if quiet:
        calm = Options(
            seed, blocks=blocks, relays=1, deadly=0, relay_only=True, pause=0.2
        )
        return run(folder, calm)
    return run(folder, Options(seed, blocks=blocks))


def say(text: str, where: TextIO) -> None:
    where.write(f"{text}\n")
    where.flush()


if __name__ == "__main__":
    sys.exit(main())
