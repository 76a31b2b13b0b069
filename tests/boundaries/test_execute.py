"""Decide on a boundary in one call, with any number of concurrent writers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ossy_event_store import (
    Boundary,
    BoundaryConflict,
    EventStore,
    InvalidBoundary,
    all_events,
    any_of,
    item,
)
from tests.support.boundaries import append_elsewhere


class Seats(Boundary):
    query = any_of(
        item("CourseDefined", "StudentSubscribed", tags=["course:{course}"]),
        item("StudentSubscribed", tags=["student:{student}"]),
    )

    @staticmethod
    def view(events, saved_state):
        state = {"seats": 0, "taken": 0}
        for event in events:
            if event["type"] == "CourseDefined":
                state["seats"] = event["payload"]["seats"]
            else:
                state["taken"] += 1
        return state


class Full(Exception):
    pass


def define(course="c1", seats=5):
    EventStore.append_event(
        {
            "type": "CourseDefined",
            "payload": {"seats": seats},
            "tags": [f"course:{course}"],
        }
    )


def subscribe(student, course="c1"):
    def decide(loaded):
        state = loaded.view()
        if state["taken"] >= state["seats"]:
            raise Full
        return {
            "type": "StudentSubscribed",
            "tags": [f"course:{course}", f"student:{student}"],
        }

    return Seats(course=course, student=student), decide


def test_a_decision_is_appended_with_its_boundary(store, face):
    define()
    loaded = face(EventStore.execute, *subscribe("s1"))
    assert [event["type"] for event in loaded.appended] == ["StudentSubscribed"]
    assert [event["type"] for event in loaded.events] == [
        "CourseDefined",
        "StudentSubscribed",
    ]
    assert loaded.view() == {"seats": 5, "taken": 1}


def test_no_decision_appends_nothing(store, face):
    loaded = face(EventStore.execute, Seats(course="c", student="s"), lambda b: None)
    assert (loaded.events, loaded.appended) == ([], [])


def test_what_decide_raises_passes_through(store, face):
    define(seats=1)
    face(EventStore.execute, *subscribe("s1"))
    with pytest.raises(Full):
        face(EventStore.execute, *subscribe("s2"))
    assert EventStore.count() == 2


def test_a_course_has_never_more_students_than_seats(store):
    define(seats=5)

    def try_it(student):
        try:
            EventStore.execute(*subscribe(student))
        except Full:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(24))) == 5
    read = EventStore.read_boundary(item("StudentSubscribed", tags=["course:c1"]))
    assert len(list(read.events)) == 5


def test_the_last_attempt_raises_its_conflict(store, history, face):
    define()
    boundary, decide = subscribe("s1")
    rivals = []

    def overtaken(loaded):
        rivals.append(len(rivals))
        append_elsewhere(history, "StudentSubscribed", "course:c1")
        return decide(loaded)

    with pytest.raises(BoundaryConflict) as error:
        face(EventStore.execute, boundary, overtaken, attempts=2)
    assert rivals == [0, 1]
    assert error.value.tags == ("course:c1",)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "takes the parameters course, student, not none"),
        ({"course": "c", "student": "s", "x": "y"}, "not course, student, x"),
        ({"course": "c", "student": {"$ne": 1}}, "student must be a string"),
        ({"course": "c", "student": True}, "student must be a string"),
        ({"course": "c", "student": None}, "student must be a string"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(TypeError, match=message):
        Seats(**parameters)


def test_numbers_are_parameters():
    assert Seats(course=7, student="s").bounds.items[0].tags == ("course:7",)


def test_a_parameter_cannot_make_a_tag_too_long():
    with pytest.raises(InvalidBoundary, match="255 characters"):
        Seats(course="c" * 255, student="s")


def test_a_query_may_be_a_function_of_the_parameters():
    class Prices(Boundary):
        @staticmethod
        def query(products):
            return any_of(*(item(tags=[f"product:{one}"]) for one in products))

        @staticmethod
        def view(events, saved_state):
            return {}

    assert len(Prices(products=["a", "b"]).bounds.items) == 2


def test_a_model_of_all_events_has_no_parameters():
    class Everything(Boundary):
        query = all_events()
        view = staticmethod(len)

    assert Everything().bounds == all_events()


def test_a_model_without_a_query_or_view_is_refused():
    class Half(Boundary):
        query = any_of(item("A"))

    with pytest.raises(TypeError, match="needs the attribute view"):
        Half()
