"""
The admin's pages over streams and events: to be looked at, never to be changed.

Every view checks its own permission: ``view_stream`` shows which streams there are
and who did what when; ``view_event`` what events hold, and the states they led to;
``view_snapshot`` how the stored state stands; ``rebuild_snapshot`` renews it.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, ClassVar

import django
from bson import ObjectId
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST
from pymongo.errors import OperationFailure

from . import browse, extended_json, mongo, overview, streams
from .browse import BLOCK, Page, Place, Search
from .changes import changes
from .events import stored_state
from .exceptions import InvalidState, ReducerError, StoreUnavailable
from .faces import Document, drive, drive_each
from .faults import short_reason
from .history import Moment, moment
from .models import Event, Stream
from .overview import Day, Tally
from .rebuild import AggregateRebuild
from .registry import registered
from .shown import brief, lines, visible
from .transfer import export_events, line_of

LONG = 2000  # events of a stream that are folded afresh without being asked
A_SECOND = dt.timedelta(milliseconds=999)  # all that MongoDB can store of one

STATUS = {
    "current": gettext_lazy("up to date"),
    "behind": gettext_lazy("behind"),
    "ahead": gettext_lazy("ahead of its stream"),
    "other revision": gettext_lazy("of an earlier reducer"),
    "missing": gettext_lazy("none"),
    "unregistered": gettext_lazy("no class for this type"),
}

View = Callable[..., HttpResponse]


def _may(request: HttpRequest, permission: str) -> bool:
    return request.user.has_perm(f"ossy_event_store.{permission}")


class _Browser(admin.ModelAdmin):  # type: ignore[type-arg]
    """What the pages share: addresses, permissions, and a store that is down."""

    permissions: ClassVar[tuple[str, ...]]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def _view(self, name: str, view: View, *permissions: str) -> View:
        """Return ``view`` as the admin serves it, with its permissions checked."""

        @functools.wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not all(_may(request, name) for name in permissions):
                raise PermissionDenied
            try:
                return view(request, *args, **kwargs)
            except StoreUnavailable as error:
                return self._failed(request, str(error), _("Try again in a moment."))
            except ImproperlyConfigured as error:
                return self._failed(request, str(error), "")
            except OperationFailure as error:
                advice = _(
                    "If an index is missing, “manage.py ensure_event_store” makes it."
                )
                return self._failed(request, short_reason(error), advice)

        return self.admin_site.admin_view(checked)

    def _path(self, route: str, name: str, view: View, *permissions: str) -> URLPattern:
        full = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        return path(route, self._view(name, view, *permissions), name=full)

    def _url(self, model: str, page: str, *args: Any, **query: Any) -> str | None:
        """Return the address of a page, or None if this site does not have it."""
        name = f"admin:{self.opts.app_label}_{model}_{page}"
        try:
            url = reverse(
                name,
                args=[quote(str(arg)) for arg in args],
                current_app=self.admin_site.name,
            )
        except NoReverseMatch:
            return None
        asked = {key: value for key, value in query.items() if value is not None}
        return f"{url}?{urlencode(asked)}" if asked else url

    def _render(
        self,
        request: HttpRequest,
        template: str,
        title: str,
        context: Mapping[str, Any],
        status: int = 200,
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/ossy_event_store/{template}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "list_url": self._url(str(self.opts.model_name), "changelist"),
                "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
                **context,
            },
            status=status,
        )

    def _failed(self, request: HttpRequest, reason: str, advice: str) -> HttpResponse:
        context = {"reason": reason, "advice": advice}
        title = _("The event store is not available")
        return self._render(request, "unavailable", title, context, status=503)

    # --- events as people see them ------------------------------------------

    def _event(self, request: HttpRequest, event: Document) -> dict[str, Any]:
        """Return an event, or the last event of a stream, as a template shows it."""
        aggregate_id, version = event["aggregateId"], event["aggregateVersion"]
        may_open = _may(request, "view_event")
        # What another program stored may lack a field, or have anything in it.
        created = event.get("created", "")
        shown = {
            "id": visible(str(event["_id"])),
            "type": visible(str(event.get("type", ""))),
            "stream": visible(str(aggregate_id)),
            "stream_type": visible(str(event.get("aggregateType", ""))),
            "version": version,
            "created": created,
            "is_time": isinstance(created, dt.datetime),
            "by": _by(event),
            "url": self._url("event", "change", event["_id"])
            if may_open and isinstance(event["_id"], (str, ObjectId))
            else None,
            "stream_url": self._url("stream", "change", aggregate_id),
            "version_url": self._url("stream", "change", aggregate_id, version=version),
        }
        if "bytes" in event and may_open:
            whole = event.get("payload")
            shown["payload"] = None if whole is None else brief(whole)
            shown["bytes"] = event["bytes"]
            shown["is_long"] = whole is None and bool(event["bytes"])
        if status := event.get("snapshot"):
            shown["status"], shown["status_text"] = status, STATUS[status]
        return shown


def _choices(names: list[str]) -> list[tuple[str, str]]:
    return [(name, visible(name)) for name in names]


def _types(store: mongo.Store) -> list[str]:
    return drive(streams.types(store))


def _counted(tallies: list[Tally], names: list[str]) -> list[tuple[str, str]]:
    """Return the types with the streams that the last rebuild counted of them."""
    counts = {tally.aggregate_type: f" ({tally.streams})" for tally in tallies}
    return [(name, visible(name)[:60] + counts.get(name, "")) for name in names]


def _by(event: Document) -> str:
    by = event["createdBy"]
    return "" if by is None else visible(by if isinstance(by, str) else repr(by))


# --- what is asked for ------------------------------------------------------


class _Asked:
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

    def _place(self, text: str | None) -> Place | None:
        if not text:
            return None
        try:
            return Place.parse(text)
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


# --- streams ----------------------------------------------------------------


@admin.register(Stream)
class StreamAdmin(_Browser):
    """Streams, and each stream at any of its versions."""

    def get_urls(self) -> list[Any]:
        """Return the addresses that exist: there is none to add, change or delete."""
        contents = ("view_stream", "view_event")
        one = "<path:object_id>/"
        return [
            self._path("", "changelist", self.changelist_view, "view_stream"),
            self._path("overview/", "overview", self.overview_view, "view_stream"),
            self._path(f"{one}change/", "change", self.change_view, "view_stream"),
            self._path(f"{one}state/", "state", self.state_view, *contents),
            self._path(f"{one}download/", "download", self.download_view, *contents),
            self._path(
                f"{one}rebuild/",
                "rebuild",
                require_POST(self.rebuild_view),
                "view_stream",
                "rebuild_snapshot",
            ),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List streams: the latest activity first, or those of a prefix."""
        store = mongo.blocking()
        asked = _Asked(request, "q", "type", "by")
        prefix = asked.given.get("q")
        if prefix:
            try:
                page, links = self._by_id(request, store, prefix)
            except ValueError as error:
                asked.errors.append(str(error))
                page, links = Page(), {}
            if links is None:
                url = self._url("stream", "change", prefix)
                return HttpResponseRedirect(str(url))
        else:
            search = asked.search()
            page = drive(
                browse.streams(store, search, older=asked.older, newer=asked.newer)
            )
            links = asked.links(page)
        context = {
            "rows": [self._event(request, event) for event in page.items],
            "links": links,
            "asked": asked.given,
            "errors": asked.errors,
            "types": _counted(drive(overview.tallies(store)), _types(store)),
            "overview_url": self._url("stream", "overview"),
            "is_list": True,
            "may_see_events": _may(request, "view_event"),
            "events_url": self._url("event", "changelist"),
            **(extra_context or {}),
        }
        return self._render(request, "streams", _("Streams"), context)

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        """Show what is in the store, how much comes in, and whether it is well."""
        store = mongo.blocking()
        tallies = {t.aggregate_type: t for t in drive(overview.tallies(store))}
        zone = timezone.get_current_timezone()
        today = timezone.localdate()
        last = drive(overview.last_day(store, today, zone))
        days = drive(overview.days(store, last, zone))
        context = {
            "health": drive(overview.health(store)),
            "types": [self._type(name, tallies.get(name)) for name in _types(store)],
            "days": days,
            "is_quiet": last != today,
            "chart": _chart(days),
        }
        return self._render(request, "overview", _("Overview"), context)

    def _type(self, name: str, tally: Tally | None) -> dict[str, Any]:
        failures = tally.failures if tally else {}
        return {
            "name": visible(name),
            "url": self._url("stream", "changelist", type=name),
            "is_registered": name in registered(),
            "tally": tally,
            "failures": [
                {
                    "id": visible(aggregate_id),
                    "url": self._url("stream", "change", aggregate_id, version=version),
                }
                for aggregate_id, version in failures.items()
            ],
        }

    def _by_id(self, request: HttpRequest, store: mongo.Store, prefix: str) -> Any:
        """Return a page of streams by prefix; None for links if it is one's id."""
        after = request.GET.get("after")
        if after is None and drive(streams.type_of(store, prefix)) is not None:
            return Page(), None
        found, more = drive(browse.streams_by_id(store, prefix, after=after))
        links = {
            "first": "?" + urlencode({"q": prefix}) if after else None,
            "next": "?" + urlencode({"q": prefix, "after": more}) if more else None,
        }
        return Page(found), links

    # --- one stream ---------------------------------------------------------

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a stream at one of its versions, with its timeline."""
        store = mongo.blocking()
        head = _head(store, unquote(object_id))
        aggregate_id, last = head["aggregateId"], head["aggregateVersion"]
        if request.GET.get("at"):
            return self._at(request, store, aggregate_id)
        version = _version(request, last)
        newest_first = request.GET.get("order") != "oldest"
        order = None if newest_first else "oldest"
        may_open = _may(request, "view_event")
        page = self._timeline(request, store, head, version, newest_first)

        def link(to: int, **query: Any) -> str | None:
            if not 1 <= to <= last or to == query.pop("but", None):
                return None
            query.setdefault("order", order)
            return self._url("stream", "change", aggregate_id, version=to, **query)

        first = (version - 1) // BLOCK * BLOCK + 1
        Root = browse.class_of(head)
        then = None
        if may_open and Root is not None:
            fresh = "fresh" in request.GET or last <= LONG
            then = drive(moment(store, Root, aggregate_id, version, fresh=fresh))
        context = {
            "stream": self._event(request, head),
            "version": version,
            "last": last,
            "events": page,
            "first_shown": first,
            "last_shown": min(last, first + BLOCK - 1),
            "newest_first": newest_first,
            "steps": {
                "first": link(1, but=version),
                "previous": link(version - 1),
                "next": link(version + 1),
                "last": link(last, but=version),
            },
            "older_block": link(first - 1),
            "newer_block": link(first + BLOCK),
            "other_order": self._url(
                "stream",
                "change",
                aggregate_id,
                version=version,
                order="oldest" if newest_first else "newest",
            ),
            "may_open": may_open,
            "moment": _shown_moment(then),
            "state_url": self._url("stream", "state", aggregate_id, version=version),
            "download_url": self._url("stream", "download", aggregate_id),
            "code": _code(Root, aggregate_id) if Root else None,
            "Root": Root,
            "snapshot": self._snapshot(request, store, head, then),
            **(extra_context or {}),
        }
        return self._render(request, "stream", visible(aggregate_id), context)

    def _at(
        self, request: HttpRequest, store: mongo.Store, aggregate_id: str
    ) -> HttpResponse:
        """Go to the version that the stream had at a time."""
        text = request.GET["at"]
        try:
            at = _aware(parse_datetime(text))
        except (ValueError, OverflowError):
            at = None
        if at is None:
            messages.error(
                request,
                _("“%(text)s” is not a time such as 2026-03-31T10:15.")
                % {"text": visible(text)},
            )
            version = None
        else:
            version = drive(browse.version_at(store, aggregate_id, at))
            if not version:
                messages.warning(
                    request, _("The stream had no event yet at that time.")
                )
                version = 1
        order = request.GET.get("order")
        url = self._url("stream", "change", aggregate_id, version=version, order=order)
        return HttpResponseRedirect(str(url))

    def _timeline(
        self,
        request: HttpRequest,
        store: mongo.Store,
        head: Document,
        version: int,
        newest_first: bool,
    ) -> list[dict[str, Any]]:
        first = (version - 1) // BLOCK * BLOCK + 1
        payloads = _may(request, "view_event")
        found = drive(
            browse.timeline(
                store, head["aggregateId"], first, first + BLOCK - 1, payloads
            )
        )
        rows = [self._event(request, event) for event in found]
        order = None if newest_first else "oldest"
        for row in rows:
            row["is_shown"] = row["version"] == version
            row["version_url"] = self._url(
                "stream",
                "change",
                head["aggregateId"],
                version=row["version"],
                order=order,
            )
        return rows[::-1] if newest_first else rows

    def _snapshot(
        self,
        request: HttpRequest,
        store: mongo.Store,
        head: Document,
        then: Moment | None,
    ) -> dict[str, Any] | None:
        """Return how the stored state stands, for those who may see it."""
        if not _may(request, "view_snapshot"):
            return None
        stored = drive(browse.snapshot_of(store, head))
        status = browse.snapshot_status(head, stored)
        aggregate_id = head["aggregateId"]
        shown: dict[str, Any] = {
            "status": status,
            "status_text": STATUS[status],
            "is_same": None,
            "compare_url": self._url("stream", "change", aggregate_id, fresh=1),
            "rebuild_url": self._url("stream", "rebuild", aggregate_id)
            if _may(request, "rebuild_snapshot") and status != "unregistered"
            else None,
        }
        if stored is not None:
            shown["version"] = brief(stored.get("aggregateVersion"))
            shown["revision"] = visible(str(stored.get("revision")))[:200]
            shown["saved"] = stored.get("saved")
            shown["is_time"] = isinstance(stored.get("saved"), dt.datetime)
        if (
            status == "current"
            and then
            and not (then.since or then.error)
            and then.version == head["aggregateVersion"]
        ):
            whole = drive(store.snapshots.find_one({"_id": {"$eq": aggregate_id}}))
            shown["is_same"] = _is_same(whole, then)
        return shown

    def state_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Download the whole state at a version."""
        store = mongo.blocking()
        head = _head(store, unquote(object_id))
        Root = browse.class_of(head)
        if Root is None:
            raise Http404(_("No class is registered for this type."))
        version = _version(request, head["aggregateVersion"])
        then = drive(moment(store, Root, head["aggregateId"], version))
        if then.error is not None:
            raise Http404(str(then.error))
        try:
            state = stored_state(then.state, Root.aggregate_type)
        except InvalidState as error:
            raise Http404(str(error)) from None
        text = extended_json.dumps(extended_json.encode(state))
        return _file(text, f"{head['aggregateId']}-{version}.json")

    def download_view(self, request: HttpRequest, object_id: str) -> Any:
        """Download the events, a line of JSON each, as ``export_events`` has them."""
        aggregate_id = _head(mongo.blocking(), unquote(object_id))["aggregateId"]
        response = StreamingHttpResponse(
            _lines_async(aggregate_id)
            if hasattr(request, "scope")
            else _lines(aggregate_id),
            content_type="application/x-ndjson",
        )
        response["Content-Disposition"] = _attachment(f"{aggregate_id}.jsonl")
        return response

    def rebuild_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Renew the snapshot, and log in the admin's log who did."""
        head = _head(mongo.blocking(), unquote(object_id))
        aggregate_id = head["aggregateId"]
        try:
            saved = AggregateRebuild.build_and_save(head["aggregateType"], aggregate_id)
        except (ReducerError, InvalidState, LookupError) as error:
            messages.error(request, visible(str(error)))
        else:
            version = saved["aggregateVersion"]
            text = _("The snapshot was rebuilt, as of version %(version)s.")
            messages.success(request, text % {"version": version})
            self.log_change(
                request,
                Stream(id=aggregate_id),
                f"Rebuilt the snapshot, as of version {version}.",
            )
        return HttpResponseRedirect(str(self._url("stream", "change", aggregate_id)))


