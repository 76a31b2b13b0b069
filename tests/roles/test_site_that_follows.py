"""The tests of subscriptions pass with the rights of a site that runs them."""

import pytest

from tests.support.roles import guarded_marks, run_tests_as

pytestmark = [pytest.mark.faults, *guarded_marks]

FOLLOWING = (
    "management/test_subscriptions.py",
    "positions",
    "projections",
    "subscriptions",
)


def test_the_tests_of_subscriptions_pass_as_a_site_that_follows(become, guarded):
    run_tests_as("shop_both", FOLLOWING, guarded)
