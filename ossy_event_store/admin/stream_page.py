"""The page of one stream: its timeline, its state at a version, and its snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest

from ..documents.bson_types import Document
from ..documents.diff import changes
from ..documents.display import brief, lines, visible
from ..documents.event_document import stored_state
from ..exceptions import InvalidState
from ..mongodb.connection import Store
from ..mongodb.ports import drive
from ..streams.context.tree import cause_of
from ..streams.past.state_at_version import StateAtVersion, load_state_at
from . import stream_lookups
from .base import SNAPSHOT_STATUS, StoreModelAdmin, may
from .context.causes import causes_of
from .query_string import version_of

TIMELINE_SIZE = 100  # versions on one page of the timeline
LONG_STREAM = 2000  # events; above, folding from the first event is only on request
LONGEST_FOLD = 50_000  # events that a request folds, about half a second


class StreamPage:
    """
    What the page of a stream shows at one version.

    Args:
        admin: knows the URLs.
        request: who asks, and for which version.
        store: the blocking face of the store.
        head: the last event of the stream.
    """

    def __init__(
        self, admin: StoreModelAdmin, request: HttpRequest, store: Store, head: Document
    ) -> None:
        self.admin = admin
        self.request = request
        self.store = store
        self.head = head
        self.aggregate_id: str = head["aggregateId"]
        self.last: int = head["aggregateVersion"]
        self.version = version_of(request, self.last)
        self.newest_first = request.GET.get("order") != "oldest"
        self.may_open = may(request, "view_event")

    def context(self) -> dict[str, Any]:
        """Return the context of the template."""
        Root = stream_lookups.class_of(self.head)
        then = self._moment(Root)
        return {
            "stream": self.admin.event_row(self.request, self.head),
            "version": self.version,
            "last": self.last,
            "steps": self._steps(),
            **self._timeline(),
            "may_open": self.may_open,
            "moment": moment_row(then),
            "is_registered": Root is not None,
            "state_url": self._url("state", version=self.version),
            "download_url": self._url("download"),
            "code": self._code(Root) if Root else None,
            "snapshot": self._snapshot(then),
        }

    def _url(self, page: str, **query: Any) -> str | None:
        return self.admin.url_of("stream", page, self.aggregate_id, **query)

    def _version_url(self, version: Any) -> str | None:
        """Return the URL of a version in the same order, None if it does not exist."""
        if not (isinstance(version, int) and 1 <= version <= self.last):
            return None
        order = None if self.newest_first else "oldest"
        return self._url("change", version=version, order=order)

    def _steps(self) -> dict[str, str | None]:
        version, last = self.version, self.last
        return {
            "first": self._version_url(1) if version != 1 else None,
            "previous": self._version_url(version - 1),
            "next": self._version_url(version + 1),
            "last": self._version_url(last) if version != last else None,
        }

    def _timeline(self) -> dict[str, Any]:
        """Return the page of the timeline that holds the version."""
        first = (self.version - 1) // TIMELINE_SIZE * TIMELINE_SIZE + 1
        end = first + TIMELINE_SIZE
        events = drive(
            stream_lookups.timeline(
                self.store, self.aggregate_id, first, end - 1, self.may_open
            )
        )
        rows = [self.admin.event_row(self.request, event) for event in events]
        causes = drive(causes_of(self.store, events)) if self.may_open else {}
        for row, event in zip(rows, events, strict=True):
            if cause := causes.get(cause_of(event) or ""):
                row["cause"] = self.admin.event_row(self.request, cause)
            row["is_current"] = row["version"] == self.version
            row["version_url"] = self._version_url(row["version"])
        other_order = "oldest" if self.newest_first else "newest"
        return {
            "events": rows[::-1] if self.newest_first else rows,
            "first_listed": first,
            "last_listed": min(self.last, end - 1),
            "newest_first": self.newest_first,
            "older_events": self._version_url(first - 1),
            "newer_events": self._version_url(end),
            "other_order": self._url("change", version=self.version, order=other_order),
        }

    def _moment(self, Root: Any) -> StateAtVersion | None:
        """Return the state at the version, for users who may see it."""
        if not self.may_open or Root is None:
            return None
        fresh = "fresh" in self.request.GET or self.last <= LONG_STREAM
        return drive(
            load_state_at(
                self.store,
                Root,
                self.aggregate_id,
                self.version,
                ignore_snapshot=fresh and self.last <= LONGEST_FOLD,
                most=LONGEST_FOLD if fresh else LONG_STREAM,
            )
        )

    def _code(self, Root: Any) -> str:
        """Return the Python that loads the stream at the version."""
        moment = f", at_version={self.version}" if self.version != self.last else ""
        return (
            "from ossy_event_store import Aggregate\n"
            f"from {Root.__module__} import {Root.__qualname__.split('.')[0]}\n\n"
            f"Aggregate.of({Root.__qualname__}, {self.aggregate_id!a}{moment})"
        )

    def _snapshot(self, then: StateAtVersion | None) -> dict[str, Any] | None:
        """Return how the snapshot compares to its stream, for users who may see it."""
        if not may(self.request, "view_snapshot"):
            return None
        stored = drive(stream_lookups.snapshot_of(self.store, self.head))
        status = stream_lookups.snapshot_status(self.head, stored)
        may_rebuild = may(self.request, "rebuild_snapshot") and status != "unregistered"
        is_long = self.last > LONGEST_FOLD
        row: dict[str, Any] = {
            "status": status,
            "status_text": SNAPSHOT_STATUS[status],
            "is_same": None,
            "compare_url": None if is_long else self._url("change", fresh=1),
            "rebuild_url": self._url("rebuild")
            if may_rebuild and not is_long
            else None,
            "is_long": is_long,
        }
        if stored is not None:
            row["version"] = brief(stored.get("aggregateVersion"))
            row["revision"] = visible(str(stored.get("revision")))[:200]
            row["saved"] = stored.get("saved")
        if status == "current" and then and self._is_fresh(then):
            query = {"_id": {"$eq": self.aggregate_id}}
            row["is_same"] = _is_same(drive(self.store.snapshots.find_one(query)), then)
        return row

    def _is_fresh(self, then: StateAtVersion) -> bool:
        """Whether the last state was folded from the first event, without an error."""
        return not (then.snapshot_version or then.error) and then.version == self.last


def moment_row(then: StateAtVersion | None) -> dict[str, Any] | None:
    """Return what the template shows of a state, and of the changes that led to it."""
    if then is None:
        return None
    row: dict[str, Any] = {
        "reached": then.folded_version,
        "since": then.snapshot_version,
        "error": None if then.error is None else visible(then.error.error),
        "error_version": None if then.error is None else then.error.version,
        "state": lines(then.state),
    }
    if then.before is not None:
        diff = changes(then.before, then.state)
        row["changes"] = _change_rows(diff.items)
        row["more"] = diff.more
    return row


def _change_rows(changed: Sequence[Any]) -> list[dict[str, str]]:
    return [
        {
            "where": visible(change.where),
            "kind": change.kind,
            "old": brief(change.old),
            "new": brief(change.new),
        }
        for change in changed
    ]


def _is_same(snapshot: Document | None, then: StateAtVersion) -> bool | None:
    if snapshot is None or snapshot.get("aggregateVersion") != then.version:
        return None
    try:
        fresh = stored_state(then.state, snapshot["aggregateType"])
    except InvalidState:
        return False
    stored = snapshot.get("state")
    return isinstance(stored, dict) and not changes(stored, fresh, limit=1).items
