"""Durations as ISO 8601 text, such as ``P1DT2H30M``. Pure."""

from __future__ import annotations

import datetime as dt
import re

_DURATION = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?"
    r"(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?",
    re.ASCII,
)


def text_of_duration(value: dt.timedelta) -> str:
    """Return a duration in days, hours, minutes and seconds, with at most one sign."""
    sign = "-" if value.days < 0 else ""
    rest, microseconds = divmod(abs(value) // dt.timedelta.resolution, 1_000_000)
    rest, seconds = divmod(rest, 60)
    rest, minutes = divmod(rest, 60)
    days, hours = divmod(rest, 24)
    date = f"{days}D" if days else ""
    time = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    if microseconds:
        time += f"{seconds}.{microseconds:06}".rstrip("0") + "S"
    elif seconds:
        time += f"{seconds}S"
    if not date and not time:
        return "PT0S"
    return f"{sign}P{date}T{time}" if time else f"{sign}P{date}"


def duration_of_text(text: str) -> dt.timedelta:
    """
    Return the duration of a text.

    Raises:
        ValueError: it is none, or has years, months or weeks.
        OverflowError: it is longer than a timedelta can be.
    """
    found = _DURATION.fullmatch(text)
    if found is None or text.endswith("P"):
        raise ValueError(text)
    parts = found.groupdict()
    value = dt.timedelta(
        days=int(parts["days"] or 0),
        hours=int(parts["hours"] or 0),
        minutes=int(parts["minutes"] or 0),
        seconds=int(parts["seconds"] or 0),
        microseconds=int((parts["fraction"] or "").ljust(6, "0")),
    )
    return -value if parts["sign"] else value
