"""Events and values for tests of documents."""

import datetime as dt
import enum

import bson
import pytest

from ossy_event_store.documents.bson_types import CODEC
from ossy_event_store.documents.event_document import (
    build_event,
    check_event,
)
from ossy_event_store.exceptions import InvalidEvent

NOW = dt.datetime(2024, 2, 29, 12, 30, 15, 123000, dt.UTC)
EARLY = dt.timezone(dt.timedelta(hours=14))
LATE = dt.timezone(dt.timedelta(hours=-12))
HOUR = dt.timedelta(hours=1)


class Colour(str, enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class OddZone(dt.tzinfo):
    """A zone that does not know its own offset, as a careless tzinfo does."""

    def utcoffset(self, when):
        return None


def built(payload, **event):
    event = check_event({"type": "Tested", "payload": payload, **event}, ())
    return build_event(
        event, aggregate_id="s", aggregate_type="S", version=1, created=NOW
    )


def to_append(**event):
    return {"type": "Tested", "aggregateId": "s", "aggregateType": "S", **event}


def to_bytes(value):
    return bson.encode({"value": value}, codec_options=CODEC)


def refusal(function, *args, **kwargs):
    with pytest.raises(InvalidEvent) as caught:
        function(*args, **kwargs)
    return caught.value


def nested(levels, value=None, wrap=lambda inner: {"a": inner}):
    """``value`` inside so many containers."""
    for _ in range(levels):
        value = wrap(value)
    return value
