"""The pages of streams: the list, the overview, and a stream at any version."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from ..documents import extended_json
from ..documents.bson_types import Document
from ..documents.diff import changes
from ..documents.display import brief, lines, visible
from ..documents.event_document import stored_state
from ..exceptions import InvalidState, ReducerError
from ..models import Stream
from ..mongodb import connection
from ..mongodb.ports import drive, drive_each
from ..rebuild.api import AggregateRebuild
from ..rebuild.tallies import Tally, tallies
from ..registry import registered_aggregates
from ..streams import lookup
from ..streams.export_events import export_events
from ..streams.state_at_version import StateAtVersion, load_state_at
from . import lookups, overview
from .base import STATUS, StoreModelAdmin, attachment, download, may
from .chart import chart
from .lookups import BLOCK, Page
from .query_string import ListQuery, time_of, version_of

LONG = 2000  # events of a stream that are folded afresh without being asked


class StreamAdmin(StoreModelAdmin):
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
        store = connection.blocking()
        asked = ListQuery(request, "q", "type", "by")
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
                lookups.streams(store, search, older=asked.older, newer=asked.newer)
            )
            links = asked.links(page)
        context = {
            "rows": [self._event(request, event) for event in page.items],
            "links": links,
            "asked": asked.given,
            "errors": asked.errors,
            "types": _counted(drive(tallies(store)), drive(lookup.types(store))),
            "overview_url": self._url("stream", "overview"),
            "is_list": True,
            "may_see_events": may(request, "view_event"),
            "events_url": self._url("event", "changelist"),
            **(extra_context or {}),
        }
        return self._render(request, "streams", _("Streams"), context)

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        """Show what is in the store, how much comes in, and whether it is well."""
        store = connection.blocking()
        counted = {t.aggregate_type: t for t in drive(tallies(store))}
        zone = timezone.get_current_timezone()
        today = timezone.localdate()
        last = drive(overview.last_day(store, today, zone))
        days = drive(overview.days(store, last, zone))
        context = {
            "health": drive(overview.health(store)),
            "types": [
                self._type(name, counted.get(name))
                for name in drive(lookup.types(store))
            ],
            "days": days,
            "is_quiet": last != today,
            "chart": chart(days),
        }
        return self._render(request, "overview", _("Overview"), context)

    def _type(self, name: str, tally: Tally | None) -> dict[str, Any]:
        failures = tally.failures if tally else {}
        return {
            "name": visible(name),
            "url": self._url("stream", "changelist", type=name),
            "is_registered": name in registered_aggregates(),
            "tally": tally,
            "failures": [
                {
                    "id": visible(aggregate_id),
                    "url": self._url("stream", "change", aggregate_id, version=version),
                }
                for aggregate_id, version in failures.items()
            ],
        }

    def _by_id(self, request: HttpRequest, store: connection.Store, prefix: str) -> Any:
        """Return a page of streams by prefix; None for links if it is one's id."""
        after = request.GET.get("after")
        if after is None and drive(lookup.type_of(store, prefix)) is not None:
            return Page(), None
        found, more = drive(lookups.streams_by_id(store, prefix, after=after))
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
        store = connection.blocking()
        head = _head(store, unquote(object_id))
        aggregate_id, last = head["aggregateId"], head["aggregateVersion"]
        if request.GET.get("at"):
            return self._at(request, store, aggregate_id)
        version = version_of(request, last)
        newest_first = request.GET.get("order") != "oldest"
        order = None if newest_first else "oldest"
        may_open = may(request, "view_event")
        page = self._timeline(request, store, head, version, newest_first)

        def link(to: int, **query: Any) -> str | None:
            if not 1 <= to <= last or to == query.pop("but", None):
                return None
            query.setdefault("order", order)
            return self._url("stream", "change", aggregate_id, version=to, **query)

        first = (version - 1) // BLOCK * BLOCK + 1
        Root = lookups.class_of(head)
        then = None
        if may_open and Root is not None:
            fresh = "fresh" in request.GET or last <= LONG
            then = drive(
                load_state_at(store, Root, aggregate_id, version, ignore_snapshot=fresh)
            )
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
        self, request: HttpRequest, store: connection.Store, aggregate_id: str
    ) -> HttpResponse:
        """Go to the version that the stream had at a time."""
        text = request.GET["at"]
        at = time_of(text)
        if at is None:
            messages.error(
                request,
                _("“%(text)s” is not a time such as 2026-03-31T10:15.")
                % {"text": visible(text)},
            )
            version = None
        else:
            version = drive(lookups.version_at(store, aggregate_id, at))
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
        store: connection.Store,
        head: Document,
        version: int,
        newest_first: bool,
    ) -> list[dict[str, Any]]:
        first = (version - 1) // BLOCK * BLOCK + 1
        payloads = may(request, "view_event")
        found = drive(
            lookups.timeline(
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
        store: connection.Store,
        head: Document,
        then: StateAtVersion | None,
    ) -> dict[str, Any] | None:
        """Return how the stored state stands, for those who may see it."""
        if not may(request, "view_snapshot"):
            return None
        stored = drive(lookups.snapshot_of(store, head))
        status = lookups.snapshot_status(head, stored)
        aggregate_id = head["aggregateId"]
        shown: dict[str, Any] = {
            "status": status,
            "status_text": STATUS[status],
            "is_same": None,
            "compare_url": self._url("stream", "change", aggregate_id, fresh=1),
            "rebuild_url": self._url("stream", "rebuild", aggregate_id)
            if may(request, "rebuild_snapshot") and status != "unregistered"
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
            and not (then.snapshot_version or then.error)
            and then.version == head["aggregateVersion"]
        ):
            whole = drive(store.snapshots.find_one({"_id": {"$eq": aggregate_id}}))
            shown["is_same"] = _is_same(whole, then)
        return shown

    def state_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Download the whole state at a version."""
        store = connection.blocking()
        head = _head(store, unquote(object_id))
        Root = lookups.class_of(head)
        if Root is None:
            raise Http404(_("No class is registered for this type."))
        version = version_of(request, head["aggregateVersion"])
        then = drive(load_state_at(store, Root, head["aggregateId"], version))
        if then.error is not None:
            raise Http404(str(then.error))
        try:
            state = stored_state(then.state, Root.aggregate_type)
        except InvalidState as error:
            raise Http404(str(error)) from None
        text = extended_json.dumps(extended_json.encode(state))
        return download(text, f"{head['aggregateId']}-{version}.json")

    def download_view(self, request: HttpRequest, object_id: str) -> Any:
        """Download the events, a line of JSON each, as ``export_events`` has them."""
        aggregate_id = _head(connection.blocking(), unquote(object_id))["aggregateId"]
        response = StreamingHttpResponse(
            _lines_async(aggregate_id)
            if hasattr(request, "scope")
            else _lines(aggregate_id),
            content_type="application/x-ndjson",
        )
        response["Content-Disposition"] = attachment(f"{aggregate_id}.jsonl")
        return response

    def rebuild_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Renew the snapshot, and log in the admin's log who did."""
        head = _head(connection.blocking(), unquote(object_id))
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


def _head(store: connection.Store, aggregate_id: str) -> Document:
    try:
        head = drive(lookups.last_event(store, aggregate_id))
    except ValueError:
        head = None
    if head is None:
        raise Http404(_("There is no such stream."))
    return head


def _counted(tallies: list[Tally], names: list[str]) -> list[tuple[str, str]]:
    """Return the types with the streams that the last rebuild counted of them."""
    counts = {tally.aggregate_type: f" ({tally.streams})" for tally in tallies}
    return [(name, visible(name)[:60] + counts.get(name, "")) for name in names]


def _shown_moment(then: StateAtVersion | None) -> dict[str, Any] | None:
    if then is None:
        return None
    shown: dict[str, Any] = {
        "reached": then.folded_version,
        "since": then.snapshot_version,
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


def _is_same(snapshot: Document | None, then: StateAtVersion) -> bool | None:
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
    return drive_each(export_events(connection.blocking(), [query]))


async def _lines_async(aggregate_id: str) -> AsyncIterator[str]:
    query = {"aggregateId": {"$eq": aggregate_id}}
    async for part in export_events(await connection.awaitable(), [query]):
        yield part
