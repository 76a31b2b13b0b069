"""A worker process: which store it uses, and which errors it can send."""

import os
import subprocess
import sys

import pytest
from django.conf import settings
from pymongo.errors import AutoReconnect, BulkWriteError

from ossy_event_store import RebuildBroken
from ossy_event_store.rebuild.worker import portable
from tests.support.processes import here


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("gone"),
        BulkWriteError({"writeErrors": [{"code": 1}]}),
        RebuildBroken("Book", -9),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_sent_as_it_is(error):
    assert portable(error) is error


def test_an_error_that_cannot_be_sent_is_sent_as_text():
    class Local(Exception):
        pass

    assert str(portable(Local("x"))) == "Local: x"


def test_a_worker_uses_the_database_of_its_parent(store):
    code = (
        "import django; django.setup()\n"
        "from ossy_event_store.mongodb import connection, location\n"
        "location.adopt(None, 'adopted')\n"
        "print(connection.raw(connection.blocking().events).database.name)"
    )
    if settings.STORE != "url":
        pytest.skip("the alias says where")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **here(store)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "adopted\n"
