"""The rules of an aggregate, without a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from ...aggregate import Aggregate
from ...documents.bson_types import Document
from ...documents.display import counted
from ...documents.event_document import check_id
from ...documents.storable import copied
from ...exceptions import AggregateTypeMismatch, InvalidEvent
from ...streams.closing.checks import is_closing
from ...streams.execute import decided_events
from ...streams.new_events import Event, NewEvents
from ...streams.reducers import check_reducer, fold
from .events import appended, given_events
from .folds import check_folds
from .isolation import without_store
from .scenario import Scenario

_MORE_THAN_ONE = "the events are of more than one stream; an aggregate has one"


class DetachedAggregate(Aggregate):
    """An aggregate without a store: it keeps what is added."""

    def __init__(self, Root: Any, aggregate_id: str, events: list[Document]) -> None:
        super().__init__(Root, aggregate_id, events)
        self._given = list(events)
        #: What was added, also to the stream that continues this one.
        self.appended: list[Document] = []

    def _append(self, documents: NewEvents, session: Any) -> Self:
        new = appended([*self._given, *self.appended], documents)
        self.appended += new
        self.events += [one for one in new if one["aggregateId"] == self.id]
        self.is_closed = is_closing(self.events[-1])
        return self

    async def _aappend(self, documents: NewEvents, session: Any) -> Self:
        return self._append(documents, session)

    def continue_as(
        self,
        successor_id: str,
        *summary: Event,
        reason: str | None = None,
        created_by: str | None = None,
        session: Any = None,
    ) -> Self:
        """End the stream, and return the aggregate that continues it."""
        documents = self._continuing(successor_id, summary, reason, created_by)
        self._append(documents, session)
        new = [one for one in documents if one["aggregateId"] == successor_id]
        return type(self)(self.Root, successor_id, new)

    async def acontinue_as(
        self, successor_id: str, *summary: Event, **options: Any
    ) -> Self:
        """See ``continue_as()``."""
        return self.continue_as(successor_id, *summary, **options)

    def save(self) -> Self:
        """Check that the state can be saved."""
        self._snapshot()
        return self

    async def asave(self) -> Self:
        """See ``save()``."""
        return self.save()


class AggregateScenario(Scenario):
    """
    The events of a stream, and decisions on them; ``given(Book, …)`` returns it.

    Args:
        Root: the aggregate class.
        aggregate_id: the id of the stream, if no event says it.
        events: as a test gives them.
    """

    def __init__(self, Root: Any, aggregate_id: str, events: Sequence[Any]) -> None:
        self.Root = check_reducer(Root)
        check_id(aggregate_id)
        stream = {"aggregateId": aggregate_id, "aggregateType": Root.aggregate_type}
        documents = given_events(events, stream, of_one_stream=True)
        for one in documents:
            if one["aggregateId"] != documents[0]["aggregateId"]:
                raise InvalidEvent("aggregateId", _MORE_THAN_ONE)
            if one["aggregateType"] != Root.aggregate_type:
                kinds = (Root.aggregate_type, one["aggregateType"])
                raise AggregateTypeMismatch(one["aggregateId"], *kinds)
        #: The id of the stream.
        self.id = documents[0]["aggregateId"] if documents else aggregate_id
        name = f"given({Root.__name__}, {counted(len(documents), 'event')})"
        super().__init__(name, documents)

    def _decided(self, decide: Callable[[Any], Any]) -> list[Document]:
        aggregate = DetachedAggregate(self.Root, self.id, self._own_events())
        result = decide(aggregate)
        # A function that calls add() may return the aggregate, as add() does.
        is_aggregate = isinstance(result, DetachedAggregate)
        if events := [] if is_aggregate else decided_events(result):
            aggregate.add(*events)
        return aggregate.appended

    def _own_events(self) -> list[Document]:
        found = [one for one in self.events if one["aggregateId"] == self.id]
        own: list[Document] = copied(found)
        return own

    def _view(self) -> Any:
        events = self._own_events()
        return fold(self.Root, events, {}, self.id)

    def fold_in_parts(self) -> Self:
        """
        Check that a snapshot could be taken after each event.

        The events are folded in full, and in two parts at each event: the state between
        them is saved and read again, as a snapshot is. All must give the same state.
        The reducer must not ask for the time, and must give the same state again.

        Raises:
            AssertionError: says at which event, and what differs.
            ReducerError: the reducer cannot fold the events in full.
        """
        __tracebackhide__ = True
        self._pass_on()
        with without_store(f"{self.Root.__name__}.view"):
            check_folds(self.Root, self._own_events())
        return self
