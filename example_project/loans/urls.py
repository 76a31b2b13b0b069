from django.urls import path, register_converter
from django.urls.converters import StringConverter

from . import views


class ApplicationId(StringConverter):
    """Any id that the store accepts, except for slashes."""

    regex = "[^/\0]{1,255}"


register_converter(ApplicationId, "application_id")

app_name = "loans"
urlpatterns = [
    path("", views.application_list, name="list"),
    path("desk/", views.desk, name="desk"),
    path("desk/events/", views.DeskEvents.as_view(), name="desk-events"),
    path("apply/", views.apply, name="apply"),
    path("applications/<application_id:application_id>/", views.detail, name="detail"),
    path(
        "applications/<application_id:stream>/events/",
        views.ApplicationEvents.as_view(),
        name="events",
    ),
    path(
        "applications/<application_id:application_id>/withdraw/",
        views.withdraw,
        name="withdraw",
    ),
]
