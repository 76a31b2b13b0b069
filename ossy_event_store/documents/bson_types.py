"""How BSON documents are typed and decoded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, TypeAlias

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion

Document: TypeAlias = dict[str, Any]
Filter: TypeAlias = Mapping[str, Any]

CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    tzinfo=dt.UTC,
    uuid_representation=UuidRepresentation.STANDARD,
    # A date outside of Python's range is read as DatetimeMS rather than not at all.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
