"""The awaitable face with many concurrent tasks, against ``AsyncMongoClient``."""

import asyncio

import append as by_hand
import bench

TASKS = 64
EACH = 4  # operations of a task in a turn


def both(options):
    """Append and load from 64 tasks."""
    from loans.aggregate import LoanApplication as Root

    from ossy_event_store import Aggregate, EventStore, Mongo

    event, many = by_hand.EVENT, TASKS * EACH

    async def work():
        events, snapshots = (
            await EventStore.acollection(),
            await Aggregate.acollection(),
        )
        name = by_hand.new_id()
        await Aggregate(Root, name, []).aadd(*[event] * 10)

        async def append(aggregate_id):
            aggregate = Aggregate(Root, aggregate_id, [])
            for _ in range(EACH):
                await aggregate.aadd(event)

        async def insert(aggregate_id):
            for version in range(1, EACH + 1):
                await events.insert_one(by_hand.document(aggregate_id, version))

        async def load(_):
            for _ in range(EACH):
                state = (await Aggregate.aof(Root, name)).view()
            return state

        async def find(_):
            for _ in range(EACH):
                await snapshots.find_one({"_id": name})
                found = events.find({"aggregateId": name}).sort("aggregateVersion", 1)
                state = Root.view(await found.to_list(), {})
            return state

        await append("awaited by store")
        await insert("awaited by hand")
        stored = by_hand.shape
        one, other = await asyncio.gather(
            *(asyncio.to_thread(stored, f"awaited by {x}") for x in ("store", "hand"))
        )
        assert one == other != []
        assert await load(None) == await find(None)

        async def tasks(function):
            # No TaskGroup: nothing fails here, and its cost would count for both.
            await asyncio.gather(*(function(by_hand.new_id()) for _ in range(TASKS)))

        return (
            await turns(options.rounds * 4, tasks, store=append, bare=insert),
            await turns(options.rounds * 4, tasks, store=load, bare=find),
        )

    async def turns(rounds, tasks, **functions):
        loop = asyncio.get_running_loop()
        seconds = {name: [] for name in functions}
        order = list(functions.items())
        for number in range(rounds + 1):
            for name, function in order:
                began = loop.time()
                await tasks(function)
                if number:  # the first opens the connections
                    seconds[name].append(loop.time() - began)
            order.reverse()
        return seconds

    async def run():
        try:
            return await work()
        finally:
            await Mongo.aclose()

    appended, loaded = asyncio.run(run())
    return [
        bench.row(f"append from {TASKS} tasks", many, appended, least=0.85),
        bench.row(f"load 10 events from {TASKS} tasks", many, loaded, least=0.85),
    ]
