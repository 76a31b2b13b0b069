"""Views that push events; each chooses events and users in another way."""

from django.contrib.auth.models import User
from django.urls import path

from ossy_event_store.push.views import EventSourceView


def synchronous(get_response):
    """Synchronous middleware."""

    def answer(request):
        return get_response(request)

    return answer


class Everything(EventSourceView):
    query = ("stream", "type", "aggregate_type", "tag", "projection", "key")

    def may_see(self, request, wanted):
        return True


class Open(EventSourceView):
    async def may_see(self, request, wanted):
        return True


class Books(Open):
    aggregate_types = ["Book", "Shelf"]
    query = ("stream", "type", "aggregate_type")


class Ships(Open):
    tags = ["ship:s"]
    query = ("tag",)


class WithPayload(Open):
    @staticmethod
    def data(event):
        return {**EventSourceView.data(event), "payload": event["payload"]}


class ForUsers(EventSourceView):
    def may_see(self, request, wanted):
        return User.objects.filter(username=wanted.stream).exists()


class Forgotten(EventSourceView):
    def may_see(self, request, wanted):
        request.user  # noqa: B018 - and no return


def refused_by_a_coroutine(request, wanted):
    async def refused():
        return False

    return refused()


urlpatterns = [
    path("all/", Everything.as_view()),
    path("books/", Books.as_view()),
    path("ships/", Ships.as_view()),
    path("book/<str:stream>/", Open.as_view()),
    path("lent/", Open.as_view(types=["BookLent"])),
    path("payload/", WithPayload.as_view()),
    path("users/<str:stream>/", ForUsers.as_view()),
    path("forgotten/", Forgotten.as_view()),
    path("refused/", EventSourceView.as_view(may_see=refused_by_a_coroutine)),
    path("lively/", Open.as_view(heartbeat=0.05, types=["BookLent"])),
    path("brief/", Open.as_view(lifetime=0.2)),
]
