"""The query string of a page: filters, cursors, a version, a time."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.http import Http404, HttpRequest
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from ..documents.display import visible
from .paging import Cursor, Page, Search
from .site_time import in_utc

LONGEST_NUMBER = 18  # digits; all such numbers fit into 64 bits
REST_OF_SECOND = dt.timedelta(milliseconds=999)  # MongoDB stores milliseconds


class ListQuery:
    """The query of a list page: its filters, and the cursor where it begins."""

    def __init__(self, request: HttpRequest, *names: str) -> None:
        self.filters = {
            name: text
            for name in (*names, "since", "until")
            if (text := request.GET.get(name, "").strip())
        }
        self.errors: list[str] = []
        self.older = self._cursor(request.GET.get("older"))
        self.newer = self._cursor(request.GET.get("newer"))

    def _cursor(self, text: str | None) -> Cursor | None:
        if not text:
            return None
        try:
            return Cursor.parse(text)
        except ValueError:
            self.errors.append(_("This page does not exist. Showing the first page."))
            return None

    def _midnight(self, name: str, days_later: int) -> dt.datetime | None:
        if name not in self.filters:
            return None
        try:
            day = parse_date(self.filters[name])
            if day is None:
                raise ValueError
            day += dt.timedelta(days_later)
            return in_utc(dt.datetime.combine(day, dt.time()))
        except (ValueError, OverflowError):
            self.errors.append(
                _("“%(text)s” is not a valid date. Write it as 2026-03-31.")
                % {"text": visible(self.filters[name])}
            )
            return None

    def search(self) -> Search:
        """Return the search that the filters describe."""
        since, until = self._midnight("since", 0), self._midnight("until", 1)
        if since and until and since >= until:
            self.errors.append(
                _("The first day is after the last one, so nothing matches.")
            )
        return Search(
            type=self.filters.get("event_type"),
            aggregate_type=self.filters.get("type"),
            created_by=self.filters.get("by"),
            correlation_id=self.filters.get("correlation"),
            tag=self.filters.get("tag"),
            since=since,
            until=until,
        )

    def links(self, page: Page) -> dict[str, str | None]:
        """Return the query strings of the pages on either side."""
        return {
            "first": self._string() if self.older or self.newer else None,
            "newer": self._string(newer=page.newer) if page.newer else None,
            "older": self._string(older=page.older) if page.older else None,
        }

    def _string(self, **cursor: Any) -> str:
        return "?" + urlencode({**self.filters, **cursor})


def time_of(text: str) -> dt.datetime | None:
    """Return the end of the second that a text names, in UTC; None if it is no time."""
    try:
        at = parse_datetime(text)
        if at is None:
            return None
        at = in_utc(at)
        # The pages show whole seconds, so a time typed in without a fraction
        # includes every event that the page shows with it.
        return at if at.microsecond else at + REST_OF_SECOND
    except (ValueError, OverflowError):
        return None


def version_of(request: HttpRequest, last: int) -> int:
    """Return the requested version, or the last; ``Http404`` if it does not exist."""
    text = request.GET.get("version", "")
    if not text:
        return last
    number = number_of(text)
    if number is None or not 1 <= number <= last:
        raise Http404(_("This stream has no such version."))
    return number


def number_of(text: str) -> int | None:
    """Return the whole number that a text is; None if it is none, or too long."""
    is_number = text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER
    return int(text) if is_number else None
