"""
The middleware: what a request appends says who did it, and belongs together.

``MIDDLEWARE += ["ossy_event_store.middleware.EventContext"]``, anywhere in the list.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from types import MappingProxyType
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from nanoid import generate

from .conf import context_options
from .documents.context.current import Context, active, span_traceparent
from .documents.context.headers import id_of, network_of, trace_id_of, traceparent_of
from .documents.context.requests import AskedRequest

CORRELATION_HEADER = "X-Correlation-ID"


class EventContext:
    """
    Fill in ``createdBy`` and ``metadata`` of the events that a request appends.

    ``createdBy`` is the request's user at the moment of the append; the middleware
    itself makes no query. ``metadata.correlationId`` is that of the header
    ``X-Correlation-ID``, the trace id of ``traceparent``, or a new one; the response
    has it in its header. The setting ``CONTEXT`` says more.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(
        self, request: HttpRequest
    ) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Respond, in the context of the request."""
        if self.is_async:
            return self._respond(request)
        context = context_of_request(request)
        with active(context):
            response = self.get_response(request)
        return _finished(response, context)

    async def _respond(self, request: HttpRequest) -> HttpResponseBase:
        context = context_of_request(request)
        with active(context):
            response = await self.get_response(request)
        return _finished(response, context)


def context_of_request(request: HttpRequest) -> Context:
    """Return the context of a request; headers that are not what they should be go."""
    options = context_options()

    def header(name: str) -> str | None:
        return request.headers.get(name) if options.TRUST_HEADERS else None

    traceparent = traceparent_of(header("traceparent"))
    trace = span_traceparent() or traceparent
    metadata = {
        "correlationId": id_of(header(CORRELATION_HEADER))
        or (trace_id_of(trace) if trace else generate())
    }
    if options.REQUEST_ID and (request_id := id_of(header("X-Request-ID"))):
        metadata["requestId"] = request_id
    if options.ADDRESS and (network := network_of(request.META.get("REMOTE_ADDR"))):
        metadata["ip"] = network
    return Context(
        MappingProxyType(metadata),
        request=AskedRequest(request),
        traceparent=traceparent,
    )


def _finished(response: HttpResponseBase, context: Context) -> HttpResponseBase:
    correlation = context.metadata["correlationId"]
    response.headers.setdefault(CORRELATION_HEADER, correlation)
    # A server reads the body later. It may have a fast way to send a file, which a
    # wrapper would close; and a file appends nothing.
    if isinstance(response, StreamingHttpResponse) and not isinstance(
        response, FileResponse
    ):
        parts: Any = response.streaming_content
        if response.is_async:
            response.streaming_content = _each_awaited(parts, context)
        else:
            response.streaming_content = _each(parts, context)
    return response


_END = object()


def _each(parts: Iterator[bytes], context: Context) -> Iterator[bytes]:
    """Yield the parts of a body, each made in the context of its request."""
    while True:
        with active(context):
            part = next(parts, _END)
        if part is _END:
            return
        yield cast(bytes, part)


async def _each_awaited(
    parts: AsyncGenerator[bytes, None], context: Context
) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            with active(context):
                part = await anext(parts, _END)
            if part is _END:
                return
            yield cast(bytes, part)
    finally:  # also if the browser disconnects
        with active(context):
            await parts.aclose()
