"""
Push to the browser: new events as server-sent events, from an asynchronous view.

The protocol is that of the browser's own ``EventSource``. The id of a message is the
position of its event, which the browser sends back as ``Last-Event-ID`` when it
connects again. A message has no name of its own, so that ``onmessage`` gets every
event; what comes from an event stands in one line of JSON. The only name that there is
says that something was lost: ``reset``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import logging
import random
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from asgiref.sync import SyncToAsync, iscoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.generic import View
from pymongo.errors import PyMongoError

from ..documents.bson_types import Document
from ..documents.event_document import check_id
from ..documents.extended_json import dumps, encode, iso
from ..exceptions import StoreUnavailable
from ..mongodb.write_errors import short_reason
from ..projections import projection as projections_projection
from .live_feed import EventFilter, Notice, listening

logger = logging.getLogger("ossy_event_store")

FACTS = ("aggregateId", "aggregateType", "aggregateVersion", "type")
#: What the path or the query string may say, and the attribute that it sets.
PARAMETERS = {
    "stream": "stream",
    "type": "types",
    "aggregate_type": "aggregate_types",
    "projection": "projection",
    "key": "key",
}
SEVERAL = ("type", "aggregate_type")
POSITION = re.compile(r"[0-9]{1,18}")  # more digits than a position can have
HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would wait for more
    # Django's GZipMiddleware would as well, and leaves alone what has an encoding.
    "Content-Encoding": "identity",
}


class EventSourceView(View):
    """
    Sends new events to a browser's ``EventSource``. Needs ASGI and a replica set.

    A subclass, or ``as_view()``, has to give ``may_see``. All attributes can be given
    to ``as_view()``.
    """

    http_method_names = ["get"]  # a HEAD would never end

    #: Only the events of this stream; a part of the path of this name sets it as well.
    stream: str | None = None
    #: Only events of these types; in a path ``type``.
    types: Sequence[str] | None = None
    #: Only events of aggregates of these types; in a path ``aggregate_type``.
    aggregate_types: Sequence[str] | None = None
    #: An event is sent once the projection of this name has applied it.
    projection: str | None = None
    #: Only events with this key in the projection.
    key: str | None = None
    #: What the query string may choose, any of ``stream``, ``type``,
    #: ``aggregate_type``, ``projection`` and ``key``. What the view sets can be
    #: narrowed, and never widened.
    query: Sequence[str] = ()
    #: Seconds between two signs of life.
    heartbeat = 15.0
    #: Seconds after which a browser connects again.
    retry = 3.0
    #: Seconds after which an answer ends. The browser connects again, and whether it
    #: may is asked anew.
    lifetime = 900.0

    def may_see(self, request: HttpRequest, wanted: EventFilter) -> Any:
        """
        Return whether this request may see what it wants, or a coroutine of it.

        Required. If it is no coroutine it runs in a thread, and may use the ORM.
        """
        raise NotImplementedError

    @staticmethod
    def data(event: Document) -> Mapping[str, Any]:
        """
        Return what is sent of an event; the payload is not, unless you add it.

        It is called once for all who listen, so it can't know who they are.
        """
        created = event.get("created")
        if isinstance(created, dt.datetime):
            created = iso(created)
        return {
            "position": event["position"],
            **{name: event.get(name) for name in FACTS},
            "created": created,
            "createdBy": event.get("createdBy"),
        }

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """
        Return the view.

        Raises:
            ImproperlyConfigured: nothing says who may see the events.
        """
        if cls.may_see is EventSourceView.may_see and "may_see" not in initkwargs:
            raise ImproperlyConfigured(
                f"{cls.__name__} needs may_see(request, wanted): it says who may see "
                "the events. For everybody write: return True."
            )
        given = {name: initkwargs.get(name, getattr(cls, name)) for name in _LISTS}
        for name, value in given.items():
            if isinstance(value, str):
                raise ImproperlyConfigured(f"{cls.__name__}.{name} must be a list.")
        if unknown := set(given["query"]) - PARAMETERS.keys():
            raise ImproperlyConfigured(
                f"{cls.__name__}.query has {sorted(unknown)}. "
                f"Known: {', '.join(PARAMETERS)}."
            )
        return super().as_view(**initkwargs)

    async def get(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Answer with a stream, or with one line that says why not."""
        if not isinstance(request, ASGIRequest):
            return _refusal(501, "Server-sent events need Django to be run by ASGI.")
        try:
            wanted = self.wanted(request)
            after, returns = _after(request)
        except (TypeError, ValueError) as error:
            return _refusal(400, str(error))
        if not await self._may_see(request, wanted):
            raise PermissionDenied
        return StreamingHttpResponse(
            _Parts(self._stream(wanted, after, returns)),
            content_type="text/event-stream; charset=utf-8",
            headers=HEADERS,
        )

    def wanted(self, request: HttpRequest) -> EventFilter:
        """
        Return what this request asks for.

        Raises:
            ValueError, TypeError: it asks for what it can't have; answered with 400.
        """
        for name in request.GET:
            if name not in (*self.query, "after"):
                raise ValueError(f"There is no parameter {name!r} here.")
        values = {
            attribute: self._value(name, attribute, request)
            for name, attribute in PARAMETERS.items()
        }
        wanted = EventFilter(**values)
        if wanted.key is not None and wanted.projection is None:
            raise ValueError("A key is one of a projection: give that as well.")
        known = [None, *projections_projection.registered_projections()]
        if wanted.projection not in known:
            raise ValueError(f"There is no projection {wanted.projection!r}.")
        return wanted

    def _value(self, name: str, attribute: str, request: HttpRequest) -> Any:
        fixed = getattr(self, attribute)
        asked = [self.kwargs[name]] if name in self.kwargs else []
        asked = asked or request.GET.getlist(name)
        for value in asked:
            check_id(value, name)
            allowed = fixed if name in SEVERAL else [fixed]
            if fixed is not None and value not in allowed:
                raise ValueError(f"{name} {value!r} is not sent here.")
        if name in SEVERAL:
            chosen = asked or fixed
            return None if chosen is None else frozenset(chosen)
        if len(asked) > 1:
            raise ValueError(f"Only one {name} can be asked for.")
        return asked[0] if asked else fixed

    async def _may_see(self, request: HttpRequest, wanted: EventFilter) -> bool:
        if iscoroutinefunction(self.may_see):
            allowed = await self.may_see(request, wanted)
        else:
            allowed = await sync_to_async(self.may_see)(request, wanted)
            if inspect.isawaitable(allowed):  # what would be true in any case
                allowed = await allowed
        return bool(allowed)

    async def _stream(
        self, wanted: EventFilter, after: int | None, returns: bool
    ) -> AsyncGenerator[bytes, None]:
        await _let_the_thread_go()  # now that all middleware has seen the answer
        # Not all at once, after a start when all had come at once.
        end = monotonic() + self.lifetime * random.uniform(0.8, 1.0)  # noqa: S311
        told = after
        yield f"retry: {round(self.retry * 1000)}\n\n".encode()
        async with listening(wanted, after, returns=returns) as listener:
            while (left := end - monotonic()) > 0:
                try:
                    found = await listener.take(min(self.heartbeat, left))
                except (PyMongoError, StoreUnavailable) as error:
                    # The browser comes again with the position that it has.
                    logger.warning("A listener is let go: %s", short_reason(error))
                    return
                if listener.is_ended:
                    return
                if found:
                    yield b"".join(self._text(notice, wanted) for notice in found)
                    told = found[-1].position
                elif listener.position != told:
                    told = listener.position
                    # No message, but the browser takes note of the position.
                    yield f"id: {told}\n\n".encode()
                else:
                    yield b":\n\n"

    def _text(self, notice: Notice, wanted: EventFilter) -> bytes:
        if notice.event is None:
            data: Mapping[str, Any] = {"position": notice.position}
            return _message(notice.position, data, b"event: reset\n")
        # A function of a class is the same for all of its views.
        shared = (self.data, wanted.projection, wanted.key)
        if shared not in notice.texts:
            data = self.data(notice.event)
            if wanted.projection is not None:
                data = {**data, "projection": wanted.projection, "key": wanted.key}
            notice.texts[shared] = _message(notice.position, data)
        return notice.texts[shared]


