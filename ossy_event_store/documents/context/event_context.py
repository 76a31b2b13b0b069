"""
``event_context``: say who appends and because of what, for a block or a function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

from nanoid import generate

from ...exceptions import InvalidEvent
from ..bson_types import Document
from ..storable import NEW, Unstorable, stored_mapping
from . import carrying
from .current import (
    UNSET,
    Context,
    check_created_by,
    check_link,
    context_of,
    current,
    enter,
)

F = TypeVar("F", bound=Callable[..., Any])


class event_context:  # noqa: N801 - used like a function
    """
    Fill in the events that a block, or a decorated function, appends.

    ``with event_context(createdBy="import", note="import 7"):`` or
    ``@event_context(createdBy="import")``, in coroutines too. Blocks nest: an inner one
    adds to the outer one and wins. What an event says itself wins over both. Do not
    yield inside of the block.

    Args:
        createdBy: who; ``None`` says that nobody does, in a request too.
        metadata: keys of the events' ``metadata``. If nothing gives a
            ``correlationId``, the outermost block makes one up; ``causationId`` is the
            id of the event because of which these are appended.

    Raises:
        InvalidEvent: MongoDB cannot store a value.
        TypeError, ValueError: ``createdBy`` or an id is not a string, or is too long.
    """

    def __init__(self, *, createdBy: Any = UNSET, **metadata: Any) -> None:
        if createdBy is not UNSET:
            createdBy = check_created_by(createdBy)
        for name in ("correlationId", "causationId"):
            if name in metadata:
                check_link(metadata[name], name)
        try:
            stored = stored_mapping(metadata, NEW)
        except Unstorable as error:
            raise InvalidEvent(f"metadata.{error.path}", error.reason) from None

        def inside(outer: Context | None) -> Context:
            return _inside(outer, createdBy, stored)

        self._make: Callable[[Context | None], Context] = inside

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """
        Return the context of what handles a stored event, for a consumer of your own.

        What is appended in it gets the event's correlation, and the event as its cause.
        Nothing of the context around it counts. Handlers of subscriptions have it.

        Raises:
            TypeError: it is not a stored event.
        """
        known: Any = event
        if not isinstance(known, Mapping) or "_id" not in known:
            raise TypeError(
                "event must be an event as it is stored, a dict with an _id, not "
                f"{type(event).__name__}."
            )
        return cls._made(context_of(event))

    @classmethod
    def carried(cls, carried: Mapping[str, Any] | None) -> Self:
        """
        Return the context that ``carry()`` returned elsewhere, for a task of a queue.

        Args:
            carried: what came with the task; None or ``{}`` fills in nothing, whatever
                the context around it is.

        Raises:
            TypeError, ValueError: it is not what ``carry()`` returns.
        """
        return cls._made(carrying.unpacked(carried))

    @staticmethod
    def carry() -> dict[str, Any]:
        """
        Return the context as a dict of JSON, to give to a task of a queue.

        In a request it asks ``request.user``. Without a context it is ``{}``.
        """
        context = current()
        asked = None if context is None else context.asked
        return carrying.packed(context, None if asked is None else asked.who())

    @staticmethod
    async def acarry() -> dict[str, Any]:
        """See ``carry()``; it asks ``request.auser()``."""
        context = current()
        asked = None if context is None else context.asked
        who = None if asked is None else await asked.awho()
        return carrying.packed(context, who)

    @classmethod
    def _made(cls, context: Context) -> Self:
        made = cls.__new__(cls)
        made._make = lambda outer: context
        return made

    def __enter__(self) -> None:
        outer = current()
        made = self._make(outer)
        enter(
            Context(
                made.metadata,
                made.created_by,
                made.request,
                made.traceparent,
                owner=self,
                outer=outer,
            )
        )

    def __exit__(self, *_: object) -> None:
        # Not with a token: threads and tasks may share one instance.
        entered = current()
        while entered is not None and entered.owner is not self:
            entered = entered.outer
        if entered is not None:
            enter(entered.outer)

    def __call__(self, function: F) -> F:
        """Return a function, or a coroutine function, that runs in this context."""
        _check_function(function)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast(F, awaited)

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(F, called)


def _inside(outer: Context | None, created_by: Any, metadata: Document) -> Context:
    if outer is None:
        outer = Context()
    inner = {**outer.metadata, **metadata}
    if "correlationId" not in inner:
        inner["correlationId"] = generate()
    return Context(
        MappingProxyType(inner),
        outer.created_by if created_by is UNSET else created_by,
        outer.request,
        outer.traceparent,
    )


def _check_function(function: Any) -> None:
    if not callable(function):
        raise TypeError(
            "event_context() decorates a function, not "
            f"{type(function).__name__}; as a block, write with event_context(...):"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"event_context() cannot decorate {function.__name__}(), a generator: what "
            "iterates over it would run in its context as well. Put with "
            "event_context(...): around the appends inside of it."
        )
