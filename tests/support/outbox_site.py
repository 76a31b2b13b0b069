"""A site that saves a group, and says what was appended before its view returned."""

from django.contrib import admin
from django.contrib.auth.models import Group
from django.http import JsonResponse
from django.urls import path

from ossy_event_store import EventStore


def groups(request):
    Group.objects.create(name="a")
    if request.POST.get("fails") == "x":
        raise ValueError("after the group was saved")
    return JsonResponse({"before": EventStore.exists("group-a")})


urlpatterns = [path("groups/", groups), path("admin/", admin.site.urls)]
