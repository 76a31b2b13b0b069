"""Other processes that work on the store of a test: their environment, and servers."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from django.conf import settings

from ossy_event_store.mongodb import connection
from tests.support.servers import free_port

ON_URL = pytest.mark.skipif(
    settings.STORE != "url", reason="the other processes connect by URL"
)


def here(store):
    """Return the environment in which another process uses the store of this test."""
    return {
        "TEST_MONGODB_URL": settings.SERVER,
        "TEST_STORE_NAME": connection.raw(store.events).database.name,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }


@contextmanager
def serving(tmp_path, *command, **environment):
    """Run a server; give a function for its log and one for its answer."""
    log = tmp_path / "log"
    port = free_port()
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *(part.format(port=port) for part in command)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )

    def answer():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                return page.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, log.read_text()
            return None

    try:
        yield log.read_text, answer
    finally:
        process.terminate()
        process.wait(30)
