"""
Read models over many streams that tell which events made them, in which order.

The events of one stream go to several documents. A document keeps the order stream by
stream: what was parked is applied after later events of other streams.
"""

from django.conf import settings

from ossy_event_store import Projection, register_projection

from .failing import Failing, class_of
from .keys import CHAINS, KEYS, PAGES

fail_if_bad = Failing(settings.FOLDER)


class ByStream(Projection):
    @staticmethod
    def apply(event, state):
        stream, token = event["aggregateId"], event["payload"]["token"]
        return {**state, stream: [*state.get(stream, ()), token]}


@register_projection
class Chains(ByStream):
    """Fails in ``apply``."""

    name = CHAINS

    @staticmethod
    def key(event):
        return KEYS[CHAINS](event)

    @staticmethod
    def apply(event, state):
        fail_if_bad(CHAINS, event)
        return ByStream.apply(event, state)


@register_projection
class Pages(ByStream):
    """Fails in ``key`` at some events, and in ``apply`` at others."""

    name = PAGES

    @staticmethod
    def key(event):
        if class_of(PAGES, event) % 2:
            fail_if_bad(PAGES, event)
        return KEYS[PAGES](event)

    @staticmethod
    def apply(event, state):
        fail_if_bad(PAGES, event)
        return ByStream.apply(event, state)
