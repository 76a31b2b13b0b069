"""What a request asks for: a search, a place in a list, a version, a time."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.http import Http404, HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from ..documents.display import visible
from .lookups import Cursor, Page, Search

A_SECOND = dt.timedelta(milliseconds=999)  # all that MongoDB can store of one


class ListQuery:
    """The query of a list page: what to look for, and where the page begins."""

    def __init__(self, request: HttpRequest, *names: str) -> None:
        self.given = {
            name: text
            for name in (*names, "since", "until")
            if (text := request.GET.get(name, "").strip())
        }
        self.errors: list[str] = []
        self.older = self._place(request.GET.get("older"))
        self.newer = self._place(request.GET.get("newer"))

    def _place(self, text: str | None) -> Cursor | None:
        if not text:
            return None
        try:
            return Cursor.parse(text)
        except ValueError:
            self.errors.append(_("This page does not exist; here is the first one."))
            return None

    def _day(self, name: str, plus: int) -> dt.datetime | None:
        if name not in self.given:
            return None
        try:
            day = parse_date(self.given[name])
            if day is None:
                raise ValueError
            midnight = dt.datetime.combine(day + dt.timedelta(plus), dt.time())
            return timezone.make_aware(midnight)
        except (ValueError, OverflowError):
            self.errors.append(
                _("“%(text)s” is not a date such as 2026-03-31.")
                % {"text": visible(self.given[name])}
            )
            return None

    def search(self) -> Search:
        """Return what to look for."""
        return Search(
            type=self.given.get("event_type"),
            aggregate_type=self.given.get("type"),
            created_by=self.given.get("by"),
            correlation_id=self.given.get("correlation"),
            since=self._day("since", 0),
            until=self._day("until", 1),
        )

    def links(self, page: Page) -> dict[str, str | None]:
        """Return the queries of the pages on either side."""
        return {
            "first": self._query() if self.older or self.newer else None,
            "newer": self._query(newer=page.newer) if page.newer else None,
            "older": self._query(older=page.older) if page.older else None,
        }

    def _query(self, **place: Any) -> str:
        return "?" + urlencode({**self.given, **place})


def time_of(text: str) -> dt.datetime | None:
    """Return the end of the second that a text means, in UTC; None if it means none."""
    try:
        at = parse_datetime(text)
        if at is None:
            return None
        at = timezone.make_aware(at) if timezone.is_naive(at) else at
        # The pages show seconds: who gives one means all that it shows.
        return (at if at.microsecond else at + A_SECOND).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None


def version_of(request: HttpRequest, last: int) -> int:
    """Return the version that is asked for; ``Http404`` if the stream has none such."""
    text = request.GET.get("version", "")
    if not text:
        return last
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= last):
        raise Http404(_("The stream has no such version."))
    return int(text)
