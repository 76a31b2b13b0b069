"""A subscription or projection that no longer exists in the code is forgotten."""

import pytest
from django.core.management import CommandError

from ossy_event_store.exceptions import UnknownSubscription
from ossy_event_store.mongodb import connection
from ossy_event_store.mongodb.ports import drive
from ossy_event_store.monitoring import health
from ossy_event_store.monitoring.status import statuses
from ossy_event_store.projections.builds import begin_build
from ossy_event_store.projections.forget import forget
from ossy_event_store.subscriptions import declaration, operator_actions
from ossy_event_store.subscriptions.declaration import subscription
from tests.support.projections import Loans, collections
from tests.support.subscriptions import checkpoint, parked, reached, running, said

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def gone(store, lend):
    """A subscription with a parked stream that the code no longer declares."""

    @subscription("old", retries=0)
    def old(event):
        raise KeyError("title")

    subscription("old@2")(print)
    lend("a", "BookLent")
    with running():
        reached(store, "old", 1)
        reached(store, "old@2", 1)
    del declaration._registered["old"]


def names(store):
    return [one.name for one in drive(statuses(store))]


def test_lists_and_health_name_it_until_it_is_forgotten(gone, store):
    remark = (
        "old is not declared in this project; manage.py subscriptions forget old "
        "removes it."
    )
    assert remark in said("subscriptions")
    assert health.figures()["remarks"] == [remark]
    assert said("subscriptions", "forget", "old") == "Forgot old.\n"
    assert names(store) == ["old@2"]
    assert not parked(store)
    assert health.figures()["remarks"] == []
    with pytest.raises(UnknownSubscription):
        forget("old")


def test_what_is_declared_or_runs_is_not_forgotten(gone, store, lend):
    with pytest.raises(CommandError, match="old@2 is declared in this project"):
        said("subscriptions", "forget", "old@2")
    with running() as runner:
        lend("a", "BookLent")
        reached(store, "old@2", 2)
        del declaration._registered["old@2"]
        with pytest.raises(ValueError, match=f"running in process {runner.owner}"):
            forget("old@2")
    forget("old@2")
    assert names(store) == ["old"]


def test_a_projection_is_forgotten_with_its_documents_and_builds(
    loans, store, lend, caplog
):
    lend("a", "BookLent")
    with running("loans"):
        reached(store, "loans", 1)
    said("rebuild_projections", "loans", "--blue-green")
    drive(begin_build(store, Loans))
    assert names(store) == ["loans", "loans@3"]
    with pytest.raises(ValueError, match="loans@3 is declared"):
        forget("loans@3")
    declared = declaration._registered.pop("loans")
    assert forget("loans") == ["projection_loans", "projection_loans_2"]
    assert (names(store), collections(store)) == ([], [])
    # A later projection of the name begins at the first event.
    declaration.add(declared)
    with running("loans"):
        reached(store, "loans", 1)
    assert Loans.get("ann")["lent"] == 1


def test_what_never_ran_is_not_retried_and_says_why(store):
    subscription("new")(print)
    for action in (operator_actions.retry, operator_actions.pause, forget):
        with pytest.raises((UnknownSubscription, ValueError)) as caught:
            action("new")
        assert "declared" in str(caught.value)
    assert checkpoint(store, "new") is None
    assert connection.raw(store.parked).count_documents({}) == 0
