"""
Half a minute of chaos for positions and subscriptions: nothing missed, nothing twice.

``CHAOS_SUBSCRIPTIONS_SECONDS`` and ``CHAOS_SEED`` choose another run;
``python -m tests.chaos --subscriptions`` runs it without pytest.
"""

import os
import random

import pytest

from tests.chaos.subscribed.run import run

SECONDS = float(os.environ.get("CHAOS_SUBSCRIPTIONS_SECONDS", "30"))
LEAST = 2  # acknowledged events a second: it does 40 on two cores, alone


@pytest.mark.chaos
def test_each_event_has_one_position_and_one_effect_whatever_is_killed(
    tmp_path, capsys
):
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    report = run(tmp_path, SECONDS, seed)
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201 - the seed, to run it again
    assert report.violations == {}
    assert report.acknowledged > SECONDS * LEAST
    assert report.history_lost
    assert report.fail_overs
    killed = {kind.split()[-1] for kind in report.crew if kind.startswith("kill")}
    assert killed >= {"writer", "sequencer", "subscriber"}
