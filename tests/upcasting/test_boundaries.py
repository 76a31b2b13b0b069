"""A decision model folds events as the code knows them."""

from ossy_event_store import Boundary, EventStore, event, item, upcaster
from tests.support.catalogue import event_class


class Loans(Boundary):
    query = item("Lent", tags=["reader:{reader}"])

    @staticmethod
    def view(events, saved_state):
        return [(one["type"], one["payload"]["weeks"]) for one in events]


def append(kind, **payload):
    tagged = {"type": kind, "payload": payload, "tags": ["reader:ann"]}
    EventStore.append_event(tagged)


def test_a_boundary_folds_every_stored_type_of_which_its_events_are_made(
    store, declarations, face
):
    append("Lent", weeks=1)
    append("lent", weeks=2)
    append("Scanned", weeks=3)
    append("Visited", weeks=9)
    event("Lent", aliases=["lent"])(event_class("Lent"))
    upcaster("Scanned", 1, into={"Lent": 1})(lambda p: [("Lent", p), p])
    states = []

    def decide(loaded):
        states.append(loaded.view())
        return {"type": "Lent", "payload": {"weeks": 4}, "tags": ["reader:ann"]}

    loaded = face(EventStore.execute, Loans(reader="ann"), decide)
    assert states == [[("Lent", 1), ("Lent", 2), ("Lent", 3)]]
    assert loaded.view() == [*states[0], ("Lent", 4)]
    assert [one["type"] for one in loaded.events] == ["Lent", "lent", "Scanned", "Lent"]


def test_a_boundary_that_is_only_read_is_as_stored(store, declarations):
    append("lent", weeks=2)
    append("Lent", weeks=1)
    event("Lent", version=2, aliases=["lent"])(event_class("Lent"))
    upcaster("Lent", 1)(lambda payload: {"weeks": 9})
    read = EventStore.read_boundary(item("Lent", tags=["reader:ann"]))
    assert [one["payload"] for one in read.events] == [{"weeks": 1}]
