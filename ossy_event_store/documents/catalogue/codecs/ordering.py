"""One order for the items of a set, in every process. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bson
from bson.decimal128 import Decimal128

from ...bson_types import CODEC


def ordered(items: Iterable[Any]) -> list[Any]:
    """Return the stored items of a set, smallest first where they can be compared."""
    found = list(items)
    try:
        return sorted(found, key=_comparable)
    except TypeError:  # of several types, or dicts
        return sorted(found, key=_encoded)


def _comparable(item: Any) -> Any:
    return item.to_decimal() if isinstance(item, Decimal128) else item


def _encoded(item: Any) -> bytes:
    return bson.encode({"": item}, codec_options=CODEC)
