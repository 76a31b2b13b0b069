"""
Build a query: each method returns a new one, and nothing connects.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from bson import ObjectId

from ...documents.arguments import check_moment, check_number
from ...documents.context.current import check_link
from ...documents.event_document import check_id
from ...documents.query_guard import check_query
from ...exceptions import InvalidQuery
from . import conditions
from .conditions import OF_POSITIONS, Conditions
from .plan import ORDERS, Order


@dataclass(frozen=True)
class BuiltQuery:
    """The methods that say which events, and in which order."""

    _conditions: Conditions = field(default_factory=Conditions)
    _order: Order | None = None
    _backwards: bool = False
    _may_scan: bool = False
    #: How many to leave out, and where to end.
    _start: int = 0
    _stop: int | None = None

    def stream(self, aggregate_id: str) -> Self:
        """Only events of a stream; in order of version, unless positions are given."""
        return self._with("stream", streams=(check_id(aggregate_id),))

    def streams(self, *aggregate_ids: str) -> Self:
        """Only events of some streams, 32 at most."""
        return self._with(
            "streams", streams=conditions.check_some(aggregate_ids, "aggregate_ids")
        )

    def types(self, *types: str | type[Any]) -> Self:
        """
        Only events of some types, 32 at most.

        Args:
            types: names, or classes that ``@event`` declares. Events that are stored
                under an alias, or that an upcaster makes into such an event, count too.
        """
        return self._with("types", types=conditions.check_types(types))

    def aggregate_types(self, *aggregate_types: str) -> Self:
        """Only events of streams of some types, 32 at most."""
        names = conditions.check_some(aggregate_types, "aggregate_types")
        return self._with("aggregate_types", aggregate_types=names)

    def tags(self, *tags: str, any: Sequence[str] | None = None) -> Self:  # noqa: A002
        """
        Only events that have all of some tags.

        Args:
            tags: all of these.
            any: a list of tags, and one of these.
        """
        found: dict[str, Any] = {}
        if any is not None:
            found["any_tags"] = conditions.check_list(any, "any")
        if tags or any is None:
            found["tags"] = conditions.check_some(tags, "tags")
        return self._with("tags", **found)

    def by(self, created_by: str) -> Self:
        """Only events with this ``createdBy``."""
        return self._with("by", by=check_id(created_by, "created_by"))

    def since(self, moment: dt.datetime) -> Self:
        """Only events recorded at a moment or later."""
        return self._with("since", since=check_moment(moment, "moment"))

    def until(self, moment: dt.datetime) -> Self:
        """Only events recorded before a moment."""
        return self._with("until", until=check_moment(moment, "moment"))

    def between(self, first: dt.datetime, end: dt.datetime) -> Self:
        """Only events recorded at ``first`` or later, and before ``end``."""
        check_moment(first, "first")
        check_moment(end, "end")
        return self._with("between", since=first, until=end)

    def after_version(self, version: int) -> Self:
        """Only events of the stream after a version; ``stream()`` comes before."""
        check_number(version, "version")
        if len(self._conditions.streams or ()) != 1:
            raise InvalidQuery("after_version", "needs one stream(), named before it")
        return self._with("after_version", after_version=version)

    def after(self, position: int) -> Self:
        """Only events after a position, in order of position."""
        return self._with("after", after=check_number(position, "position"))

    def until_position(self, position: int) -> Self:
        """Only events up to a position, this one included, in order of position."""
        check_number(position, "position")
        return self._with("until_position", until_position=position)

    def correlation(self, correlation_id: str) -> Self:
        """Only events with this ``metadata.correlationId``."""
        check_link(correlation_id, "correlation_id")
        return self._with("correlation", correlation=correlation_id)

    def caused_by(self, event_id: ObjectId | str) -> Self:
        """Only events that an event caused: by its id, in ``metadata.causationId``."""
        if not isinstance(event_id, ObjectId):
            check_link(event_id, "event_id")
        return self._with("caused_by", caused_by=str(event_id))

    def ids(self, *ids: ObjectId | str) -> Self:
        """Only the events with some ids, 50 at most; an ``ObjectId`` may be text."""
        return self._with("ids", ids=conditions.check_ids(ids))

    def match(self, query: Mapping[str, Any]) -> Self:
        """
        Only events that match a filter of MongoDB; see ``EventStore.find_events()``.

        No index finds them: it filters what another condition finds.
        """
        return self._with("match", match=check_query(query))

    def order(self, order: Order) -> Self:
        """
        Return the same events in another order.

        Args:
            order: ``"version"`` for one stream, ``"position"`` for the global order, or
                ``"created"`` for the time at which they were recorded. By default that
                of the version for one stream; of the position if all conditions are on
                streams, types, aggregate types, tags and positions; else of the time.
        """
        if not isinstance(order, str):
            raise TypeError(f"order must be a string, not {type(order).__name__}.")
        if order not in ORDERS:
            raise InvalidQuery(
                "order", f"must be one of {', '.join(map(repr, ORDERS))}"
            )
        if self._order is not None:
            raise InvalidQuery("order", f"is already {self._order!r}")
        if order == "version" and len(self._conditions.streams or ()) != 1:
            raise InvalidQuery("order", "'version' needs one stream(), named before it")
        self._refuse_a_slice("order")
        _check_order(order, self._conditions)
        return replace(self, _order=order)

    def reverse(self) -> Self:
        """Return the same events, the last one first."""
        self._refuse_a_slice("reverse")
        return replace(self, _backwards=not self._backwards)

    def scan(self) -> Self:
        """
        Allow a query that no index answers, or answers badly.

        It may read every event, a page at a time; each page has to be found within the
        setting ``TIMEOUT``.
        """
        return replace(self, _may_scan=True)

    def _with(self, method: str, **given: Any) -> Self:
        """Return the query with more conditions."""
        self._refuse_a_slice(method)
        for name, value in given.items():
            if getattr(self._conditions, name) is not None:
                before = f"{name.replace('any_tags', 'tags')}() was given before"
                raise InvalidQuery(method, f"{before}; give it once")
            given[name] = value
        found = replace(self._conditions, **given)
        if found.since and found.until and found.since > found.until:
            raise InvalidQuery(method, "the first moment is after the last one")
        last = found.until_position
        if last is not None and (found.after or 0) > last:
            raise InvalidQuery(method, "the first position is after the last one")
        if self._order is not None:
            _check_order(self._order, found)
        return replace(self, _conditions=found)

    def _refuse_a_slice(self, method: str) -> None:
        if self._start or self._stop is not None:
            raise InvalidQuery(method, "comes before a slice, not after it")


def _check_order(order: Order, wanted: Conditions) -> None:
    if order != "position" and wanted.given & OF_POSITIONS:
        reason = "cannot be combined with after() or until_position()"
        raise InvalidQuery("order", f"{order!r} {reason}")
