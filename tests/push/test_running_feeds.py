"""One feed serves every connection of a process."""

import asyncio
import re
from pathlib import Path

import pytest

from ossy_event_store import EventStore
from ossy_event_store.mongodb import connection
from ossy_event_store.positions.head_watcher import watcher
from tests.support.growth import KB, held
from tests.support.processes import ON_URL
from tests.support.push import BOOK, serving_alone
from tests.support.servers import until

pytestmark = ON_URL


MANY = 1000


@pytest.fixture
def many_files():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * MANY
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connections_and_streams(store):
    """Return the connections of MongoDB, and the change streams of this database."""
    database = connection.raw(store.events).database
    admin = database.client.admin
    stage = {"$currentOp": {"allUsers": True, "idleCursors": True}}
    asked = [
        operation.get("cursor", {}).get("originatingCommand", {}).get("pipeline")
        for operation in admin.aggregate([stage])
        if operation.get("ns", "").startswith(f"{database.name}.")
    ]
    streams = [
        pipeline for pipeline in asked if pipeline and "$changeStream" in pipeline[0]
    ]
    return admin.command("serverStatus")["connections"]["current"], len(streams)


@pytest.mark.chaos  # it counts the connections of the whole server
def test_a_thousand_connections_cost_mongodb_no_more_than_a_few(
    positions, store, lend, tmp_path, many_files
):
    async def one(port, number, listens):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        path = f"/push/book/b-{number}/"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"retry: 3000\n\n")
        await reader.readuntil(b"\n\n")
        listens.append(number)
        text = await reader.readuntil(b'"createdBy":null}\n\n')
        writer.close()
        return re.findall(rb'"aggregateId":"([\w-]+)"', text)

    async def all_of_them(port):
        listens = []
        each = [asyncio.create_task(one(port, n, listens)) for n in range(MANY)]
        while len(listens) < MANY:
            assert not any(task.done() for task in each)
            await asyncio.sleep(0.05)
        during = connections_and_streams(store)
        for number in range(MANY):
            EventStore.append_event({**BOOK, "aggregateId": f"b-{number}"})
        return during, await asyncio.gather(*each)

    watcher.close()  # of the tests before
    lend("a", "BookLent")
    until(lambda: EventStore.head_position() == 1)
    with serving_alone(store, tmp_path) as (port, _):
        before = connections_and_streams(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
            during, heard = asyncio.run(all_of_them(port))
        after = connections_and_streams(store)
    assert heard == [[f"b-{number}".encode()] for number in range(MANY)]
    assert max(during[0], after[0]) - before[0] <= 20
    assert during[1] - before[1] == 1


@pytest.mark.chaos  # it counts the sessions of the whole server
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_connections_that_come_and_go_leave_nothing_behind(
    positions, store, tmp_path, many_files
):
    async def one(port, joined):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /push/all/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"retry: 3000\n\n")
        await reader.readuntil(b"\n\n")
        joined.append(writer)
        await reader.readuntil(b'"createdBy":null}\n\n')
        writer.close()

    async def wave(port):
        joined = []
        each = [asyncio.create_task(one(port, joined)) for _ in range(MANY // 2)]
        while len(joined) < len(each):
            assert not any(task.done() for task in each)
            await asyncio.sleep(0.05)
        await EventStore.aappend_event(BOOK)
        await asyncio.gather(*each)

    with serving_alone(store, tmp_path) as (port, log):
        (pid,) = re.findall(r"Started server process \[(\d+)\]", log())

        def has_ended(first):
            now = held(store, pid)
            return now.files <= first.files + 5 and now.threads <= first.threads + 5

        def held_after_a_wave(first):
            asyncio.run(wave(port))
            until(lambda: has_ended(first))
            return held(store, pid)

        start = held(store, pid)
        # The interpreter takes some megabytes in the first waves, and then no more.
        *_, before = [held_after_a_wave(start) for _ in range(4)]
        *_, after = [held_after_a_wave(start) for _ in range(8)]
    assert after.memory - before.memory < 8 * MANY // 2 * KB
    assert after.sessions <= before.sessions + 10


def test_the_count_of_change_streams_sees_one(store):
    watcher.close()
    before = connections_and_streams(store)[1]
    with connection.raw(store.events).watch():
        assert connections_and_streams(store)[1] == before + 1
