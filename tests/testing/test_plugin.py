"""Small projects that use nothing but the kit, in processes of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from pymongo import MongoClient

from tests.support.plugin import LOAD_PLUGIN
from tests.support.processes import ON_URL

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "support" / "shop_project"

pytestmark = [pytest.mark.faults, ON_URL]


@pytest.fixture
def shop(tmp_path):
    """Run a command in a copy of the project, which no conftest of ours reaches."""
    folder, name = tmp_path / "shop", f"shop_{os.getpid()}"
    shutil.copytree(PROJECT, folder)
    environment = {
        **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "DJANGO_SETTINGS_MODULE": "settings",
        "SHOP_URL": settings.SERVER,
        "SHOP_NAME": name,
    }

    def run(*command):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    yield run
    with MongoClient(settings.SERVER) as client:
        for database in client.list_database_names():
            if database.startswith(f"test_{name}"):
                client.drop_database(database)


def test_pytest_with_two_workers(shop):
    options = ("-n", "2", "--rootdir", ".", "-c", os.devnull, "-p", "no:cacheprovider")
    _, output = shop("pytest", *options, *LOAD_PLUGIN, "for_pytest.py")
    assert "1 failed, 6 passed" in output, output
    # The one that is to fail, readable.
    assert "the appended events are not as expected" in output
    assert 'want "bob"' in output


def test_djangos_runner_with_two_processes(shop):
    code, output = shop("django", "test", "--parallel", "2")
    assert (code, "Ran 10 tests" in output) == (0, True), output
