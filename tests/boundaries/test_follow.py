"""Follow the events of tags: in global order, by subscriptions and projections."""

import threading

import pytest
from django.core.exceptions import ImproperlyConfigured

from ossy_event_store import EventStore, Projection, register_projection, subscription
from ossy_event_store.mongodb import connection
from ossy_event_store.projections import projection
from ossy_event_store.projections.projection import Projection as Base
from ossy_event_store.subscriptions.runner import assign_positions
from tests.support.subscriptions import reached, running, said

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def appended(store):
    """Five events, of which the first, second and last have tags."""
    plain = {"type": "A", "aggregateId": "plain", "aggregateType": "Plain"}
    for tags in (["x"], ["x", "y"], None, None, ["y", "x", "z"]):
        if tags:
            EventStore.append_event({"type": "A", "tags": tags, "payload": {"n": 1}})
        else:
            EventStore.append_event(plain)
    assign_positions(threading.Event())


def positions(events):
    return [event["position"] for event in events]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (None, [1, 2, 3, 4, 5]),
        (["x"], [1, 2, 5]),
        (["x", "y"], [2, 5]),
        (("z", "y"), [5]),
        (["unknown"], []),
    ],
)
def test_read_all_takes_tags(appended, face, tags, found):
    assert positions(face.list(EventStore.read_all, tags=tags)) == found
    assert positions(face.list(EventStore.read_all, 1, tags=tags, types=["A"])) == [
        position for position in found if position > 1
    ]
    assert face.list(EventStore.read_all, tags=tags, types=["B"]) == []


@pytest.mark.parametrize("tags", ["x", [], [1], {"x": 1}])
def test_wrong_tags_are_refused(store, face, tags):
    with pytest.raises((TypeError, ValueError), match="tags"):
        face.list(EventStore.read_all, tags=tags)
    with pytest.raises(ImproperlyConfigured, match="tags"):
        subscription("wrong", tags=tags)(print)

    class Wrong(Base):
        name = "wrong"

        @staticmethod
        def key(event):
            return "x"

        @staticmethod
        def apply(event, state):
            return state

    Wrong.tags = tags
    with pytest.raises(ImproperlyConfigured, match="tags"):
        register_projection(Wrong)


def test_an_entry_has_the_tags_of_its_event(appended, store):
    entries = connection.raw(store.positions)
    tags = [entry.get("tags") for entry in entries.find(sort=[("_id", 1)])]
    assert tags == [["x"], ["x", "y"], None, None, ["y", "x", "z"]]
    plan = entries.find({"tags": {"$all": ["x"]}}, sort=[("_id", 1)]).explain()
    assert "tags_1__id_1" in str(plan["queryPlanner"]["winningPlan"])


def test_a_subscription_takes_tags(appended, store):
    got = []
    subscription("tagged", tags=["x", "y"])(got.append)
    with running("tagged"):
        reached(store, "tagged", 5)
    assert positions(got) == [2, 5]


def test_a_projection_takes_tags(appended, store, monkeypatch):
    monkeypatch.setattr(projection, "_registered", {})

    @register_projection
    class Tagged(Projection):
        name = "tagged"
        tags = ["y"]

        @staticmethod
        def key(event):
            return event["tags"][0]

        @staticmethod
        def apply(event, state):
            return {"count": state.get("count", 0) + 1}

    with running("tagged"):
        reached(store, "tagged", 5)
    assert (Tagged.get("x"), Tagged.get("y")) == ({"count": 1}, {"count": 1})
    said("rebuild_projections", "tagged")
    assert (Tagged.get("x"), Tagged.get("y")) == ({"count": 1}, {"count": 1})
