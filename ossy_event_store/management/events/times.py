"""
Times as people write and read them. Pure.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone

from ...documents.display import brief

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Times:
    """The time zone of a command."""

    zone: dt.tzinfo
    #: Its name in the tz database.
    name: str

    @classmethod
    def of(cls, name: str | None) -> Times:
        """
        Return the times of a time zone; None is Django's ``TIME_ZONE``.

        Raises:
            ValueError: there is none of this name.
        """
        if name is None:
            zone_name = timezone.get_default_timezone_name()
            return cls(timezone.get_default_timezone(), str(zone_name))
        try:
            return cls(dt.UTC if name == "UTC" else ZoneInfo(name), name)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                f"--tz {name!r} is no time zone; write it as Europe/Paris."
            ) from None

    def shown(self, value: Any, separator: str = " ") -> str:
        """Return a stored time with the offset of the zone; of others, their value."""
        if not isinstance(value, dt.datetime):
            return brief(value)
        try:
            moment: dt.datetime = value.astimezone(self.zone)
        except OverflowError:  # in the year 1 or 9999
            moment = value.astimezone(dt.UTC)
        return moment.isoformat(separator, "milliseconds")

    def parsed(self, text: str, option: str) -> dt.datetime:
        """
        Return the time that a text means: ``2h`` ago, or an ISO time.

        Raises:
            ValueError: it means none.
        """
        try:
            if ago := _AGO.fullmatch(text):
                seconds = float(ago[1]) * _SECONDS[ago[2]]
                return timezone.now().astimezone(dt.UTC) - dt.timedelta(seconds=seconds)
            moment = dt.datetime.fromisoformat(text)
            if moment.utcoffset() is None:
                moment = moment.replace(tzinfo=self.zone)
            return moment.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{option} must be a time, such as 2h, 3d or 2026-09-01T10:00, not "
                f"{brief(text)}."
            ) from None
