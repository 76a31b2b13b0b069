"""
Half a minute of chaos: three nodes that fail all the time, and nothing may be lost.

``CHAOS_SECONDS`` and ``CHAOS_SEED`` choose another run; ``python -m tests.chaos``
runs it without pytest.
"""

import os
import random

import pytest

from tests.chaos.nemesis import ACTIONS
from tests.chaos.run import run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
LEAST = 10  # acknowledged events a second: it does 200 on two cores, alone


@pytest.mark.chaos
def test_whatever_fails_no_event_is_lost_or_doubled_or_followed_by_a_hole(
    tmp_path, capsys
):
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    report = run(tmp_path, SECONDS, seed)
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201 - the seed, to run it again
    assert report.violations == {}
    assert report.acknowledged > SECONDS * LEAST
    assert sum(report.nemesis.values()) >= min(SECONDS / 20, len(ACTIONS))
