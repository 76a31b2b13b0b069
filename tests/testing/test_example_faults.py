"""The tests of the example find every fault that is put into it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from pymongo import MongoClient

from tests.support.processes import ON_URL

ROOT = Path(__file__).parents[2]


@pytest.mark.faults
@ON_URL
def test_each_fault_in_the_example_is_found():
    name = f"example_faults_{os.getpid()}"
    environment = {
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "loans_site.settings",
        "DB_URL": settings.SERVER,
        "DB_NAME": name,
        "PYTEST_ADDOPTS": "",  # of the run around it
    }
    command = ("-m", "tests.support.example_faults", str(ROOT / "example_project"))
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    with MongoClient(settings.SERVER) as client:
        client.drop_database(f"test_{name}")
    assert done.returncode == 0, done.stdout + done.stderr
