"""
Cursors for pages: opaque, signed, and bound to the order that they were made in.
"""

from __future__ import annotations

import base64
from typing import Any

import bson
from django.core.signing import BadSignature, Signer

from ...documents.bson_types import CODEC
from ...exceptions import InvalidQuery
from .plan import Plan
from .rows import Place

_SALT = "ossy_event_store.event_store.query"
_REASON = (
    "is not a cursor that page() of this query returned. Pass one on as it is, with "
    "the same order and the same streams"
)


def encode(plan: Plan, place: Place) -> str:
    """Return the cursor of a place."""
    numbers = {str(number): list(key) for number, key in place.items()}
    document = {"o": _order_of(plan), "p": numbers}
    raw = base64.urlsafe_b64encode(bson.encode(document, codec_options=CODEC))
    return Signer(salt=_SALT).sign(raw.rstrip(b"=").decode())


def decode(plan: Plan, cursor: Any) -> Place:
    """
    Return the place of a cursor.

    Raises:
        InvalidQuery: it was made elsewhere, or for another order.
    """
    if not isinstance(cursor, str):
        kind = type(cursor).__name__
        raise TypeError(f"cursor must be a string that page() returned, not {kind}.")
    try:
        text = Signer(salt=_SALT).unsign(cursor)
    except BadSignature:
        raise InvalidQuery("cursor", _REASON) from None
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    document = bson.decode(raw, codec_options=CODEC)
    if document["o"] != _order_of(plan):
        raise InvalidQuery("cursor", _REASON)
    return {int(number): tuple(key) for number, key in document["p"].items()}


def _order_of(plan: Plan) -> list[Any]:
    # Streams are read one beside the other, so their numbers have to stay the same.
    is_of_streams = plan.sources[0].order == ("aggregateVersion",)
    streams = plan.conditions.streams if is_of_streams else None
    return [plan.order, plan.backwards, list(streams or ())]