def _aware(at: dt.datetime | None) -> dt.datetime | None:
    """Return the end of what a time means, in UTC; ``OverflowError`` if none can be."""
    if at is None:
        return None
    at = timezone.make_aware(at) if timezone.is_naive(at) else at
    # The pages show seconds: who gives one means all that it shows.
    return (at if at.microsecond else at + A_SECOND).astimezone(dt.UTC)


def _chart(days: list[Day]) -> dict[str, Any]:
    """Return the bars of a chart of the events a day, in units of its own."""
    above, height, below, wide, step = 16, 120, 18, 40, 48
    most = max([1, *(day.events for day in days)])
    bars = []
    for number, day in enumerate(days):
        high = round(height * day.events / most)
        bars.append(
            {
                "day": day,
                "x": number * step + (step - wide) // 2,
                "y": above + height - high,
                "middle": number * step + step // 2,
                "width": wide,
                "height": high,
                "top": above + height - high - 4,
            }
        )
    return {
        "width": step * len(days),
        "height": above + height + below,
        "floor": above + height,
        "bars": bars,
    }


def _head(store: mongo.Store, aggregate_id: str) -> Document:
    try:
        head = drive(browse.last_event(store, aggregate_id))
    except ValueError:
        head = None
    if head is None:
        raise Http404(_("There is no such stream."))
    return head


