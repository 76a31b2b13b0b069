"""The pages of streams: the list, the overview, and each stream at any version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.contrib import messages
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

from ..aggregate.registry import registered_aggregates
from ..documents import extended_json
from ..documents.bson_types import Document
from ..documents.display import visible
from ..documents.event_document import stored_state
from ..exceptions import InvalidState, ReducerError
from ..models import Stream
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive, drive_each
from ..rebuild.api import AggregateRebuild
from ..rebuild.tallies import Tally, tallies
from ..streams import lookup
from ..streams.export_events import export_events
from ..streams.past.state_at_version import load_state_at
from ..streams.past.versions import version_at
from . import overview, site_time, stream_lookups
from .addresses import from_address
from .base import StoreModelAdmin, attachment, download, may
from .event_fields import VERSIONS
from .paging import Page
from .query_string import ListQuery, time_of, version_of
from .stream_page import LONGEST_FOLD, StreamPage


class StreamAdmin(StoreModelAdmin):
    """Streams, and each stream at any of its versions."""

    day_counts = overview.DayCounts()

    def get_urls(self) -> list[Any]:
        """Return the URLs: none adds, changes or deletes a stream."""
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

    # --- all streams --------------------------------------------------------

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List streams: those with the latest activity first, or those of a prefix."""
        store = connection.blocking()
        query = ListQuery(request, "q", "type", "by")
        prefix = query.filters.get("q")
        if prefix:
            try:
                page, links = self._by_id(request, store, prefix)
            except ValueError as error:
                query.errors.append(str(error))
                page, links = Page(), {}
            if links is None:
                url = self.url_of("stream", "change", prefix)
                return HttpResponseRedirect(str(url))
        else:
            search = query.search()
            page = drive(
                stream_lookups.streams(
                    store, search, older=query.older, newer=query.newer
                )
            )
            links = query.links(page)
        context = {
            "rows": [self.event_row(request, event) for event in page.items],
            "links": links,
            "filters": query.filters,
            "errors": query.errors,
            "types": _with_counts(drive(lookup.types(store)), drive(tallies(store))),
            "overview_url": self.url_of("stream", "overview"),
            "is_list": True,
            "may_see_events": may(request, "view_event"),
            "events_url": self.url_of("event", "changelist"),
            **(extra_context or {}),
        }
        return self._render(request, "streams", _("Streams"), context)

    def _by_id(self, request: HttpRequest, store: connection.Store, prefix: str) -> Any:
        """Return a page of streams and its links; no links if the prefix is an id."""
        after = request.GET.get("after")
        if after is None and drive(lookup.type_of(store, prefix)) is not None:
            return Page(), None
        found, more = drive(stream_lookups.streams_by_id(store, prefix, after=after))
        links = {
            "first": "?" + urlencode({"q": prefix}) if after else None,
            "next": "?" + urlencode({"q": prefix, "after": more}) if more else None,
        }
        return Page(found), links

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        """Show what the store holds, the events per day, and the store's health."""
        store = connection.blocking()
        counted = {tally.aggregate_type: tally for tally in drive(tallies(store))}
        zone = timezone.get_current_timezone()
        today = site_time.today()
        last = drive(overview.last_day(store, today, zone))
        days = drive(self.day_counts.days(store, last, zone))
        context = {
            "health": drive(overview.health(store)),
            "types": [
                self._type_row(name, counted.get(name))
                for name in drive(lookup.types(store))
            ],
            "days": days,
            "is_quiet": last != today,
            "chart": overview.chart(days),
            "catalogue_url": self.url_of("event", "catalogue")
            if may(request, "view_event")
            else None,
        }
        return self._render(request, "overview", _("Overview"), context)

    def _type_row(self, name: str, tally: Tally | None) -> dict[str, Any]:
        failures = tally.failures if tally else {}
        return {
            "name": visible(name),
            "url": self.url_of("stream", "changelist", type=name),
            "is_registered": name in registered_aggregates(),
            "tally": tally,
            "failures": [
                {
                    "id": visible(aggregate_id),
                    "url": self.url_of(
                        "stream", "change", aggregate_id, version=version
                    ),
                }
                for aggregate_id, version in failures.items()
            ],
        }

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
        head = _head(store, from_address(object_id))
        if request.GET.get("at"):
            return self._go_to_time(request, store, head)
        context = StreamPage(self, request, store, head).context()
        title = visible(head["aggregateId"])
        return self._render(
            request, "stream", title, {**context, **(extra_context or {})}
        )

    def _go_to_time(
        self, request: HttpRequest, store: connection.Store, head: Document
    ) -> HttpResponse:
        """Redirect to the version that the stream had at a time."""
        aggregate_id, last = head["aggregateId"], head["aggregateVersion"]
        text = request.GET["at"]
        at = time_of(text)
        version = None
        if at is None:
            message = _("“%(text)s” is not a valid time. Write it as 2026-03-31T10:15.")
            messages.error(request, message % {"text": visible(text)})
        else:
            with in_time():
                version = drive(version_at(store, aggregate_id, at, last))
            if not version:
                messages.warning(request, _("The stream had no events at that time."))
                version = 1
        order = request.GET.get("order")
        url = self.url_of(
            "stream", "change", aggregate_id, version=version, order=order
        )
        return HttpResponseRedirect(str(url))

    def state_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Download the full state at a version."""
        store = connection.blocking()
        head = _head(store, from_address(object_id))
        Root = stream_lookups.class_of(head)
        if Root is None:
            raise Http404(_("No class is registered for this type."))
        version = version_of(request, head["aggregateVersion"])
        then = drive(
            load_state_at(store, Root, head["aggregateId"], version, most=LONGEST_FOLD)
        )
        if then is None:
            raise Http404(_("This state takes too many events to fold for a page."))
        if then.error is not None:
            raise Http404(str(then.error))
        try:
            state = stored_state(then.state, Root.aggregate_type)
        except InvalidState as error:
            raise Http404(str(error)) from None
        text = extended_json.dumps(extended_json.encode(state))
        return download(text, f"{head['aggregateId']}-{version}.json")

    def download_view(self, request: HttpRequest, object_id: str) -> Any:
        """Download the events as lines of JSON, as ``export_events`` writes them."""
        head = _head(connection.blocking(), from_address(object_id))
        aggregate_id = head["aggregateId"]
        is_async = hasattr(request, "scope")
        response = StreamingHttpResponse(
            _lines_async(aggregate_id) if is_async else _lines(aggregate_id),
            content_type="application/x-ndjson",
        )
        response["Content-Disposition"] = attachment(f"{aggregate_id}.jsonl")
        return response

    def rebuild_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Rebuild the snapshot, and record in the admin's log who did."""
        head = _head(connection.blocking(), from_address(object_id))
        aggregate_id = head["aggregateId"]
        if head["aggregateVersion"] > LONGEST_FOLD:
            raise Http404(_("This stream is too long to fold it for a page."))
        try:
            saved = AggregateRebuild.build_and_save(
                str(head.get("aggregateType")), aggregate_id
            )
        except (ReducerError, InvalidState, LookupError) as error:
            messages.error(request, visible(str(error)))
        else:
            version = saved["aggregateVersion"]
            text = _("Rebuilt the snapshot at version %(version)s.")
            messages.success(request, text % {"version": version})
            self.record(
                request,
                Stream(id=aggregate_id),
                f"Rebuilt the snapshot at version {version}.",
            )
        return HttpResponseRedirect(str(self.url_of("stream", "change", aggregate_id)))


def _head(store: connection.Store, aggregate_id: str) -> Document:
    try:
        head = drive(stream_lookups.last_event(store, aggregate_id))
    except ValueError:
        head = None
    if head is None:
        raise Http404(_("This stream does not exist."))
    return head


def _with_counts(names: list[str], counted: list[Tally]) -> list[tuple[str, str]]:
    """Return each type with a label: its name, and the last rebuild's stream count."""
    counts = {tally.aggregate_type: f" ({tally.streams})" for tally in counted}
    return [(name, visible(name)[:60] + counts.get(name, "")) for name in names]


def _lines(aggregate_id: str) -> Iterator[str]:
    return drive_each(export_events(connection.blocking(), [_events_of(aggregate_id)]))


async def _lines_async(aggregate_id: str) -> AsyncIterator[str]:
    store = await connection.awaitable()
    async for part in export_events(store, [_events_of(aggregate_id)]):
        yield part


def _events_of(aggregate_id: str) -> Document:
    return {"aggregateId": {"$eq": aggregate_id}, "aggregateVersion": VERSIONS}
