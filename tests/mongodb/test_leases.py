"""Leases: one of many processes holds each, by the server's clock."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from pymongo.errors import DuplicateKeyError

from ossy_event_store.mongodb import connection, leases
from ossy_event_store.mongodb.ports import drive


def acquire(store, owner, seconds=30.0):
    return drive(leases.acquire(store, "work", owner, seconds))


def test_one_of_many_gets_the_lease(store):
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: acquire(store, f"owner-{n}"), range(8)))
    assert sum(got) == 1


def test_only_the_owner_renews_a_lease(store):
    assert acquire(store, "one")
    assert acquire(store, "one")
    assert not acquire(store, "other")


def test_an_expired_lease_goes_to_the_next_owner_with_a_new_fence(store):
    assert acquire(store, "one", seconds=0)
    assert acquire(store, "other")
    document = connection.raw(store.leases).find_one({"_id": "work"})
    assert (document["owner"], document["fence"]) == ("other", 2)


def test_a_released_lease_is_free_and_only_its_owner_releases_it(store):
    assert acquire(store, "one")
    drive(leases.release(store, "work", "other"))
    assert not acquire(store, "other")
    drive(leases.release(store, "work", "one"))
    assert acquire(store, "other")


def test_the_time_is_the_servers_and_aware(store, face):
    before = dt.datetime.now(dt.UTC)
    if face.runner is None:
        found = drive(leases.server_time(store))
    else:
        found = face.runner.run(awaited_time())
    assert abs(found - before) < dt.timedelta(seconds=60)


async def awaited_time():
    return await leases.server_time(await connection.awaitable())


def test_an_index_of_the_project_is_not_another_owner(store, _unbound):  # noqa: PT019 - its value is used
    raw = _unbound(store.leases)
    raw.insert_one({"_id": "other", "owner": None})
    name = raw.create_index("owner", unique=True)
    try:
        with pytest.raises(DuplicateKeyError):
            acquire(store, "one")
    finally:
        raw.drop_index(name)
