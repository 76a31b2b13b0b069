"""
Measure the store against the plain driver, row by row, in one run.

The two sides of a row do the same work with the same concerns. Each row first checks
that both give the same result; then the two take turns.
"""

import argparse
import json
import sys
from pathlib import Path

import append
import awaiting
import bench
import boundaries
import hot
import log
import peers
import rebuild
import several
import start
import whole

ALONE = {  # each on an empty database
    "start": start.app,
    "append": append.one,
    "append-10": append.ten,
    "two-streams": several.block,
    "append-streams": several.call,
    "load": append.load,
    "load-add-save": append.all_four,
    "long-stream": append.long,
    "awaitable": awaiting.both,
    "hot-stream": hot.writers,
    "tagged": boundaries.tagged,
    "conditional": boundaries.conditional,
    "boundary": boundaries.execute,
    "parallel-tags": boundaries.parallel,
    "import": whole.bring_in,
}
ON_THE_LOG = {  # on all of the --events
    "rebuild": rebuild.full,
    "workers": rebuild.workers,
    "memory": rebuild.memory,
    "stale": rebuild.stale,
    "verify": whole.verify,
}
NAMES = [*ALONE, *ON_THE_LOG]


def main():
    options = arguments()
    database = bench.set_up()
    rows, loaded = [], False
    try:
        for name in options.only or NAMES:
            if name in ON_THE_LOG and not loaded:
                log.load(options)
            elif name in ALONE:
                bench.empty()
            loaded = name in ON_THE_LOG
            function = ALONE.get(name) or ON_THE_LOG[name]
            rows += function(options)
            print(f"{name}: done", file=sys.stderr)
        others, notes = peers.measured(options) if options.peers else ([], [])
        report(options, rows, others, notes)
    finally:
        log.clean_up(options)
        database.client.drop_database(database.name)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--events",
        type=int,
        default=100_000,
        help="how many the rows on a whole store use",
    )
    parser.add_argument(
        "--file", help="take the events from this file, one JSON object a line"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", action="append", choices=NAMES, help="only these rows; repeatable"
    )
    parser.add_argument(
        "--peers", action="store_true", help="other event stores as well"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON too")
    parser.add_argument(
        "--markdown", metavar="FILE", help="write the table for the docs too"
    )
    return parser.parse_args()


def report(options, rows, others, notes):
    print(bench.about())
    for line in bench.text_of(rows):
        print(line)
    if options.peers:
        print()
        for line in [*peers.text_of(others), *notes]:
            print(line)
    if options.json:
        figures = {"machine": bench.machine(), "rows": rows}
        if options.peers:
            figures |= {"peers": others, "notes": notes}
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    if options.markdown:
        lines = [f"Measured with {bench.about()}.", "", *bench.markdown_of(rows)]
        if options.peers:
            lines += ["", *peers.markdown_of(others), ""]
            lines += [f"- {note}" for note in notes]
        Path(options.markdown).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
