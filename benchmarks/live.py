"""
Measure subscribers while events arrive: their delay, and their cost for the writers.

All members run on loopback; the subscribers run in their own process, as in production.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import bench

STREAMS = 4000
APPENDING = 8  # threads by default
FOLLOWING = ("delays", "per_day", "snapshots")
CATCH_UP_SECONDS = 120  # until all subscribers are up to date, at most
EVENT = {"aggregateType": "LoanApplication", "type": "A_SUBMITTED"}


def follow(url, name, pipe):
    """Run all subscriptions until a message arrives, then send when events arrived."""
    os.environ["DB_URL"], bench.NAME = url, name
    bench.set_up()
    from ossy_event_store.projections.projection import Projection, register_projection
    from ossy_event_store.subscriptions.declaration import subscription
    from ossy_event_store.subscriptions.runner import Runner

    arrived = []

    @subscription("delays")
    def note(event):
        arrived.append((event["payload"]["sent"], time.time()))

    @register_projection
    class Days(Projection):
        name = "per_day"

        @staticmethod
        def key(event):
            return event["created"].strftime("%Y-%m-%d")

        @staticmethod
        def apply(event, state):
            state["events"] = state.get("events", 0) + 1
            return state

    runner = Runner(FOLLOWING)
    threading.Thread(target=lambda: (pipe.recv(), runner.stop.set())).start()
    runner.run()
    pipe.send(arrived)


def spent(pids):
    """Return the CPU seconds that some processes have used so far."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1] for pid in pids]
    ticks = sum(int(n) for stat in stats for n in stat.split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def following(url, pids=None):
    """Run the subscribers in another process; then the list holds what arrived when."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=follow, args=(url, bench.NAME, theirs))
    process.start()
    if pids is not None:
        pids["followers"] = [process.pid]
    arrived = []
    try:
        yield arrived
    finally:
        ours.send("stop")
        arrived.extend(ours.recv())
        process.join()


def in_threads(work):
    threads = [threading.Thread(target=work, args=[n]) for n in range(APPENDING)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def append_at(rate, seconds, name):
    """Append at a rate; return each event with the time when it was stored."""
    from ossy_event_store import EventStore

    appended, began = [], time.time()

    def work(thread):
        for number in range(thread, int(rate * seconds), APPENDING):
            time.sleep(max(0, began + number / rate - time.time()))
            # Each thread cycles through its own streams.
            stream, version = f"{name}-{number % STREAMS}", number // STREAMS + 1
            sent = time.time()
            EventStore.append_event(
                {**EVENT, "aggregateId": stream, "payload": {"sent": sent}},
                expected_version=version - 1,
            )
            appended.append((stream, version, sent, time.time()))

    in_threads(work)
    return appended


def append_for(seconds, name):
    """Append as fast as the threads can; return events a second."""
    from ossy_event_store import EventStore

    end, counts = time.perf_counter() + seconds, []

    def work(thread):
        count = 0
        while time.perf_counter() < end:
            stream, version = f"{name}-{thread}-{count // 10}", count % 10
            EventStore.append_event(
                {**EVENT, "aggregateId": stream, "payload": {"sent": time.time()}},
                expected_version=version,
            )
            count += 1
        counts.append(count)

    spent = in_threads(work)
    return sum(counts) / spent


@contextmanager
def watching(snapshots):
    """Record when each version of each snapshot was stored, with a small delay."""
    seen, done = {}, threading.Event()
    stages = [{"$project": {"documentKey": 1, "fullDocument.aggregateVersion": 1}}]

    def watch():
        while not done.is_set():
            change = stream.try_next()
            if change is not None:
                version = change["fullDocument"]["aggregateVersion"]
                seen[change["documentKey"]["_id"], version] = time.time()

    with snapshots.watch(stages, max_await_time_ms=100) as stream:
        thread = threading.Thread(target=watch)
        thread.start()
        yield seen
        time.sleep(1)
        done.set()
        thread.join()


def lag(stream, version, stored, seen):
    """Return the seconds until a snapshot had a version, or a later one."""
    while (stream, version) not in seen:
        version += 1
        assert version < 1000, f"no snapshot of {stream} was seen"
    return seen[stream, version] - stored


def spread(what, values):
    values = sorted(values)
    at = {"p50": 0.5, "p99": 0.99, "max": 1}
    last = len(values) - 1
    ms = {name: round(1000 * values[int(last * part)], 1) for name, part in at.items()}
    return {"what": what, "count": len(values), **ms}


def measure(members, url, options):
    database = bench.set_up()
    from ossy_event_store import EventStore
    from ossy_event_store.mongodb import connection

    store = connection.blocking()
    checkpoints = connection.raw(store.subscriptions)
    events, snapshots = connection.raw(store.events), connection.raw(store.snapshots)
    positions = connection.raw(store.positions)

    def catch_up():
        """Wait until all subscribers are up to date."""
        reached = {"position": events.count_documents({})}
        end = time.monotonic() + CATCH_UP_SECONDS
        while checkpoints.count_documents(reached) < len(FOLLOWING):
            assert time.monotonic() < end, "the subscribers do not catch up"
            time.sleep(0.05)

    EventStore.append_event({**EVENT, "aggregateId": "first", "payload": {"sent": 0}})
    waits = []
    for rate in options.rates:
        with following(url) as arrived:
            catch_up()
            with watching(database[snapshots.name]) as seen:
                began = time.time()
                appended = append_at(rate, options.seconds, f"at{rate}")
                real = len(appended) / (time.time() - began)
                catch_up()
        stored = {sent: at for _, _, sent, at in appended}
        delays = [at - stored[sent] for sent, at in arrived if sent in stored]
        assert len(delays) == len(appended), "not every event was delivered once"
        lags = [lag(stream, n, at, seen) for stream, n, _, at in appended]
        waits.append(spread(f"handler, {real:.0f} events/s", delays))
        waits.append(spread(f"snapshot, {real:.0f} events/s", lags))

    rates, behind = {"off": [], "on": []}, []
    cpu = {"off": defaultdict(list), "on": defaultdict(list)}
    pids = {"members": [m.process.pid for m in members], "appending": [os.getpid()]}

    def appending(mode, number):
        before = {name: spent(some) for name, some in pids.items()}
        began = events.estimated_document_count()
        rates[mode].append(append_for(options.seconds, f"{mode}{number}"))
        done = events.estimated_document_count() - began
        for name, some in pids.items():
            cpu[mode][name].append(1000 * (spent(some) - before[name]) / done)

    for number in range(options.rounds):
        appending("off", number)
        with following(url, pids):
            catch_up()
            appending("on", number)
            assigned = positions.estimated_document_count()
            behind.append(events.estimated_document_count() - assigned)
            catch_up()
        del pids["followers"]
    report(waits, rates, behind, cpu, options)
    database.client.drop_database(database.name)


def report(waits, rates, behind, cpu, options):
    machine = bench.machine()
    print(" ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'after the acknowledgement, ms':34} {'p50':>8} {'p99':>8} {'max':>8}")
    for one in waits:
        print(f"{one['what']:34} {one['p50']:8} {one['p99']:8} {one['max']:8}")
    on, off = (statistics.median(rates[name]) for name in ("on", "off"))
    ratios = [a / b for a, b in zip(rates["on"], rates["off"], strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"appends/s of {APPENDING} threads: {on:.0f} with subscribers, {off:.0f} "
        f"without; median of the ratios {ratio:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"events without a position at the end: at most {max(behind)}")
    milliseconds = {
        mode: {who: round(statistics.median(all_), 2) for who, all_ in used.items()}
        for mode, used in cpu.items()
    }
    print(f"CPU milliseconds an append: {milliseconds}")
    if options.json:
        found = {"machine": machine, "waits": waits, "appends": rates}
        print(
            json.dumps({**found, "ratio": ratio, "behind": behind, "cpu": milliseconds})
        )


def main():
    global APPENDING
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=3, help="of the replica set")
    parser.add_argument("--threads", type=int, default=APPENDING, help="that append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each round")
    parser.add_argument("--rates", type=int, nargs="*", default=[100, 500])
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args()
    APPENDING = options.threads
    sys.path[:0] = [str(bench.ROOT)]
    from tests.support import servers

    with (
        tempfile.TemporaryDirectory() as folder,
        servers.running(Path(folder), members=options.members) as three,
    ):
        os.environ["DB_URL"] = three.url()
        measure(three.members, three.url(), options)


if __name__ == "__main__":
    main()
