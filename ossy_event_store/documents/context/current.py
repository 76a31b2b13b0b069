"""
The context of this thread or task: an immutable value in a context variable.

``sync_to_async``, ``async_to_sync`` and tasks of an event loop copy context variables,
so they have it too. A thread that the project starts itself has none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from ..event_document import check_id
from ..storable import HALF_A_SURROGATE, is_text
from .headers import traceparent_of
from .requests import AskedRequest

_NOTHING: Mapping[str, Any] = MappingProxyType({})
# Ids of events that were imported are longer than new ones may be.
MAX_LINK_LENGTH = 1024


class Unset(Enum):
    """The type of ``UNSET``."""

    UNSET = "not given"


#: Nobody said who appends; ``None`` says that nobody does.
UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What is filled in where an event does not say it itself."""

    #: Keys of ``metadata``, among them ``correlationId``.
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    #: ``createdBy``; unless it is ``UNSET``, the request is not asked.
    created_by: str | Unset | None = UNSET
    #: What knows the user.
    request: AskedRequest | None = None
    #: ``traceparent``, unless OpenTelemetry has a span at the append.
    traceparent: str | None = None
    #: What has set it, and the context before that; ``event_context`` leaves by these.
    owner: Any = field(default=None, repr=False)
    outer: Context | None = field(default=None, repr=False)

    @property
    def asked(self) -> AskedRequest | None:
        """The request, if it is what says who appends."""
        return self.request if self.created_by is UNSET else None

    def metadata_now(self) -> dict[str, Any]:
        """Return the keys of ``metadata`` to fill in, at the moment of an append."""
        traceparent = span_traceparent() or self.traceparent
        if traceparent is None:
            return dict(self.metadata)
        return {"traceparent": traceparent, **self.metadata}


_current: ContextVar[Context | None] = ContextVar("event_context", default=None)


def current() -> Context | None:
    """Return the context; None fills in nothing."""
    return _current.get()


def enter(context: Context | None) -> None:
    """Set the context, without a way back."""
    _current.set(context)


class active:  # noqa: N801 - used like a function
    """Set the context, or none, for a block that does not yield."""

    __slots__ = ("_before", "_context")

    def __init__(self, context: Context | None) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._before = _current.get()
        _current.set(self._context)

    def __exit__(self, *_: object) -> None:
        _current.set(self._before)


def context_of(event: Mapping[str, Any]) -> Context:
    """
    Return the context of what handles a stored event, and appends because of it.

    Another program may have stored anything in its metadata.
    """
    event_id = str(event["_id"])
    stored = event.get("metadata")
    known: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    correlation = known.get("correlationId")
    try:
        check_link(correlation, "correlationId")
    except (TypeError, ValueError):
        correlation = event_id
    return Context(
        MappingProxyType({"correlationId": correlation, "causationId": event_id}),
        traceparent=traceparent_of(known.get("traceparent")),
    )


def check_link(value: Any, name: str) -> None:
    """Check a ``correlationId`` or ``causationId``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}.")
    if not 1 <= len(value) <= MAX_LINK_LENGTH:
        raise ValueError(
            f"{name} must have 1 to {MAX_LINK_LENGTH} characters, not {len(value)}."
        )
    if not is_text(value):
        raise ValueError(f"{name} {HALF_A_SURROGATE}.")


def check_created_by(value: Any, name: str = "createdBy") -> str | None:
    """Return a ``createdBy``: None, or a string of 1 to 255 characters."""
    return None if value is None else check_id(value, name)


def span_traceparent() -> str | None:
    """Return the current span of OpenTelemetry, if the process has imported that."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
