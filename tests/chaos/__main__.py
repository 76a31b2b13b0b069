"""``python -m tests.chaos --seconds 600 --seed 7``; exits 1 on a violation."""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TextIO

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
    options = parser.parse_args()
    say(f"seed {options.seed}, {options.seconds:g} s", sys.stderr)
    configure("mongodb://127.0.0.1/", "unused", 1)
    from .run import run as run_appends
    from .subscribed.run import run as run_subscriptions

    run = run_subscriptions if options.subscriptions else run_appends
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    report = run(folder, options.seconds, options.seed)
    say(json.dumps(report.as_dict()) if options.json else str(report), sys.stdout)
    if report.ok and not options.folder:
        shutil.rmtree(folder)
    if report.ok:
        return 0
    say(f"The histories and the servers' logs are in {folder}.", sys.stderr)
    return 1


def say(text: str, where: TextIO) -> None:
    where.write(f"{text}\n")
    where.flush()


if __name__ == "__main__":
    sys.exit(main())
