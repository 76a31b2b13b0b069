"""
Measure what each operation costs in a store of 10,000, 100,000 and 1,000,000 events.

The cost of one unit should not grow with the store. Draws the figures, or those of an
earlier run, as a picture for the docs.
"""

import argparse
import json
import random
import time
from pathlib import Path

import append
import bench
import log
import rebuild
import whole

PAGE = 1000
COSTS = {  # each operation and its unit, with the row that measures it
    "append one event": append.one,
    "load 10 events": append.load,
    "rebuild, an event": rebuild.full,
    "stale check, a stream": rebuild.stale,
    "verify, an event": whole.verify,
}


def pages(options):
    """Read random pages of all events, by the store and with hand-written PyMongo."""
    from ossy_event_store import EventStore
    from ossy_event_store.mongodb import connection
    from ossy_event_store.positions.sequencer import Sequencer

    store = connection.blocking()
    events, positions = EventStore.collection, connection.raw(store.positions)
    sequencer = Sequencer(store)
    while not sequencer.is_caught_up:
        sequencer.advance(0)
    sequencer.close()
    chosen = random.Random(7)  # the same pages each time
    last = positions.estimated_document_count() - PAGE

    def by_store(after=None):
        after = chosen.randrange(last) if after is None else after
        return list(EventStore.read_all(after, limit=PAGE))

    def by_hand(after=None):
        after = chosen.randrange(last) if after is None else after
        entries = list(
            positions.find({"_id": {"$gt": after}}, sort=[("_id", 1)], limit=PAGE)
        )
        ids = [entry["eventId"] for entry in entries]
        found = events.find({"_id": {"$in": ids}}, batch_size=PAGE + 1)
        by_id = {event["_id"]: event for event in found}
        return [
            {"metadata": {}, **by_id[entry["eventId"]], "position": entry["_id"]}
            for entry in entries
        ]

    assert by_store(PAGE) == by_hand(PAGE)
    seconds = bench.turns(options.rounds * 4, store=by_store, bare=by_hand)
    return [bench.row("page of read_all, an event", PAGE, seconds)]


def costs(options):
    """Return the microseconds of each operation, of the store and of plain PyMongo."""
    began = time.perf_counter()
    log.load(options)
    found = {}
    # First the operations that read every event, then those that add some.
    order = ["rebuild, an event", "stale check, a stream", "verify, an event"]
    for name in order:
        found[name] = COSTS[name](options)[0]
    found["page of read_all, an event"] = pages(options)[0]
    for name in COSTS.keys() - found.keys():
        found[name] = COSTS[name](options)[0]
    log.clean_up(options)
    print(f"{options.events:,} events: {time.perf_counter() - began:,.0f} s")
    return {
        name: {who: round(1e6 / row[who], 2) for who in ("store", "bare")}
        for name, row in found.items()
    }


def grown(figures):
    """Yield by how much each cost grew from the smallest store to the largest."""
    sizes = sorted(figures, key=int)
    for name, first in figures[sizes[0]].items():
        last = figures[sizes[-1]][name]
        yield (
            name,
            [figures[size][name]["store"] for size in sizes],
            (
                last["store"] / first["store"],
                last["bare"] / first["bare"],
            ),
        )


def print_figures(figures):
    sizes = sorted(figures, key=int)
    head = "".join(f"{int(size):>12,}" for size in sizes)
    print(f"{'microseconds, by events in the store':38}{head}   growth  of driver")
    for name, some, (ours, bare) in grown(figures):
        cells = "".join(f"{value:>12,.1f}" for value in some)
        print(f"{name:38}{cells}   x {ours:4.2f}   x {bare:4.2f}")


def draw(figures, file):
    """Draw the cost of one unit over the size of the store, both logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    # No date in the file, and stable names: the same figures give the same picture.
    mpl.rcParams |= {"svg.hashsalt": "ossy", "svg.fonttype": "none"}
    from matplotlib import pyplot

    sizes = sorted(figures, key=int)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name in figures[sizes[0]]:
        numbers = [int(size) for size in sizes]
        lines = {
            who: [figures[s][name][who] for s in sizes] for who in ("store", "bare")
        }
        (line,) = axes.plot(numbers, lines["store"], "o-", label=name)
        axes.plot(numbers, lines["bare"], ":", color=line.get_color(), linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="events in the store",
        ylabel="microseconds a unit",
        title="Cost of one unit: the store (line), plain driver (dots)",
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw them as SVG")
    parser.add_argument(
        "--of",
        metavar="FILE",
        help="do not measure: take the figures of an earlier run",
    )
    options = parser.parse_args()
    if options.of:
        found = json.loads(Path(options.of).read_text())
    else:
        found = measured(options)
        print(", ".join(f"{key} {value}" for key, value in found["machine"].items()))
    print_figures(found["microseconds"])
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        draw(found["microseconds"], options.plot)


def measured(options):
    database = bench.set_up()
    options.file = None
    figures = {}
    try:
        for size in options.sizes:
            options.events = size
            figures[str(size)] = costs(options)
        return {"machine": bench.machine(), "microseconds": figures}
    finally:
        database.client.drop_database(database.name)


if __name__ == "__main__":
    main()
