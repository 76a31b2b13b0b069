"""
Half a minute of each kind of chaos, and nothing may be lost, missed or doubled.

``CHAOS_SECONDS``, ``CHAOS_SUBSCRIPTIONS_SECONDS`` and ``CHAOS_SEED`` choose other runs;
``python -m tests.chaos``, with ``--subscriptions``, runs them without pytest.
"""

import os
import random

import pytest

from tests.chaos import run as appends
from tests.chaos.nemesis import ACTIONS
from tests.chaos.subscribed import run as subscriptions

SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
SUBSCRIPTIONS_SECONDS = float(os.environ.get("CHAOS_SUBSCRIPTIONS_SECONDS", "30"))

pytestmark = pytest.mark.chaos


@pytest.fixture
def chaos(tmp_path, capsys):
    """Return a function that makes a run, prints its report and finds nothing wrong."""

    def chaos(run, seconds, least):
        seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
        report = run(tmp_path, seconds, seed)
        with capsys.disabled():
            print(f"\n{report}")  # noqa: T201 - the seed, to run it again
        assert report.violations == {}
        assert report.acknowledged > seconds * least
        return report

    return chaos


def test_whatever_fails_no_event_is_lost_or_doubled_or_followed_by_a_hole(chaos):
    report = chaos(appends.run, SECONDS, least=10)  # it does 200 on two cores, alone
    assert sum(report.nemesis.values()) >= min(SECONDS / 20, len(ACTIONS))


def test_each_event_has_one_position_and_one_effect_whatever_is_killed(chaos):
    report = chaos(subscriptions.run, SUBSCRIPTIONS_SECONDS, least=2)  # it does 40
    assert report.history_lost
    assert report.fail_overs
    killed = {kind.split()[-1] for kind in report.crew if kind.startswith("kill")}
    assert killed >= {"writer", "sequencer", "subscriber"}
