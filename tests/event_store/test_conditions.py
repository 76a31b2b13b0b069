"""Which stored types a query asks for."""

import pytest

from ossy_event_store import EventStore, event, upcaster
from tests.support.catalogue import declarations as declarations
from tests.support.catalogue import event_class


def test_types_may_be_classes_and_cover_aliases_and_what_upcasters_make(
    store, declarations
):
    lent = event("Lent", aliases=["lent"])(event_class("Lent"))
    upcaster("Scanned", 1, into={"Lent": 1})(lambda payload: [("Lent", {}), payload])
    stream = {"aggregateId": "b-1", "aggregateType": "Book"}
    kinds = ["Lent", "Scanned", "lent", "Returned"]
    document = {"payload": {}, "metadata": {}, "createdBy": None, **stream}
    EventStore.collection.insert_many(
        {**document, "_id": kind, "type": kind, "aggregateVersion": version}
        for version, kind in enumerate(kinds, 1)
    )
    for given in (lent, "Lent", "lent"):
        found = EventStore.query().stream("b-1").types(given)
        assert [one["type"] for one in found] == ["Lent", "Scanned", "lent"]


def test_a_class_that_is_not_declared_is_refused(declarations):
    with pytest.raises(TypeError, match=r"a class that @event declares, and Lent is"):
        EventStore.query().types(event_class("Lent"))
