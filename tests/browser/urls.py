"""The admin, and pages with faults for the harness to find."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path

from ossy_event_store.admin import UserEventsMixin

admin.site.unregister(User)


@admin.register(User)
class UserWithEventsAdmin(UserEventsMixin, UserAdmin):
    """Lists what a user did on the user's page."""


WRONG = {
    "inline-script": "<script>document.title = 'it ran'</script>",
    "inline-style": "<p style='color: red'>red?</p>",
    "foreign-image": "<img alt='' src='http://foreign.invalid/x.png'>",
    "missing-script": "<script src='/nowhere.js'></script>",
    "throwing-script": "<script src='/throw.js'></script>",
    "image-without-alt": "<main><h1>Books</h1><img src='/static/admin/img/search.svg'>",
}


def wrong(request, name):
    return HttpResponse(
        f"<!doctype html><html lang=en><title>Wrong</title><body>{WRONG[name]}"
    )


def throw(request):
    return HttpResponse("throw Error('thrown')", content_type="text/javascript")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("wrong/<name>/", wrong),
    path("throw.js", throw),
    # Chromium asks every site for its icon.
    path("favicon.ico", lambda request: HttpResponse(status=204)),
]
