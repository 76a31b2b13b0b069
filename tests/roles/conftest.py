"""A server with authentication, and the users of docs/howto/roles.md."""

import pytest

from ossy_event_store import Mongo
from ossy_event_store.mongodb import connection
from tests.support import servers
from tests.support.roles import PROJECTION, begin, said


@pytest.fixture(scope="session")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "key"
    key.write_text("a key for tests alone")
    key.chmod(0o600)
    with servers.running(folder / "set", options=("--keyFile", str(key))) as started:
        guarded = begin(started)
        with guarded.admin:
            yield guarded


@pytest.fixture
def become(guarded, settings):
    """Become a user of the page; the store is empty and has its indexes."""
    own = settings.OSSY_EVENT_STORE

    def become(user):
        settings.OSSY_EVENT_STORE = {**own, "URL": guarded.url(user)}
        return connection.blocking()

    for name in (*connection.COLLECTION_OPTIONS, PROJECTION):
        guarded.database[name].delete_many({})
    become("shop_deploy")
    said("ensure_event_store", "--no-validator")
    yield become
    Mongo.close()


@pytest.fixture
def appender(become):
    return become("shop_site")