def _version(request: HttpRequest, last: int) -> int:
    text = request.GET.get("version", "")
    if not text:
        return last
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= last):
        raise Http404(_("The stream has no such version."))
    return int(text)


def _shown_moment(then: Moment | None) -> dict[str, Any] | None:
    if then is None:
        return None
    shown: dict[str, Any] = {
        "reached": then.reached,
        "since": then.since,
        "error": None if then.error is None else visible(then.error.error),
        "error_at": None if then.error is None else then.error.version,
        "state": lines(then.state),
    }
    if then.before is not None:
        changed = changes(then.before, then.state)
        shown["changes"] = [
            {
                "where": visible(change.where),
                "kind": change.kind,
                "old": brief(change.old),
                "new": brief(change.new),
            }
            for change in changed.items
        ]
        shown["more"] = changed.more
    return shown


def _is_same(snapshot: Document | None, then: Moment) -> bool | None:
    if snapshot is None or snapshot.get("aggregateVersion") != then.version:
        return None
    try:
        fresh = stored_state(then.state, snapshot["aggregateType"])
    except InvalidState:
        return False
    stored = snapshot.get("state")
    return isinstance(stored, dict) and not changes(stored, fresh, limit=1).items


def _code(Root: Any, aggregate_id: str) -> str:
    return (
        "from ossy_event_store import Aggregate\n"
        f"from {Root.__module__} import {Root.__qualname__.split('.')[0]}\n\n"
        f"Aggregate.of({Root.__qualname__}, {aggregate_id!a})"
    )


