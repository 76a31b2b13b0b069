"""How objects of event classes are stored, and made again."""

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from ossy_event_store import EventStore
from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.catalogue.declaration import EventType, Upcaster
from ossy_event_store.documents.catalogue.objects import event_from
from tests.support.typed_events import (
    KINDS,
    declared_only,
    dict_form,
    full_class,
    made_up,
)

COUNT = 200


def raw(history):
    """Return the stored events as bytes, in order."""
    options = CODEC.with_options(document_class=RawBSONDocument)
    found = history.with_options(codec_options=options).find()
    return [one.raw for one in found.sort("aggregateVersion")]


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_objects_come_back_equal(kind, face, history):
    cls, of = full_class(kind)
    sent = [of(values) for values in made_up(COUNT)]
    stream = {"type": "Happened", "aggregateId": "s", "aggregateType": "T"}
    with declared_only(EventType("Happened", cls, 2), Upcaster("Happened", 1, dict)):
        face(EventStore.append_events, [stream | {"payload": one} for one in sent])
        stored = face(EventStore.get_event_stream, "s")
        assert [event_from(one) for one in stored] == sent
    assert len(sent) == COUNT
    # The stored bytes are those of the plain dict, and the version after them.
    plain = [
        {**one, "payload": dict_form(values), "typeVersion": 2}
        for one, values in zip(stored, made_up(COUNT), strict=True)
    ]
    assert raw(history) == [bson.encode(one, codec_options=CODEC) for one in plain]
