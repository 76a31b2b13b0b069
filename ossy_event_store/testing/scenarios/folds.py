"""Fold a stream in parts, as snapshots do, and see that the state is the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import bson

from ...documents.bson_types import CODEC, Document
from ...documents.display import visible
from ...documents.storable import copied
from ...exceptions import InvalidState, ReducerError
from ...streams.reducers import fold
from ...streams.snapshots import build_snapshot
from ..matching import changed, listed
from .isolation import watched_for_clocks


def check_folds(Root: Any, events: list[Document]) -> None:
    """
    Check that a reducer gives the same state from each snapshot of a stream.

    Args:
        Root: the aggregate class.
        events: of one stream, as stored; they are not changed.

    Raises:
        AssertionError: it does not; says where, and what differs.
        ReducerError: it cannot fold all events at once.
    """
    __tracebackhide__ = True
    if events:
        _Folds(Root, events).check()


class _Folds:
    """The folds of one stream."""

    def __init__(self, Root: Any, events: list[Document]) -> None:
        self._Root = Root
        self._name = f"{Root.__name__}.view"
        self._events = events

    def check(self) -> None:
        __tracebackhide__ = True
        before = copied(self._events)
        first = self._fold_all()
        if before != self._events:  # where Django runs no tests, fold() does not look
            self._fail("changed the events that it got; it must copy what it changes")
        again = fold(self._Root, self._events, {})
        what = "gave another state when it folded the same events again"
        self._compare(what, first, again)
        whole = self._saved(first, len(self._events))
        steps: Mapping[str, Any] = {}
        for cut, event in enumerate(self._events, 1):
            where = f"from a snapshot after event {cut} ({visible(event['type'])})"
            saved = self._saved(fold(self._Root, self._events[:cut], {}), cut)
            rest = self._events[cut:]
            self._compare(
                f"gave another state {where}", whole, self._fold_on(saved, rest, where)
            )
            where = f"event by event, with a snapshot after each, at event {cut}"
            steps = self._fold_on(steps, [event], where)
            self._compare(f"gave another state {where}", saved, steps)

    def _fold_all(self) -> Mapping[str, Any]:
        __tracebackhide__ = True
        with watched_for_clocks() as asked:
            # A copy: it may keep the state, or parts of it, and change them later.
            state: Mapping[str, Any] = copied(fold(self._Root, self._events, {}))
        if asked:
            names = ", ".join(sorted(asked))
            self._fail(
                f"asked for the time: {names}. A fold of next year would give another "
                "state; take the time from the event"
            )
        return state

    def _fold_on(
        self, saved: Mapping[str, Any], rest: list[Document], where: str
    ) -> Mapping[str, Any]:
        """Return the state of further events, as it would be saved."""
        __tracebackhide__ = True
        try:
            state = fold(self._Root, rest, dict(saved))
        except ReducerError as error:
            self._fail(f"cannot fold {where}\n  {visible(str(error))}", error)
        return self._saved(state, len(self._events))

    def _saved(self, state: Mapping[str, Any], version: int) -> Document:
        """Return a state as it comes back from its snapshot."""
        __tracebackhide__ = True
        stream = self._events[0]["aggregateId"]
        try:
            snapshot = build_snapshot(self._Root, stream, version, state)
        except InvalidState as error:
            what = f"gave a state after event {version} that no snapshot can hold"
            self._fail(f"{what}\n  {visible(str(error))}", error)
        found: Document = bson.decode(snapshot.encoded.raw, CODEC)["state"]
        return found

    def _compare(
        self, what: str, whole: Mapping[str, Any], other: Mapping[str, Any]
    ) -> None:
        __tracebackhide__ = True
        if found := changed(whole, other):
            self._fail(f"{what}\n{listed(found)}")

    def _fail(self, text: str, cause: BaseException | None = None) -> NoReturn:
        __tracebackhide__ = True
        raise AssertionError(f"{self._name} {text}") from cause
