"""The tests of the store pass with no more rights than a site has."""

import os
import subprocess
import sys

import pytest

from tests.support.roles import ADMIN, ROOT, guarded_marks

pytestmark = [pytest.mark.faults, *guarded_marks]

# These send every command that the store sends; the awaitable face and what breaks
# servers send the same ones again.
MAIN = (
    "documents/test_query_guard.py",
    "management/test_base.py",
    "management/test_export_events.py",
    "management/test_import_events.py",
    "management/test_rebuild_aggregates.py",
    "mongodb/test_leases.py",
    "rebuild",
    "streams",
    "test_aggregate.py",
    "test_event_store.py",
)
NOT_FOR_IT = "not awaitable"
FOLLOWING = (
    "management/test_subscriptions.py",
    "positions",
    "projections",
    "subscriptions",
)


@pytest.mark.parametrize(
    ("user", "names"),
    [("shop_site", MAIN), ("shop_both", FOLLOWING)],
    ids=["the appender", "a site that follows"],
)
def test_the_tests_of_the_store_pass_as(user, names, become, guarded):
    files = [f"tests/{name}" for name in names]
    env = {
        **os.environ,
        "TEST_MONGODB_URL": guarded.url(user),
        "TEST_MONGODB_ADMIN_URL": guarded.url(ADMIN, "admin"),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", "not faults and not chaos", "-k", NOT_FOR_IT, *files),
        ],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
