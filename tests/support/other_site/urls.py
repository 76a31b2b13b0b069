"""An admin site of the project's own, and the views of the app."""

from django.contrib.admin import AdminSite
from django.urls import path

from ossy_event_store.admin import EventAdmin, StreamAdmin, SubscriptionAdmin
from ossy_event_store.health import HealthView
from ossy_event_store.models import Event, Stream, Subscription

site = AdminSite(name="support")
site.register(Stream, StreamAdmin)
site.register(Event, EventAdmin)
site.register(Subscription, SubscriptionAdmin)

urlpatterns = [path("desk/", site.urls), path("health/", HealthView.as_view())]