def _lines(aggregate_id: str) -> Iterator[str]:
    query = {"aggregateId": {"$eq": aggregate_id}}
    return drive_each(export_events(mongo.blocking(), [query]))


async def _lines_async(aggregate_id: str) -> AsyncIterator[str]:
    query = {"aggregateId": {"$eq": aggregate_id}}
    async for part in export_events(await mongo.awaitable(), [query]):
        yield part


def _file(text: str, name: str) -> HttpResponse:
    response = HttpResponse(text, content_type="application/json")
    response["Content-Disposition"] = _attachment(name)
    return response


def _attachment(name: str) -> str:
    safe = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name
    )
    return f'attachment; filename="{safe[-150:]}"'


# --- events -----------------------------------------------------------------


@admin.register(Event)
class EventAdmin(_Browser):
    """The feed over all streams, and each event as it is stored."""

    def get_urls(self) -> list[Any]:
        """Return the addresses that exist: there is none to add, change or delete."""
        one = "<path:object_id>/"
        return [
            self._path("", "changelist", self.changelist_view, "view_event"),
            self._path(f"{one}change/", "change", self.change_view, "view_event"),
            self._path(f"{one}download/", "download", self.download_view, "view_event"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List the events of all streams, the newest first."""
        store = mongo.blocking()
        asked = _Asked(request, "q", "type", "event_type", "by", "correlation")
        if event_id := asked.given.pop("q", ""):
            if _find(store, event_id) is not None:
                return HttpResponseRedirect(str(self._url("event", "change", event_id)))
            asked.errors.append(_("There is no event of this id."))
        search = asked.search()
        page = drive(browse.events(store, search, older=asked.older, newer=asked.newer))
        context = {
            "rows": [self._event(request, event) for event in page.items],
            "links": asked.links(page),
            "asked": {**asked.given, "q": event_id},
            "errors": asked.errors,
            "types": _choices(_types(store)),
            "is_list": True,
            "event_types": _choices(drive(browse.event_types(store))),
            "streams_url": self._url("stream", "changelist")
            if _may(request, "view_stream")
            else None,
            **(extra_context or {}),
        }
        return self._render(request, "events", _("Events"), context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show an event as it is stored, and what belongs to it."""
        store = mongo.blocking()
        event = _stored_event(store, unquote(object_id))
        related = drive(browse.relations(store, event))

        def shown(other: Document | None) -> dict[str, Any] | None:
            return None if other is None else self._event(request, other)

        correlation = browse.text_in_metadata(event, "correlationId")
        context = {
            "event": self._event(request, event),
            "whole": lines(event),
            "download_url": self._url("event", "download", event["_id"]),
            "previous": shown(related.previous),
            "next": shown(related.next),
            "cause": shown(related.cause),
            "caused": [shown(other) for other in related.caused],
            "correlated": [shown(other) for other in related.correlated],
            "correlation_url": self._url("event", "changelist", correlation=correlation)
            if correlation
            else None,
            **(extra_context or {}),
        }
        title = visible(str(event.get("type", "")))
        return self._render(request, "event", title, context)

    def download_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Download the whole event as JSON."""
        event = _stored_event(mongo.blocking(), unquote(object_id))
        return _file(line_of(event), f"{event['_id']}.json")


def _find(store: mongo.Store, event_id: str) -> Document | None:
    try:
        return drive(browse.event(store, event_id))
    except ValueError:
        return None


def _stored_event(store: mongo.Store, event_id: str) -> Document:
    event = _find(store, event_id)
    if event is None:
        raise Http404(_("There is no such event."))
    return event


# --- in an admin of your own ------------------------------------------------


class StreamHistoryMixin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    Put the history of a stream below the form of a model of your own.

    ``class OrderAdmin(StreamHistoryMixin, admin.ModelAdmin)``. A class with a
    ``change_form_template`` of its own puts the tag ``stream_history`` there.
    """

    change_form_template = "admin/ossy_event_store/change_form.html"

    def stream_id(self, obj: Any) -> str | None:
        """Return the id of the object's stream, or None if it has none."""
        return str(obj.pk)

    def render_change_form(
        self, request: Any, context: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Render the form, and tell the template which stream is the object's."""
        obj = kwargs.get("obj")
        context["stream_id"] = None if obj is None else self.stream_id(obj)
        return super().render_change_form(request, context, *args, **kwargs)
