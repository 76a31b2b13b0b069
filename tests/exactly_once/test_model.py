"""
Random histories of a subscription keep its promises, whatever its kind of effect.

``EXACTLY_ONCE_SECONDS`` and ``EXACTLY_ONCE_SEED`` choose another run;
``python -m tests.exactly_once`` runs it without pytest.
"""

import contextlib
import os
import random

import pytest
from django.conf import settings

if settings.STORE != "url" or settings.ADMIN:
    pytest.skip("the harness empties a store of its own", allow_module_level=True)

from tests.exactly_once.kinds import KINDS, Plain, Session
from tests.exactly_once.model import Doubled, Lost, Model, OutOfOrder, Unasked
from tests.exactly_once.run import database, run

SECONDS = float(os.environ.get("EXACTLY_ONCE_SECONDS", "5"))  # of each kind


@pytest.fixture
def sql(store, django_db_blocker):
    with django_db_blocker.unblock(), database():
        yield


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_each_event_takes_effect_as_often_as_promised(kind, sql, capsys):
    first = int(os.environ.get("EXACTLY_ONCE_SEED", random.randrange(10**6)))
    report = run(kind, SECONDS, first)
    with capsys.disabled():
        print(f"\nseed {first}, {report}")  # noqa: T201 - to see it again
    if report.violation is not None:
        raise report.violation
    assert report.missing == []


# --- the checker finds what is broken -----------------------------------------


class OutsideOfTheTransaction(Session):
    """The effect is stored whatever becomes of the checkpoint."""

    def insert(self, new, session):
        super().insert(new, None)


class ForgetsAfterFailure(Plain):
    """The handler takes a failure for success."""

    def check(self, event, where):
        if where == "before" and self.fault(event, where):
            raise SkipsIt
        super().check(event, where)

    def subscribe(self, handler, **options):
        def forgetful(event):
            with contextlib.suppress(SkipsIt):
                handler(event)

        return super().subscribe(forgetful, **options)


class SkipsIt(Exception):
    pass


@pytest.mark.faults
@pytest.mark.parametrize(
    ("weak", "finds"),
    [(OutsideOfTheTransaction, (Doubled, Unasked)), (ForgetsAfterFailure, Lost)],
)
def test_a_broken_promise_is_found(weak, finds, sql, monkeypatch):
    monkeypatch.setitem(KINDS, "weak", weak)
    report = run("weak", 60, 1, shrinks=False)
    assert isinstance(report.violation, finds)


# --- the model ------------------------------------------------------------------


@pytest.fixture
def model():
    model = Model(exact=True)
    for stream in ("a", "a", "b", "a"):
        model.append(stream, "x")
    return model


def found(model, *effects, reached=4, waits=None):
    problems = model.problems({"": list(effects)}, reached, waits or {})
    return [(type(one), str(one)[:7]) for one in problems]


def test_all_events_once_in_the_order_of_their_streams_is_right(model):
    assert found(model, 1, 2, 3, 4) == []
    assert found(model, 3, 1, 2, 4) == []
    assert found(model, 1, reached=1) == []


def test_an_event_that_was_passed_over_is_lost(model):
    assert found(model, 1, 3, 4) == [
        (Lost, "event 2"),
        (OutOfOrder, "a in ''"),
    ]
    assert found(model, 1, 2, 3) == [(Lost, "event 4")]


def test_an_event_that_waits_after_a_parked_one_is_not_lost(model):
    assert found(model, 1, 3, waits={"a": 2}) == []
    assert found(model, 1, waits={"a": 2}) == [(Lost, "event 3")]


def test_an_event_twice_is_found_where_it_may_be_once(model):
    assert (Doubled, "event 3") in found(model, 1, 2, 3, 3, 4)
    model.exact = False
    assert found(model, 1, 2, 1, 2, 3, 3, 4) == []


def test_a_skipped_event_has_no_effect(model):
    model.skipped.add(2)
    assert found(model, 1, 3, 4) == []
    assert (Unasked, "event 2") in found(model, 1, 2, 3, 4)


def test_after_a_reset_later_events_are_wanted_again(model):
    model.skipped.add(2)
    model.reset(2)
    assert found(model, 3, 4) == []
    assert found(model, 2, 3, 4) == [(Unasked, "event 2")]
    assert found(model, 3) == [(Lost, "event 4")]


def test_each_document_of_a_projection_is_checked_alone():
    model = Model(exact=True, keyed=True)
    for key in ("x", "y", None, "x"):
        model.append("a", key)
    assert list(model.problems({"x": [1, 4], "y": [2]}, 4, {})) == []
    (wrong,) = model.problems({"x": [4, 1], "y": [2]}, 4, {})
    assert isinstance(wrong, OutOfOrder)
    assert [str(one)[:7] for one in model.missing({"x": [1, 4]})] == ["event 2"]
