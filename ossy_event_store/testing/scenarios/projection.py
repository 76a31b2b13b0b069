"""Projections, without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import bson

from ...documents.bson_types import CODEC, Document
from ...documents.display import counted, visible
from ...documents.storable import copied
from ...projections.fold import Fold
from ...projections.projection import Projection
from ...push.event_filter import EventFilter
from ...verification.projection_fold import Expected, Missing, Share
from ..matching import Difference, changed, compared, listed
from .events import given_events
from .isolation import watched_for_clocks, without_store
from .scenario import failure

_EVERY_KEY = Share(0)


class ProjectionScenario:
    """
    Events, and the documents that a projection makes of them.

    Args:
        cls: the projection.
        events: as a test gives them, in global order. Those that it does not want are
            left out, as its subscription does.
    """

    def __init__(self, cls: type[Projection], events: Sequence[Any]) -> None:
        self.cls = cls
        kind = (cls.aggregate_types or ["Given"])[0]
        stream = {"aggregateId": "given", "aggregateType": kind}
        documents = given_events(events, stream)
        self._subject = f"given({cls.__name__}, {counted(len(documents), 'event')})"
        wanted = EventFilter(
            types=_set_of(cls.types),
            aggregate_types=_set_of(cls.aggregate_types),
            tags=_set_of(cls.tags),
        )
        for position, document in enumerate(documents, 1):
            document["position"] = position
        #: The events that it gets, as stored, with their positions.
        self.events = [one for one in documents if wanted.matches(one)]

    def __repr__(self) -> str:
        return f"<{self._subject}>"

    @property
    def documents(self) -> dict[Any, Any]:
        """The state of each key."""
        __tracebackhide__ = True
        return {key: one["state"] for key, one in self._folded(self.events).items()}

    def then(self, expected: Mapping[Any, Mapping[str, Any] | None]) -> Self:
        """
        Check which documents there are: these, and no others.

        Args:
            expected: for each key what its state must have; it may have more. None: it
                has no document.

        Raises:
            AssertionError: says for each key what differs.
        """
        __tracebackhide__ = True
        return self._then(expected, exact=False)

    def then_exactly(self, expected: Mapping[Any, Mapping[str, Any] | None]) -> Self:
        """Check the same, and that no state has other fields."""
        __tracebackhide__ = True
        return self._then(expected, exact=True)

    def then_nothing(self) -> Self:
        """Check that there is no document."""
        __tracebackhide__ = True
        return self._then({}, exact=True)

    def _then(self, expected: Mapping[Any, Any], *, exact: bool) -> Self:
        __tracebackhide__ = True
        given: Any = expected
        if not isinstance(given, Mapping):
            kind = type(given).__name__
            raise TypeError(f"expected must be a dict of keys and states, not {kind}.")
        documents, found = self.documents, list[Difference]()
        wanted = {key: one for key, one in expected.items() if one is not None}
        for key in {**wanted, **documents}:
            pair = (
                ({key: wanted[key]} if key in wanted else {}),
                ({key: documents[key]} if key in documents else {}),
            )
            found += compared((), *pair, exact=exact or key not in wanted)
        if found:
            text = f"made other documents than expected\n{listed(found)}"
            raise failure(self._subject, text)
        return self

    def then_same_after_replay(self) -> Self:
        """
        Check that its documents do not depend on how the events are delivered.

        They are applied all at once; in two parts at each event, with the documents
        stored between them and the last event delivered twice; and as
        ``verify_event_store`` does. Its methods must not ask for the time.

        Raises:
            AssertionError: says how they were delivered, and what differs.
        """
        __tracebackhide__ = True
        with watched_for_clocks() as asked:
            whole = self._folded(self.events)
        if asked:
            names = ", ".join(sorted(asked))
            text = f"asked for the time: {names}. A rebuild would make other documents"
            raise failure(self._subject, text)
        self._compare("when they were applied again", whole, self._folded(self.events))
        for cut, event in enumerate(self.events, 1):
            first = self._folded(self.events[:cut])
            # A process that was killed gets the last event again.
            both = self._folded(self.events[cut - 1 :], first)
            name = f"event {event['position']} ({visible(event['type'])})"
            self._compare(f"in two parts, the first up to {name}", whole, both)
        self._verify(whole)
        return self

    def _folded(
        self, events: list[Document], stored: Mapping[Any, Document] | None = None
    ) -> dict[Any, Document]:
        """Return the documents after some events, as they are stored, by key."""
        __tracebackhide__ = True
        old: dict[Any, Document] = dict(stored or {})
        with without_store(self.cls.__name__):
            fold = Fold(self.cls, copied(events))
            fold.load(copied(old))
            fold.advance()
        for failed in fold.failed.values():
            position = failed.event["position"]
            failed.error.add_note(f"It is of event {position} of {self._subject}.")
            raise failed.error
        for key in fold.deleted():
            old.pop(key, None)
        for new in fold.changed():
            old[new["_id"]] = bson.decode(bson.encode(new, codec_options=CODEC), CODEC)
        return old

    def _compare(
        self, how: str, whole: Mapping[Any, Document], other: Mapping[Any, Document]
    ) -> None:
        __tracebackhide__ = True
        if found := changed(whole, other):
            text = f"made other documents {how}\n{listed(found)}"
            raise failure(self._subject, text)

    def _verify(self, whole: Mapping[Any, Document]) -> None:
        """Compare the documents with what ``verify_event_store`` expects."""
        __tracebackhide__ = True
        expected = Expected(self.cls, _EVERY_KEY, Missing())
        expected.choose(list(whole))
        expected.add_stored(copied(list(whole.values())))
        with without_store(self.cls.__name__):
            findings = list(expected.fold(copied(self.events)))
        findings += [one for one, _ in expected.differences() if one is not None]
        if findings:
            lines = (
                f"  {one.subject}: expected {one.expected}, found {one.found}"
                for one in findings
            )
            text = "would not pass verify_event_store\n" + "\n".join(lines)
            raise failure(self._subject, visible(text))


def _set_of(names: Any) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
