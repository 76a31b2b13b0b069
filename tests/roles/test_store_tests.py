"""The tests of the store pass with no more rights than a site has that appends."""

import pytest

from tests.support.roles import guarded_marks, run_tests_as

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


def test_the_tests_of_the_store_pass_as_the_appender(become, guarded):
    run_tests_as("shop_site", MAIN, guarded)
