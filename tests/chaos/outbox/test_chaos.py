"""
A short run of the outbox: what commits is appended, once and in order.

``CHAOS_BLOCKS`` and ``CHAOS_SEED`` choose another run; ``python -m tests.chaos
--outbox`` runs it without pytest. With ``TEST_POSTGRESQL`` it runs on PostgreSQL.
"""

import os
import random

import pytest
from django.apps import apps

from tests.chaos.outbox.run import Options, expected, run

if not apps.is_installed("ossy_event_store.relational"):
    pytest.skip("the default database is no SQL database", allow_module_level=True)

BLOCKS = int(os.environ.get("CHAOS_BLOCKS", "60"))  # of each of four writers
LONGEST_LAG = 1000  # milliseconds of 99 % in quiet


def seed():
    return int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))


@pytest.mark.chaos
def test_what_commits_is_appended_once_and_in_order_whatever_is_killed(
    tmp_path, capsys
):
    report = run(tmp_path, Options(seed(), blocks=BLOCKS, deadly=0.02))
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201 - the seed, to run it again
    assert report.violations == {}
    assert report.events == expected(report)
    assert report.rolled_back > report.committed / 4
    # Which points they hit is chance, and a quick run ends before all were hit.
    assert sum(report.kills.values()) > 4


@pytest.mark.chaos
def test_in_quiet_the_relay_appends_within_a_second(tmp_path, capsys):
    calm = {"deadly": 0, "relay_only": True, "relays": 1, "pause": 0.2}
    report = run(tmp_path, Options(seed(), blocks=BLOCKS // 2, **calm))
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201
    assert report.violations == {}
    assert report.lag_p99 < LONGEST_LAG