_LISTS = ("types", "aggregate_types", "query")


class _Parts:
    """
    The parts of an answer, which end with it.

    When a browser goes while it is written to, Django drops what gives the parts
    where it stands. It does close the answer, in another thread.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self._parts = parts
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._parts

    def close(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    async def _end(self) -> None:
        await self._parts.aclose()


def _message(position: int, data: Mapping[str, Any], name: bytes = b"") -> bytes:
    # JSON writes line ends as escapes: no value can end its line and begin another.
    line = dumps(encode(dict(data))).encode()
    return b"%bid: %d\ndata: %b\n\n" % (name, position, line)


def _after(request: HttpRequest) -> tuple[int | None, bool]:
    """
    Return the position that the request knows, and whether it was connected before.

    The header is newer than the address, which an ``EventSource`` keeps.
    """
    last = request.headers.get("Last-Event-ID")
    given = last or request.GET.get("after")
    if not given:
        return None, False
    if not POSITION.fullmatch(given):
        raise ValueError("Last-Event-ID, or after, must be the position of an event.")
    return int(given), bool(last)


async def _let_the_thread_go() -> None:
    """
    End the thread in which middleware and ``may_see`` ran, with its connections.

    Django keeps one for every request until that ends, which here may take hours; if
    one is needed again, a new one begins.
    """
    request = SyncToAsync.thread_sensitive_context.get(None)
    if request is None:
        return  # not a server's
    if request in SyncToAsync.context_to_thread_executor:
        await sync_to_async(_close_connections)()
        thread = SyncToAsync.context_to_thread_executor.pop(request)
        thread.shutdown(wait=False)


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # as in a test
            connection.close()


def _refusal(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain")
