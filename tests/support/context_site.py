"""Views that append in every way, and none of which says who does it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from ossy_event_store import Aggregate, EventStore, event_context
from tests.library.aggregate import Reader

MIDDLEWARE = [
    "ossy_event_store.middleware.EventContext",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TOGETHER = 4  # requests to a path that append at the same moment


class Meeting:
    """Lets no request to a path go on before several have come there."""

    def __init__(self):
        self.barriers = {}
        self.lock = threading.Lock()
        self.is_on = False

    def wait(self, name):
        if self.is_on:
            with self.lock:
                barrier = self.barriers.setdefault(name, threading.Barrier(TOGETHER))
            barrier.wait(60)

    async def await_others(self, name):
        # A thread for each: those of the loop are fewer than the requests that wait.
        with ThreadPoolExecutor(1) as thread:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(thread, self.wait, name)


meeting = Meeting()


def event_of(request):
    """Return an event whose payload says what the test expects of it."""
    event = {
        "type": "Seen",
        "aggregateId": request.GET.get("stream", "r-1"),
        "aggregateType": "Reader",
        "payload": request.GET.dict(),
    }
    return event | ({"id": request.GET["id"]} if "id" in request.GET else {})


def blocking(request):
    meeting.wait("blocking")
    EventStore.append_event(event_of(request))
    return HttpResponse("stored")


async def awaitable(request):
    await meeting.await_others("awaitable")
    await EventStore.aappend_event(event_of(request))
    return HttpResponse("stored")


async def in_thread(request):
    await meeting.await_others("in_thread")
    await sync_to_async(EventStore.append_event)(event_of(request))
    return HttpResponse("stored")


def in_loop(request):
    meeting.wait("in_loop")
    async_to_sync(EventStore.aappend_event)(event_of(request))
    return HttpResponse("stored")


async def carried_in_loop(request):
    return JsonResponse(event_context.carry())


def carried(request):
    return JsonResponse(event_context.carry())


async def carried_async(request):
    return JsonResponse(await event_context.acarry())


def rest(request):
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from tests.support.context_tokens import Tokens

    class Rest(APIView):
        authentication_classes = [Tokens]

        def post(self, request):
            meeting.wait("rest")
            EventStore.append_event(event_of(request._request))
            return Response("stored")

        get = post

    return Rest.as_view()(request)


def nothing(request):
    return HttpResponse("nothing")


def streamed(request):
    def parts():
        for _ in range(2):
            EventStore.append_event(event_of(request))
            yield b"part"

    return StreamingHttpResponse(parts())


async def streamed_async(request):
    async def parts():
        for _ in range(2):
            await EventStore.aappend_event(event_of(request))
            yield b"part"

    return StreamingHttpResponse(parts())


def executed(request):
    """Append in every other way that the blocking face has."""
    event = {"type": "Seen"}
    reader = Aggregate.of(Reader, {**event, "aggregateId": "of"})
    reader.add(event, event)
    Aggregate.execute(Reader, "of", lambda reader: event)
    EventStore.append_streams({"streams": [{**event, "aggregateType": "Reader"}]})
    with EventStore.transaction() as t:
        Aggregate.of(Reader, {**event, "aggregateId": "t"}, session=t.session)
    Aggregate.of(Reader, "of").continue_as("successor", event).close("enough")
    EventStore.append_event({**event, "tags": ["tag:1"]})
    return HttpResponse("stored")


async def executed_async(request):
    """The same, through the awaitable face."""
    event = {"type": "Seen"}
    reader = await Aggregate.aof(Reader, {**event, "aggregateId": "of"})
    await reader.aadd(event, event)
    await Aggregate.aexecute(Reader, "of", lambda reader: event)
    streams = {"streams": [{**event, "aggregateType": "Reader"}]}
    await EventStore.aappend_streams(streams)
    async with EventStore.atransaction() as t:
        new = {**event, "aggregateId": "t"}
        await Aggregate.aof(Reader, new, session=t.session)
    successor = await (await Aggregate.aof(Reader, "of")).acontinue_as(
        "successor", event
    )
    await successor.aclose("enough")
    await EventStore.aappend_event({**event, "tags": ["tag:1"]})
    return HttpResponse("stored")


def explicit(request):
    for fields in ({"createdBy": "given"}, {"createdBy": None}, {}):
        with event_context(createdBy="block", note="n"):
            EventStore.append_event({**event_of(request), **fields})
    return HttpResponse("stored")


def logs_in(request):
    from django.contrib.auth import login
    from django.contrib.auth.models import User

    EventStore.append_event(event_of(request))
    user = User.objects.get(username=request.GET["name"])
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    EventStore.append_event(event_of(request))
    return HttpResponse("stored")


VIEWS = [blocking, awaitable, in_thread, in_loop, rest, nothing, streamed]
VIEWS += [streamed_async, executed, executed_async, explicit, logs_in]
VIEWS += [carried, carried_async, carried_in_loop]
urlpatterns = [path(f"{view.__name__}/", view) for view in VIEWS]
