"""One stream with many concurrent writers."""

import statistics
import threading
import time

import append as by_hand
import bench

WRITERS = 32
EACH = 10  # events of a writer in a turn


def writers(options):
    """Append from 32 threads, with ``Aggregate.execute`` or a hand-written loop."""
    from loans.aggregate import LoanApplication as Root
    from pymongo.errors import DuplicateKeyError

    from ossy_event_store import Aggregate

    events, _ = by_hand.collections()
    attempts = {"store": [], "bare": []}
    times = {"store": [], "bare": []}

    def execute(name):
        def decide(aggregate):
            attempts["store"].append(1)
            aggregate.view()
            return by_hand.EVENT

        Aggregate.execute(Root, name, decide)

    def loop(name):
        while True:
            attempts["bare"].append(1)
            found = events.find({"aggregateId": name}).sort("aggregateVersion", 1)
            stream = found.to_list()
            Root.view(stream, {})
            try:
                events.insert_one(by_hand.document(name, len(stream) + 1))
            except DuplicateKeyError:
                continue
            return

    def from_all(who, function):
        name = by_hand.new_id()

        def work():
            for _ in range(EACH):
                began = time.perf_counter()
                function(name)
                times[who].append(time.perf_counter() - began)

        threads = [threading.Thread(target=work) for _ in range(WRITERS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = time.perf_counter() - began
        assert events.count_documents({"aggregateId": name}) == many
        return spent

    many = WRITERS * EACH
    seconds = bench.turns(
        options.rounds,
        store=lambda: from_all("store", execute),
        bare=lambda: from_all("bare", loop),
    )
    what = f"hot stream, {WRITERS} writers"
    appended = options.rounds * many
    tries = {who: len(some) / appended for who, some in attempts.items()}
    slow = {
        who: 1000 * statistics.quantiles(some, n=100)[98] for who, some in times.items()
    }
    return [
        bench.row(f"{what}: events", many, seconds),
        bench.figure(f"{what}: attempts an event", tries["store"], "", tries["bare"]),
        bench.figure(f"{what}: p99 of an event", slow["store"], "ms", slow["bare"]),
    ]
