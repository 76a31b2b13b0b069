"""``given()``: test rules and projections without a server. Pure."""

from __future__ import annotations

from typing import Any, overload

from ..documents.boundaries.model import Boundary
from ..projections.projection import Projection
from .scenarios.aggregate import AggregateScenario
from .scenarios.boundary import BoundaryScenario
from .scenarios.projection import ProjectionScenario


@overload
def given(subject: Boundary, /, *events: Any) -> BoundaryScenario: ...
@overload
def given(subject: type[Projection], /, *events: Any) -> ProjectionScenario: ...
@overload
def given(
    subject: type, /, *events: Any, aggregate_id: str = ...
) -> AggregateScenario: ...
def given(subject: Any, /, *events: Any, aggregate_id: str = "given") -> Any:
    """
    Begin a test without a server: these events have been stored.

    Each event is built and checked as an append does it, in the given order. The first
    one is of ``2026-01-01T00:00:00Z``, the next one a second later, and so on, unless
    they say ``created``.

    Args:
        subject: what is tested: an aggregate class, a boundary with its parameters, or
            a projection.
        events: each an object of a class with ``@event``; a dict of an event, also one
            as it is stored; or a type: its name, or a class with ``@event``, of which
            an object is made. A dict with ``typeVersion`` is what was stored at that
            version: upcasters read it.
        aggregate_id: the id of an aggregate's stream, unless its first event says it.

    Returns:
        ``.when(decide).then(…)`` for an aggregate or a boundary; for a projection
        ``.then({key: state})``.

    Raises:
        EventStoreError: the store would refuse an event; a note says which one.
        AssertionError: a boundary would not select an event.
    """
    __tracebackhide__ = True
    if isinstance(subject, Boundary):
        return BoundaryScenario(subject, events)
    if isinstance(subject, type) and issubclass(subject, Projection):
        return ProjectionScenario(subject, events)
    if isinstance(subject, type) and issubclass(subject, Boundary):
        raise TypeError(f"Give {subject.__name__}(…) with its parameters.")
    return AggregateScenario(subject, aggregate_id, events)
